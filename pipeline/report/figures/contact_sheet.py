"""Contact sheets of a clip: frames with their times over the sound, or its audio images."""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from avfuse.features.media import Frames, Media

TILE_WIDTH = 240
MARGIN, GAP, LABEL_HEIGHT, SOUND_HEIGHT = 16, 8, 18, 96
PAPER, INK, FAINT, ACCENT = "#ffffff", "#202428", "#aab0b6", "#2a6fbb"


def draw(media: Media) -> Image.Image:
    """Frames of a clip with their times over its waveform, where each frame has a mark. RGB.

    Raises ClipError where the picture's size changes within the clip.
    """
    tiles = _tiles(media.frames) if media.frames is not None else []
    columns = max(1, min(len(tiles), math.ceil(math.sqrt(len(tiles)))))
    rows = math.ceil(len(tiles) / columns)
    tile_height = tiles[0].height if tiles else 0
    width = 2 * MARGIN + max(columns * (TILE_WIDTH + GAP) - GAP, 3 * TILE_WIDTH)
    sound_top = MARGIN + rows * (tile_height + LABEL_HEIGHT + GAP)
    sheet = Image.new(
        "RGB", (width, sound_top + (SOUND_HEIGHT + LABEL_HEIGHT if media.waveform else 0) + MARGIN), PAPER
    )
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for index, tile in enumerate(tiles):
        assert media.frames is not None
        row, column = divmod(index, columns)
        left = MARGIN + column * (TILE_WIDTH + GAP)
        top = MARGIN + row * (tile_height + LABEL_HEIGHT + GAP)
        sheet.paste(tile, (left, top))
        label = f"{media.frames.times[index]:.3f} s"
        pen.text((left, top + tile_height + 2), label, fill=INK, font=font)
        rank = f"frame {media.frames.indices[index]}"
        pen.text((left + TILE_WIDTH, top + tile_height + 2), rank, fill=FAINT, font=font, anchor="ra")
    if media.waveform is not None:
        _draw_sound(pen, media, (MARGIN, sound_top, width - MARGIN, sound_top + SOUND_HEIGHT))
    return sheet


def draw_images(pictures: Mapping[str, NDArray[np.uint8]], media: Media) -> Image.Image:
    """Named audio images, three in a row, over a strip of the clip's frames. RGB.

    Over full-bleed pictures and the strip alike, time runs from left to right.
    """
    height, width, _ = next(iter(pictures.values())).shape
    columns = min(3, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    sheet_width = 2 * MARGIN + columns * (width + GAP) - GAP
    frames = _strip(media.frames, sheet_width - 2 * MARGIN) if media.frames is not None else None
    bottom = MARGIN + rows * (height + LABEL_HEIGHT + GAP)
    strip_height = frames.height + LABEL_HEIGHT if frames is not None else 0
    sheet = Image.new("RGB", (sheet_width, bottom + strip_height + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for index, (name, pixels) in enumerate(pictures.items()):
        row, column = divmod(index, columns)
        left, top = MARGIN + column * (width + GAP), MARGIN + row * (height + LABEL_HEIGHT + GAP)
        pen.text((left, top), name, fill=INK, font=font)
        sheet.paste(Image.fromarray(pixels), (left, top + LABEL_HEIGHT))
    if frames is not None and media.frames is not None:
        sheet.paste(frames, (MARGIN, bottom))
        times = f"frames from {media.frames.times[0]:.2f} to {media.frames.times[-1]:.2f} s"
        pen.text((MARGIN, bottom + frames.height + 2), times, fill=INK, font=font)
    return sheet


def _strip(frames: Frames, width: int) -> Image.Image:
    """Frames side by side, `width` pixels wide together."""
    count, height, frame_width, _ = frames.pixels.shape
    edges = np.linspace(0, width, count + 1).astype(int).tolist()
    strip = Image.new("RGB", (width, max(1, round(width / count * height / frame_width))))
    for pixels, (left, right) in zip(frames.pixels, pairwise(edges), strict=True):
        tile = Image.fromarray(pixels).resize((right - left, strip.height), Image.Resampling.BICUBIC)
        strip.paste(tile, (left, 0))
    return strip


def _tiles(frames: Frames) -> list[Image.Image]:
    _, height, width, _ = frames.pixels.shape
    size = (TILE_WIDTH, max(1, round(TILE_WIDTH * height / width)))
    return [Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC) for pixels in frames.pixels]


def _draw_sound(pen: ImageDraw.ImageDraw, media: Media, box: tuple[int, int, int, int]) -> None:
    """Envelope of the sound from the clip's start to its end, with a tick at each frame's start."""
    assert media.waveform is not None
    waveform = media.waveform
    left, top, right, bottom = box
    middle, half = (top + bottom) / 2, (bottom - top) / 2
    edges = np.linspace(0, len(waveform.samples), right - left + 1).astype(int)
    peak = float(np.abs(waveform.samples).max()) or 1.0
    for x, (first, last) in enumerate(pairwise(edges.tolist())):
        piece = waveform.samples[first : max(last, first + 1)]
        pen.line(
            (left + x, middle - half * float(piece.max()) / peak, left + x, middle - half * float(piece.min()) / peak),
            fill=ACCENT,
        )
    font = ImageFont.load_default(12)
    duration = waveform.duration_seconds
    for time in media.frames.times if media.frames is not None else ():
        x = left + (right - left) * (time - media.start) / duration
        if left <= x <= right:
            pen.line((x, top, x, bottom), fill=INK)
    pen.text((left, bottom + 2), f"sound from {media.start:.3f} s", fill=INK, font=font)
    pen.text((right, bottom + 2), f"{media.start + duration:.3f} s", fill=INK, font=font, anchor="ra")
