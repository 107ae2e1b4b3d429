"""A few test clips to look at: their frames, their six images, and what each head made of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.audio_images import render
from features.clips import Clip
from features.errors import ClipError
from features.media import Media, decode
from manifests import Manifest
from stages.fuse.metrics import Truth
from stages.fuse.runs import HeadRun, Run
from stages.fuse.targets import Targets

FRAMES = 8
CLIPS = 6


@dataclass(frozen=True)
class Guess:
    """The likeliest class of one target."""

    label: str
    probability: float
    is_right: bool


@dataclass(frozen=True)
class Prediction:
    """What one head says of a clip, target by target, its probabilities averaged over seeds."""

    head: str
    guesses: list[Guess]


@dataclass(frozen=True)
class Example:
    """`label` names the true classes of all targets; frames (T, H, W, 3) uint8 or None; images name -> (H, W, 3) uint8,
    empty without sound; `problem` says what could not be shown and why."""

    clip_id: str
    label: str
    frames: NDArray[np.uint8] | None
    images: dict[str, NDArray[np.uint8]]
    predictions: list[Prediction]
    problem: str | None


def choose_examples(run: Run, manifest: Manifest, count: int = CLIPS) -> list[Example]:
    """The clips of `most_disputed`."""
    first = next(iter(run.heads.values()))[0]
    probabilities = {head: _mean_probabilities(run.targets, runs) for head, runs in run.heads.items()}
    clips = {clip.clip_id: clip for clip in manifest.clips()}
    return [
        _example(index, true_label(run.targets, first, index), run.targets, first, clips, probabilities)
        for index in most_disputed(run, count)
    ]


def most_disputed(run: Run, count: int) -> list[int]:
    """Test clips on which the heads disagree most come first, of as many classes as possible; none twice."""
    first = next(iter(run.heads.values()))[0]
    probabilities = {head: _mean_probabilities(run.targets, runs) for head, runs in run.heads.items()}
    right = np.stack([_all_right(each, first.truth) for each in probabilities.values()])
    disagreement = np.minimum(right.sum(axis=0), (~right).sum(axis=0))
    order = np.argsort(-disagreement, kind="stable")
    labels = [true_label(run.targets, first, index) for index in range(len(order))]
    chosen: list[int] = []
    while len(chosen) < min(count, len(order)):
        seen = [labels[index] for index in chosen]
        left = [index for index in order if index not in chosen]
        rarest = min(seen.count(labels[index]) for index in left)
        chosen.append(int(next(index for index in left if seen.count(labels[index]) == rarest)))
    return chosen


def _example(
    index: int,
    label: str,
    targets: Targets,
    first: HeadRun,
    clips: dict[str, Clip],
    probabilities: dict[str, list[NDArray[np.float64]]],
) -> Example:
    clip_id = first.clip_ids[index]
    predictions = []
    for head, parts in probabilities.items():
        guesses = []
        for target, each, truth in zip(targets, parts, first.truth, strict=True):
            guess = int(each[index].argmax())
            guesses.append(Guess(target.classes[guess], float(each[index, guess]), _is_right(guess, truth[index])))
        predictions.append(Prediction(head, guesses))
    frames, images, problem = _look(clips[clip_id]) if clip_id in clips else (None, {}, "no longer in the manifest")
    return Example(clip_id, label, frames, images, predictions, problem)


def true_label(targets: Targets, run: HeadRun, index: int) -> str:
    """The true classes of a test clip, such as `take + plate`, or `dog barking | wind noise` of one target."""
    named = []
    for target, truth in zip(targets, run.truth, strict=True):
        true = np.flatnonzero(truth[index]) if target.several else [truth[index]]
        named.append(" | ".join(target.classes[each] for each in true))
    return " + ".join(named)


def _is_right(guess: int, truth: Any) -> bool:
    """truth: a clip's class, or bool (C,)."""
    return bool(truth[guess]) if np.ndim(truth) else guess == truth


def _all_right(parts: list[NDArray[np.float64]], truth: tuple[Truth, ...]) -> NDArray[np.bool_]:
    right = []
    for each, true in zip(parts, truth, strict=True):
        guess = each.argmax(axis=1)
        right.append(guess == true if true.ndim == 1 else true[np.arange(len(guess)), guess])
    return np.logical_and.reduce(right)


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


def _mean_probabilities(targets: Targets, runs: list[HeadRun]) -> list[NDArray[np.float64]]:
    """Target by target, (n_test, C)."""
    every = [
        [_probabilities(part, target.sigmoid) for target, part in zip(targets, targets.split(one.logits), strict=True)]
        for one in runs
    ]
    return [np.mean(each, axis=0) for each in zip(*every, strict=True)]


def _probabilities(logits: NDArray[np.float32], sigmoid: bool) -> NDArray[np.float64]:
    if sigmoid:
        return 1 / (1 + np.exp(-logits, dtype=np.float64))  # type: ignore[no-any-return]
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return shifted / shifted.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]
