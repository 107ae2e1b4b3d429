"""Write the demo data set: 12 classes of small AVI files in UCF101's layout and split."""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from tqdm import tqdm

from avfuse.features.atomic import atomic_write
from avfuse.features.media.writer import write_video
from avfuse.manifests.demo import scenes, sounds
from avfuse.manifests.demo.camera import FRAMES_PER_SECOND
from avfuse.manifests.demo.canvas import Pixels

# Raise when a change to the drawing, the sounds or the layout changes any file's bytes.
REVISION = 1

Split = Literal["train", "test"]
Paint = Callable[[np.random.Generator, np.random.Generator, int], Iterator[Pixels]]
Play = Callable[[np.random.Generator, np.random.Generator, int], npt.NDArray[np.float32]]

_SUBJECTS = {
    "BouncingBall": scenes.Subject("disc", "bounce"),
    "BouncingCube": scenes.Subject("square", "bounce"),
    "BouncingStar": scenes.Subject("star", "bounce"),
    "SwingingBall": scenes.Subject("disc", "swing"),
    "SpinningCube": scenes.Subject("square", "spin"),
    "BallAtSea": scenes.Subject("disc", "bounce", at_sea=True),
}
_TUNES = {
    "FluteSteady": sounds.Tune("flute", "steady", "flat"),
    "TrumpetSteady": sounds.Tune("trumpet", "steady", "flat"),
    "DrumSteady": sounds.Tune("drum", "steady", "flat"),
    "FluteGallop": sounds.Tune("flute", "gallop", "flat"),
    "FluteRising": sounds.Tune("flute", "steady", "rising"),
    "FluteFalling": sounds.Tune("flute", "steady", "falling"),
}
SEEN_CLASSES = tuple(_SUBJECTS)
HEARD_CLASSES = tuple(_TUNES)
CLASSES = SEEN_CLASSES + HEARD_CLASSES

NO_AUDIO = "no audio stream"
SILENT = "silent"
TRUNCATED = "truncated"
NOT_A_VIDEO = "not a video"

# What a real data set has too: one clip of a class in place of an ordinary one, by class and split.
_SPECIAL_CLIPS: dict[tuple[str, Split], str] = {
    ("SwingingBall", "train"): NO_AUDIO,
    ("FluteSteady", "train"): NO_AUDIO,
    ("BouncingCube", "test"): NO_AUDIO,
    ("SpinningCube", "train"): SILENT,
    ("TrumpetSteady", "train"): TRUNCATED,
    ("BallAtSea", "train"): NOT_A_VIDEO,
}
_FEWEST_GROUPS_WITH_SPECIALS = 5
_TRUNCATED_PART = 0.35
_LISTING_NAME = "demo.json"
_SHORTEST_SECONDS, _LONGEST_SECONDS = 2.0, 7.0
# Shape of the beta distribution between the two: mostly short, about three seconds on average.
_LENGTH_BETA = (1.0, 4.5)


@dataclass(frozen=True)
class DemoClip:
    """One file of the demo data set.

    Attributes:
        path: relative to the data set's root.
        label: its class.
        group: the clips that share a scene, as ``v_BouncingBall_g01``; a group is never split.
        split: ``train`` or ``test``.
        note: empty, or what is wrong with the file: ``no audio stream``, ``silent``, ``truncated``, ``not a video``.
    """

    path: Path
    label: str
    group: str
    split: Split
    note: str = ""


@dataclass(frozen=True)
class _Seeds:
    """The numbers that a clip's generators are derived from."""

    seed: int
    label: str
    group: int
    clip: int

    def generator(self, stream: str, *, of_group: bool = False) -> np.random.Generator:
        """Return a fresh generator for one use, by name; ``of_group`` gives all clips of the group the same."""
        # Hashed by hand because Python's hash() of a string changes from one process to the next.
        words = [_stable_number(self.label), _stable_number(stream), self.group, 0 if of_group else self.clip]
        return np.random.default_rng(np.random.SeedSequence([self.seed, *words]))


