"""A few test clips to look at: their frames, their six images, and what each head made of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.audio_images import render
from features.clips import Clip
from features.errors import ClipError
from features.media import Media, decode
from manifests import Manifest
from stages.fuse.experiment import HeadRun, Run

FRAMES = 8
CLIPS = 6


@dataclass(frozen=True)
class Prediction:
    """What one head says of a clip, its probabilities averaged over seeds."""

    head: str
    label: str
    probability: float
    is_right: bool


@dataclass(frozen=True)
class Example:
    """frames (T, H, W, 3) uint8 or None; images name -> (H, W, 3) uint8, empty without sound; `problem` says what could
    not be shown and why."""

    clip_id: str
    label: str
    frames: NDArray[np.uint8] | None
    images: dict[str, NDArray[np.uint8]]
    predictions: list[Prediction]
    problem: str | None


def choose_examples(run: Run, manifest: Manifest, count: int = CLIPS) -> list[Example]:
    """Test clips on which the heads disagree most come first, of as many classes as possible; none twice."""
    first = next(iter(run.heads.values()))[0]
    probabilities = {head: _mean_probabilities(runs) for head, runs in run.heads.items()}
    guesses = np.stack([each.argmax(axis=1) for each in probabilities.values()])
    right = guesses == first.targets
    disagreement = np.minimum(right.sum(axis=0), (~right).sum(axis=0))
    order = np.argsort(-disagreement, kind="stable")
    chosen: list[int] = []
    while len(chosen) < min(count, len(order)):
        seen = [first.targets[index] for index in chosen]
        left = [index for index in order if index not in chosen]
        rarest = min(seen.count(first.targets[index]) for index in left)
        chosen.append(next(index for index in left if seen.count(first.targets[index]) == rarest))
    clips = {clip.clip_id: clip for clip in manifest.clips()}
    return [_example(index, first, clips, run.classes, probabilities) for index in chosen]


def _example(
    index: int,
    first: HeadRun,
    clips: dict[str, Clip],
    classes: list[str],
    probabilities: dict[str, NDArray[np.float64]],
) -> Example:
    clip_id, target = first.clip_ids[index], int(first.targets[index])
    predictions = []
    for head, each in probabilities.items():
        guess = int(each[index].argmax())
        predictions.append(Prediction(head, classes[guess], float(each[index, guess]), guess == target))
    frames, images, problem = _look(clips[clip_id]) if clip_id in clips else (None, {}, "no longer in the manifest")
    return Example(clip_id, classes[target], frames, images, predictions, problem)


def _look(clip: Clip) -> tuple[NDArray[np.uint8] | None, dict[str, NDArray[np.uint8]], str | None]:
    try:
        media = decode(clip.path, f"uniform:{FRAMES}", start=clip.start, end=clip.end)
    except ClipError as error:
        return None, {}, str(error)
    frames = media.frames.pixels if media.frames is not None else None
    images, problem = _hear(media)
    return frames, images, problem or (str(media.frames_error) if media.frames_error else None)


def _hear(media: Media) -> tuple[dict[str, NDArray[np.uint8]], str | None]:
    if media.waveform is None:
        return {}, str(media.waveform_error) if media.waveform_error else "no audio stream"
    try:
        return render(media.waveform.samples, media.waveform.rate_hz), None
    except ClipError as error:
        return {}, str(error)


def _mean_probabilities(runs: list[HeadRun]) -> NDArray[np.float64]:
    every = []
    for one in runs:
        shifted = np.exp(one.logits - one.logits.max(axis=1, keepdims=True), dtype=np.float64)
        every.append(shifted / shifted.sum(axis=1, keepdims=True))
    return np.mean(every, axis=0)  # type: ignore[no-any-return]
