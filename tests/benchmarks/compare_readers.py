"""How many of the frames that a reader returns are those asked for: `make compare-readers CLIPS=FOLDER`.

Of every clip, 25 evenly spread frames are asked for by their index, as users of these libraries do, and held against a
plain sequential decode. A frame is wrong when its mean absolute difference is 1 level or more. Prints a Markdown table.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from bench_media import decord
from numpy.typing import NDArray
from plain_decode import Plain
from tqdm import tqdm

from avfuse.features.errors import ClipError
from avfuse.features.media import MEDIA_SUFFIXES, decode
from avfuse.features.media.sampling import segment_centres

try:
    from torchcodec.decoders import VideoDecoder
except (ImportError, RuntimeError):
    VideoDecoder = None

FRAMES = 25
Read = Callable[[Path, list[int]], NDArray[np.uint8]]


@dataclass
class Score:
    clips: int = 0
    refused: int = 0
    clips_wrong: int = 0
    frames_wrong: int = 0
    seconds: float = 0.0


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: make compare-readers CLIPS=FOLDER")
    paths = sorted(path for path in Path(sys.argv[1]).rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES)
    scores = {name: Score() for name in READERS}
    undecodable = []
    for path in tqdm(paths, unit="clip"):
        try:
            plain = Plain(path)
        except av.error.FFmpegError:
            undecodable.append(path.name)
            continue
        indices = segment_centres(len(plain.times), FRAMES).tolist()
        pixels = plain.pixels(set(indices))
        for name, read in READERS.items():
            judge(scores[name], read, path, indices, [pixels[index] for index in indices])
    print("| reader | clips read | refused or failed | clips with a wrong frame | wrong frames | seconds |")
    print("|---|---|---|---|---|---|")
    for name, score in scores.items():
        counts = f"{score.clips} | {score.refused} | {score.clips_wrong} | {score.frames_wrong} | {score.seconds:.1f}"
        print(f"| {name} | {counts} |")
    if undecodable:
        print(f"\nNot compared, since a plain decode ends with an error: {', '.join(undecodable)}")


def judge(score: Score, read: Read, path: Path, indices: list[int], truth: list[NDArray[np.uint8]]) -> None:
    start = time.perf_counter()
    try:
        frames = read(path, indices)
    except Exception:  # noqa: BLE001  (each library fails in its own way; what counts is that it gave no frames)
        score.refused += 1
        return
    score.seconds += time.perf_counter() - start
    score.clips += 1
    wrong = sum(
        ours.shape != theirs.shape or np.abs(ours.astype(int) - theirs).mean() >= 1
        for ours, theirs in zip(frames, truth, strict=True)
    )
    score.clips_wrong += wrong > 0
    score.frames_wrong += wrong


def with_avfuse(reader: str) -> Read:
    def read(path: Path, _: list[int]) -> NDArray[np.uint8]:
        media = decode(path, f"uniform:{FRAMES}", audio=False, reader=reader)
        if media.frames is None:
            raise media.frames_error or ClipError("decode", "no frames")
        return media.frames.pixels

    return read


def with_decord_by_index(path: Path, indices: list[int]) -> NDArray[np.uint8]:
    return decord.VideoReader(str(path), num_threads=1).get_batch(indices).asnumpy()


def with_decord_by_its_count(path: Path, _: list[int]) -> NDArray[np.uint8]:
    """As scripts do: evenly spread over the frames that decord itself counts."""
    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(segment_centres(len(reader), FRAMES)).asnumpy()


def with_torchcodec(path: Path, indices: list[int]) -> NDArray[np.uint8]:
    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    return decoder.get_frames_at(indices).data.numpy()


READERS: dict[str, Read] = {"avfuse": with_avfuse("pyav")}
if decord is not None:
    READERS |= {
        "avfuse --reader decord": with_avfuse("decord"),
        "decord, by index": with_decord_by_index,
        "decord, by its own count": with_decord_by_its_count,
    }
if VideoDecoder is not None:
    READERS["torchcodec, exact"] = with_torchcodec


if __name__ == "__main__":
    main()