def render_demo(
    root: Path,
    *,
    seed: int = 0,
    groups: int = 9,
    clips_per_group: int = 3,
    classes: Sequence[str] | None = None,
    n_jobs: int = 2,
    progress: bool = True,
) -> list[DemoClip]:
    """Render the demo data set under ``root``, or only what of it is missing, and list its clips.

    Files are ``root/<Class>/v_<Class>_g01_c01.avi``: MPEG-4 video of 320x240 at 25 frames per second and MP3 sound of
    44.1 kHz in stereo, 2 to 7 seconds long. The first third of the groups is the test split. A clip's bytes follow from
    seed, class, group and clip alone, so they are the same in any subset, any order and any number of workers. With
    five groups or more, a few clips are broken or mute on purpose (see ``DemoClip.note``).

    ``root/demo.json``, written last, lists the files with their sizes. Where it is there and was written with the same
    arguments, only files that are missing or of another size are rendered; where the arguments or ``REVISION`` differ,
    the files it lists are replaced.

    Args:
        root: folder of the data set, created when missing.
        seed: not negative; another seed gives another data set.
        groups: groups per class, 2 to 99.
        clips_per_group: 1 to 99.
        classes: which of ``CLASSES``; all by default.
        n_jobs: how many clips to render at once (``joblib.Parallel``).
        progress: show a progress bar.

    Raises:
        ValueError: an argument is out of its range, or a class is unknown.
    """
    chosen = _checked_classes(classes)
    _check_range("seed", seed, 0, 2**63)
    _check_range("groups", groups, 2, 99)
    _check_range("clips_per_group", clips_per_group, 1, 99)
    root = Path(root)
    plan = _plan(chosen, groups, clips_per_group)
    head = {"revision": REVISION, "seed": seed, "groups": groups, "clips_per_group": clips_per_group, "classes": chosen}
    listing = _read_listing(root)
    if listing is not None and any(listing.get(name) != value for name, value in head.items()):
        _remove_listed(root, listing)
        listing = None
    missing = [clip for clip in plan if listing is None or not _is_intact(root, clip, listing)]
    if missing:
        tasks = (delayed(_render_clip)(root, clip, _seeds_of(clip, seed)) for clip in missing)
        done = Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks)
        for _ in tqdm(done, total=len(missing), desc="render demo", unit="clip", disable=not progress):
            pass
        _write_listing(root, head, plan)
    return plan


def _plan(classes: list[str], groups: int, clips_per_group: int) -> list[DemoClip]:
    """List the clips of the data set in order of class, group and clip."""
    return [
        _planned_clip(label, group, clip, groups)
        for label in classes
        for group in range(1, groups + 1)
        for clip in range(1, clips_per_group + 1)
    ]


