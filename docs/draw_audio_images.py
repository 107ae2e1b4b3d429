"""Draw the pictures of docs/audio-images.md from one clip of the demo data set: `make docs-images`."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from avfuse.features.audio_images import render
from avfuse.features.media import decode
from avfuse.manifests.demo import render_demo
from avfuse.pipeline.report.figures.contact_sheet import INK, PAPER, draw_images

FOLDER = Path(__file__).parent / "images"
SIZE = (240, 480)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        clip, *_ = render_demo(
            Path(folder), groups=2, clips_per_group=1, classes=["FluteRising"], n_jobs=1, progress=False
        )
        media = decode(Path(folder) / clip.path, frames="uniform:8")
    assert media.waveform is not None
    samples, rate_hz = media.waveform.samples, media.waveform.rate_hz
    for style in ("aligned", "paper"):
        sheet = draw_images(render(samples, rate_hz, style=style), media)
        sheet.quantize(255, dither=Image.Dither.NONE).save(FOLDER / f"audio-images-{style}.png", optimize=True)
    alignment(samples, rate_hz).quantize(255, dither=Image.Dither.NONE).save(FOLDER / "alignment.png", optimize=True)


def alignment(samples: np.ndarray, rate_hz: int) -> Image.Image:
    """The centroid curve on the clip's own timeline, and where the reference tool puts it."""
    pictures = {
        "on the clip's own timeline (aligned)": render(samples, rate_hz, size=SIZE),
        "at frame times of 22 050 Hz (paper)": render(samples, rate_hz, style="paper", size=SIZE),
    }
    height, width = SIZE
    sheet = Image.new("RGB", (2 * width + 48, height + 52), PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, (title, images) in enumerate(pictures.items()):
        left = 16 + index * (width + 16)
        pen.text((left, 12), title, fill=INK, font=ImageFont.load_default(13))
        sheet.paste(Image.fromarray(images["spectral_centroids"]), (left, 36))
    return sheet


if __name__ == "__main__":
    main()
