"""Media with every trap that files lay for a reader, made on the spot.

Each file shows a flash and plays a click at the same moment, so that picture and sound can be seen to stay together.
"""

import os
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS, FRAMES, HEIGHT, WIDTH = 25, 50, 48, 64
FLASH_FRAME = 30
FLASH_SECONDS = FLASH_FRAME / FPS


def pictures(
    count: int = FRAMES, flash: int | None = FLASH_FRAME, height: int = HEIGHT, width: int = WIDTH
) -> np.ndarray:
    """uint8 (count, height, width, 3): a drifting texture whose level tells the rank, one frame white."""
    texture = np.random.default_rng(0).integers(0, 60, (height, width + count, 3))
    frames = np.stack([texture[:, rank : rank + width] + 20 + rank % 50 for rank in range(count)]).astype(np.uint8)
    if flash is not None and flash < count:
        frames[flash] = 255
    return frames


def click(
    seconds: float = FRAMES / FPS, at: float = FLASH_SECONDS, rate_hz: int = 44100, channels: int = 1
) -> np.ndarray:
    """float32 (channels, samples): a faint hiss and one loud burst of 8 ms."""
    samples = 0.01 * np.random.default_rng(1).standard_normal((channels, round(seconds * rate_hz)))
    first = round(at * rate_hz)
    samples[:, first : first + round(0.008 * rate_hz)] = 0.9
    return samples.astype(np.float32)


def encode_av1(path: Path) -> Path:
    """Started as root, SVT-AV1 makes the thread that opens it a real-time one, which would starve all other processes
    for as long as the tests run."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        pixels = pictures(height=96, width=128)
        return encode(path, pixels, click(), video_codec="libsvtav1", options={"preset": "10"})
    finally:
        os.sched_setscheduler(0, *before)


def encode(
    path: Path,
    frames: np.ndarray | None,
    sound: np.ndarray | None = None,
    *,
    rate_hz: int = 44100,
    layout: str = "mono",
    video_codec: str = "libx264",
    audio_codec: str = "aac",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    starts: list[float] | None = None,
    sound_from: float = 0.0,
) -> Path:
    """Write a file. starts: each frame's start in seconds, where these are not even; sound_from: when sound begins."""
    muxer = {"avoid_negative_ts": "disabled"} if path.suffix == ".avi" else {}
    with av.open(str(path), "w", options=muxer) as container:
        picture_packets: list[av.Packet] = []
        if frames is not None:
            stream = container.add_stream(video_codec, rate=FPS, options=options or {})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = pixel_format
            stream.bit_rate = 2_000_000
            stream.codec_context.time_base = Fraction(1, 1000) if starts else Fraction(1, FPS)
            for rank, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = round(starts[rank] * 1000) if starts else rank
                frame.time_base = stream.codec_context.time_base
                picture_packets += stream.encode(frame)
        sound_stream = None
        if sound is not None:
            sound_stream = container.add_stream(audio_codec, rate=rate_hz, layout=layout)
        # The header is written with the first packet: all streams are there by now.
        if frames is not None:
            picture_packets += stream.encode(None)
        sound_packets: list[av.Packet] = []
        if sound_stream is not None:
            resampler = av.AudioResampler(format=sound_stream.codec_context.format, layout=layout, rate=rate_hz)
            for first in range(0, sound.shape[1], 1024):
                piece = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(sound[:, first : first + 1024]), format="fltp", layout=layout
                )
                piece.sample_rate = rate_hz
                piece.pts = first + round(sound_from * rate_hz)
                piece.time_base = Fraction(1, rate_hz)
                for converted in resampler.resample(piece):
                    sound_packets += sound_stream.encode(converted)
            sound_packets += sound_stream.encode(None)
        for packet in sorted(picture_packets + sound_packets, key=lambda each: (each.dts or 0) * each.time_base):
            container.mux(packet)
    return path