def _planned_clip(label: str, group: int, clip: int, groups: int) -> DemoClip:
    test_groups = max(1, groups // 3)
    split: Split = "test" if group <= test_groups else "train"
    # The first clip of the split's first group is the special one.
    is_special_place = clip == 1 and group in (1, test_groups + 1) and groups >= _FEWEST_GROUPS_WITH_SPECIALS
    group_name = f"v_{label}_g{group:02d}"
    return DemoClip(
        path=Path(label, f"{group_name}_c{clip:02d}.avi"),
        label=label,
        group=group_name,
        split=split,
        note=_SPECIAL_CLIPS.get((label, split), "") if is_special_place else "",
    )


def _seeds_of(clip: DemoClip, seed: int) -> _Seeds:
    _, group, number = clip.path.stem.rsplit("_", 2)
    return _Seeds(seed, clip.label, int(group[1:]), int(number[1:]))


def _render_clip(root: Path, clip: DemoClip, seeds: _Seeds) -> None:
    """Write one clip's file; it appears under its name whole (or exactly as broken as it is meant to be)."""
    path = root / clip.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if clip.note == NOT_A_VIDEO:
        _write_atomically(path, b"This file is called a video, but it is text. Real data sets have such files too.\n")
        return
    if clip.note == TRUNCATED:
        whole = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.whole{path.suffix}")
        try:
            _write_clip(whole, clip, seeds)
            content = whole.read_bytes()
        finally:
            whole.unlink(missing_ok=True)
        _write_atomically(path, content[: int(len(content) * _TRUNCATED_PART)])
        return
    _write_clip(path, clip, seeds)


def _write_clip(path: Path, clip: DemoClip, seeds: _Seeds) -> None:
    paint, play = _painter(clip.label), _player(clip.label)
    length = seeds.generator("length").beta(*_LENGTH_BETA)
    duration_seconds = _SHORTEST_SECONDS + (_LONGEST_SECONDS - _SHORTEST_SECONDS) * length
    frame_count = round(duration_seconds * FRAMES_PER_SECOND)
    frames = paint(seeds.generator("picture", of_group=True), seeds.generator("picture"), frame_count)
    waveform = None
    if clip.note != NO_AUDIO:
        sample_count = frame_count * sounds.SAMPLE_RATE_HZ // FRAMES_PER_SECOND
        waveform = play(seeds.generator("sound", of_group=True), seeds.generator("sound"), sample_count)
    if waveform is not None and clip.note == SILENT:
        waveform = np.zeros_like(waveform)
    write_video(
        path,
        frames,
        fps=FRAMES_PER_SECOND,
        waveform=waveform,
        sample_rate_hz=None if waveform is None else sounds.SAMPLE_RATE_HZ,
        video_bit_rate=450_000,
        # Nearly half of the time went into MP3 at its default effort.
        audio_options={"compression_level": "9", "joint_stereo": "0"},
    )


def _painter(label: str) -> Paint:
    """The painter of a class: of its subject, or of the one performer for every heard class."""
    if label not in _SUBJECTS:
        return scenes.performer_frames
    subject = _SUBJECTS[label]
    return lambda group_rng, clip_rng, frame_count: scenes.subject_frames(subject, group_rng, clip_rng, frame_count)


def _player(label: str) -> Play:
    """The player of a class: of its tune, or of the one ambience for every seen class."""
    if label not in _TUNES:
        return sounds.neutral_sound
    tune = _TUNES[label]
    return lambda group_rng, clip_rng, sample_count: sounds.tune_sound(tune, group_rng, clip_rng, sample_count)


def _read_listing(root: Path) -> dict[str, Any] | None:
    """Return the content of ``demo.json``, or None where it is missing or damaged."""
    try:
        listing = json.loads((root / _LISTING_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return listing if isinstance(listing, dict) and isinstance(listing.get("files"), list) else None


def _write_listing(root: Path, head: dict[str, Any], plan: list[DemoClip]) -> None:
    files = [
        asdict(clip) | {"path": clip.path.as_posix(), "size_bytes": (root / clip.path).stat().st_size} for clip in plan
    ]
    text = json.dumps(head | {"files": files}, indent=1) + "\n"
    _write_atomically(root / _LISTING_NAME, text.encode())


def _is_intact(root: Path, clip: DemoClip, listing: dict[str, Any]) -> bool:
    sizes = {entry["path"]: entry["size_bytes"] for entry in listing["files"]}
    path = root / clip.path
    return path.is_file() and path.stat().st_size == sizes.get(clip.path.as_posix())


def _remove_listed(root: Path, listing: dict[str, Any]) -> None:
    """Remove an earlier data set's files, its listing first so that a partial removal never looks complete."""
    (root / _LISTING_NAME).unlink()
    for entry in listing["files"]:
        path = root / entry["path"]
        # The listing is only a file: it must not be able to name anything outside the data set.
        if path.resolve().is_relative_to(root.resolve()) and path.suffix == ".avi":
            path.unlink(missing_ok=True)


def _write_atomically(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def _stable_number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _checked_classes(classes: Sequence[str] | None) -> list[str]:
    if classes is None:
        return list(CLASSES)
    unknown = [name for name in classes if name not in CLASSES]
    if unknown or not classes or isinstance(classes, str):
        raise ValueError(f"classes={classes!r}: choose one or more of {', '.join(CLASSES)}")
    return list(dict.fromkeys(classes))


def _check_range(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"{name}={value!r} must lie between {lowest} and {highest}")