def cut_without_encoding(source: Path, target: Path, start: float) -> Path:
    """Copy packets from `start` on: the picture from the key frame before it, which an edit list then hides."""
    with av.open(str(source)) as read, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as written:
        copies = {stream.index: written.add_stream_from_template(stream) for stream in read.streams}
        video = read.streams.video[0]
        packets = [packet for packet in read.demux() if packet.size]
        keys = [p.pts * p.time_base for p in packets if p.stream is video and p.is_keyframe]
        key = max(time for time in keys if time <= start)
        for packet in packets:
            first = key if packet.stream is video else Fraction(start)
            if packet.pts * packet.time_base < first:
                continue
            shift = round(Fraction(start) / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = copies[packet.stream_index]
            written.mux(packet)
    return target


STUB = b"\0\0\1\xb6\x51\x00"  # an MPEG-4 picture that says "not coded"


def pack_b_frames(source: Path, target: Path) -> Path:
    """Store MPEG-4 as XviD and DivX do in AVI, UCF101's way: a frame that others lean on shares its packet with the
    first B-frame before it, and a stub keeps the count. Timestamps then mean nothing."""
    with av.open(str(source)) as read, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as written:
        stream = read.streams.video[0]
        copy, sound_copy = (written.add_stream_from_template(each) for each in read.streams)
        packets = [packet for packet in read.demux() if packet.size]
        units = [bytes(packet) for packet in packets if packet.stream is stream]
        is_b = [unit[unit.index(b"\0\0\1\xb6") + 4] >> 6 == 2 for unit in units]
        packed: list[bytes] = []
        for rank, unit in enumerate(units):
            if is_b[rank] and not is_b[rank - 1]:
                packed[-1] += unit
                packed.append(STUB)
            elif is_b[rank]:
                packed[-1:] = [unit, STUB]
            else:
                packed.append(unit)
        packed[0] = packed[0].replace(b"\0\0\1\xb6", b"\0\0\1\xb2DivX503b1393p\0\0\1\xb6", 1)
        for rank, content in enumerate(packed):
            packet = av.Packet(content)
            packet.pts = packet.dts = rank
            packet.time_base = Fraction(1, FPS)
            packet.is_keyframe = rank == 0
            packet.stream = copy
            written.mux(packet)
        for packet in packets:
            if packet.stream is not stream:
                packet.stream = sound_copy
                written.mux(packet)
    return target


def turn_upright_flag(path: Path) -> Path:
    """Write a quarter turn into the first track header of an MP4 file."""
    content = bytearray(path.read_bytes())
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
    at = content.index(upright, content.index(b"tkhd"))
    content[at : at + 36] = turned
    path.write_bytes(content)
    return path


def claim_centuries(path: Path) -> Path:
    """Set every duration in an MP4 file's headers to the largest there is."""
    content = bytearray(path.read_bytes())
    for name, offset in ((b"mvhd", 16), (b"mdhd", 16), (b"tkhd", 20)):
        at = content.find(name)
        while at >= 0:
            content[at + 4 + offset : at + 8 + offset] = b"\x7f\xff\xff\xff"
            at = content.find(name, at + 4)
    path.write_bytes(content)
    return path


def cut_at(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


H264_B = {"bf": "3", "g": "25", "b_strategy": "0", "threads": "1"}
UNEVEN = [round(0.04 * rank + (0.3 if rank > 20 else 0) + 0.013 * (rank % 3), 3) for rank in range(FRAMES)]

READABLE: dict[str, Callable[[Path], object]] = {
    "plain.mp4": lambda p: encode(p, pictures(), click(), options={"bf": "0", "threads": "1"}),
    "b_frames.mp4": lambda p: encode(p, pictures(), click(), options=H264_B),
    "b_frames.mkv": lambda p: encode(
        p, pictures(), click(rate_hz=48000), options=H264_B, audio_codec="libopus", rate_hz=48000
    ),
    "plain.avi": lambda p: encode(p, pictures(), click(), video_codec="mpeg4", audio_codec="libmp3lame"),
    "b_frames.avi": lambda p: encode(
        p, pictures(), click(), video_codec="mpeg4", audio_codec="libmp3lame", options={"bf": "2", "b_strategy": "0"}
    ),
    "packed.avi": lambda p: pack_b_frames(
        encode(
            p.with_name("unpacked.avi"),
            pictures(),
            click(),
            video_codec="mpeg4",
            audio_codec="libmp3lame",
            options={"bf": "2", "b_strategy": "0"},
        ),
        p,
    ),
    "edit_list.mp4": lambda p: cut_without_encoding(
        encode(
            p.with_name("uncut.mp4"),
            pictures(90, flash=35 + FLASH_FRAME),
            click(3.6, at=1.4 + FLASH_SECONDS),
            options={**H264_B, "g": "50"},
        ),
        p,
        1.4,
    ),
    "variable_rate.mp4": lambda p: encode(
        p, pictures(), click(3, at=UNEVEN[FLASH_FRAME]), starts=UNEVEN, options={"threads": "1"}
    ),
    "variable_rate.mkv": lambda p: encode(
        p, pictures(), click(3, at=UNEVEN[FLASH_FRAME]), starts=UNEVEN, options={"threads": "1"}
    ),
    "late_sound.mp4": lambda p: encode(
        p, pictures(), click(1.4, at=FLASH_SECONDS - 0.6), sound_from=0.6, options={"threads": "1"}
    ),
    "surround.mkv": lambda p: encode(
        p, pictures(), click(rate_hz=48000, channels=6), rate_hz=48000, layout="5.1", audio_codec="ac3"
    ),
    "telephone.mkv": lambda p: encode(p, pictures(), click(rate_hz=8000), rate_hz=8000, audio_codec="pcm_s16le"),
    "rotated.mp4": lambda p: turn_upright_flag(encode(p, pictures(), click(), options={"threads": "1"})),
    "ten_bit.mp4": lambda p: encode(p, pictures(), click(), pixel_format="yuv420p10le", options={"threads": "1"}),
    "full_colour.mp4": lambda p: encode(p, pictures(), click(), pixel_format="yuv444p", options={"threads": "1"}),
    "gray.mkv": lambda p: encode(p, pictures(), click(), video_codec="ffv1", pixel_format="gray"),
    "long_sound.mp4": lambda p: encode(p, pictures(), click(3.5), options={"threads": "1"}),
    "centuries.mp4": lambda p: claim_centuries(encode(p, pictures(), click(), options=H264_B)),
    "broadcast.ts": lambda p: encode(p, pictures(), click(), video_codec="mpeg2video", audio_codec="mp2"),
    "h264.avi": lambda p: encode(p, pictures(), click(), options=H264_B, audio_codec="libmp3lame"),
    "mpeg4.mp4": lambda p: encode(p, pictures(), click(), video_codec="mpeg4", options={"bf": "2", "b_strategy": "0"}),
    "hidden_frames.webm": lambda p: encode(
        p,
        pictures(),
        click(rate_hz=48000),
        video_codec="libvpx-vp9",
        options={"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5"},
        audio_codec="libopus",
        rate_hz=48000,
    ),
    "av1.mp4": lambda p: encode_av1(p),
    "h264.ts": lambda p: encode(p, pictures(), click(), options=H264_B),
}
"""Files of which every frame decodes, with a flash and a click."""
