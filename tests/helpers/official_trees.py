"""Small data sets in the layouts and with the lists of the real ones: a few clips a class, real media."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from avfuse.features.media import write_video

FPS, RATE_HZ, HEIGHT, WIDTH = 10, 16000, 48, 64


def frames_of(kind: int, seconds: float) -> Iterator[np.ndarray]:
    """Bars whose direction and width tell the kind, drifting."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    across = x if kind % 2 else y
    for index in range(round(seconds * FPS)):
        bars = ((across + index) // (3 + 3 * kind) % 2) * 150 + 40
        yield np.repeat(bars[..., None], 3, axis=2).astype(np.uint8)


def tone_of(kind: int, seconds: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return (0.4 * np.sin(2 * np.pi * 300 * (kind + 1) ** 2 * time)).astype(np.float32)


def write_clip(path: Path, kind: int, seconds: float = 1.0, sound: int | None = None, silent: bool = False) -> Path:
    """One file whose picture tells `kind`, and whose sound tells `sound` (the same where not given)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waveform = None if silent else tone_of(kind if sound is None else sound, seconds)
    codec = "libmp3lame" if path.suffix == ".avi" else "aac"
    return write_video(
        path,
        frames_of(kind, seconds),
        fps=FPS,
        waveform=waveform,
        sample_rate_hz=None if silent else RATE_HZ,
        audio_codec=codec,
    )


UCF101_CLASSES = {1: "ApplyEyeMakeup", 7: "Basketball", 37: "HandStandPushups"}
"""Basketball is one of UCF50's, which have no sound."""
UCF101_TEST = {1: (1, 2), 2: (8, 9), 3: (15,)}
UCF101_GROUPS = (1, 2, 8, 9, 15, 24, 25)
UCF101_SOUNDLESS = "v_ApplyEyeMakeup_g08_c02"
UCF101_MISSING = "v_HandStandPushups_g09_c02"
UCF101_EMPTY = "v_Basketball_g24_c02"


def ucf101(root: Path) -> Path:
    """Two clips of seven groups of three classes: one clip is missing, one empty, one of a class with sound has none,
    and the files of one class have another spelling than in the lists."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{number} {name}\r\n" for number, name in UCF101_CLASSES.items()))
    for split, test_groups in UCF101_TEST.items():
        lines: dict[str, list[str]] = {"train": [], "test": []}
        for number, name in UCF101_CLASSES.items():
            for group in UCF101_GROUPS:
                for clip in (1, 2):
                    path = f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"
                    part = "test" if group in test_groups else "train"
                    lines[part].append(path if part == "test" else f"{path} {number}")
        for part, listed in lines.items():
            (lists / f"{part}list0{split}.txt").write_text("".join(f"{line}\n" for line in listed))
    for kind, name in enumerate(UCF101_CLASSES.values()):
        spelled = name.replace("HandStand", "Handstand")
        for group in UCF101_GROUPS:
            for clip in (1, 2):
                clip_id = f"v_{name}_g{group:02d}_c{clip:02d}"
                path = root / "UCF-101" / spelled / f"{clip_id.replace(name, spelled)}.avi"
                if clip_id == UCF101_MISSING:
                    continue
                silent = name == "Basketball" or clip_id == UCF101_SOUNDLESS
                write_clip(path, kind, 0.8, silent=silent)
                if clip_id == UCF101_EMPTY:
                    path.write_bytes(b"")
    return root


def video_id(number: int) -> str:
    """As YouTube's are: 11 characters, dashes and underscores among them, some at the beginning."""
    return f"{'-_aZ'[number % 4]}{number:08d}_-"


KINETICS = {"playing drums": 23, "bowling": 1, "tap dancing": 14}
"""Classes with their numbers in the 27-class lists, which have gaps."""


def kinetics_sounds(root: Path) -> Path:
    """Kinetics-400's folders, validation in an archive as it is published, the 27-class lists; one clip is missing."""
    lines: dict[str, list[str]] = {"train": [], "val": []}
    number = 0
    for kind, (label, index) in enumerate(KINETICS.items()):
        for part, count in (("train", 6), ("val", 2)):
            for _ in range(count):
                number += 1
                name = f"{video_id(number)}_{number:06d}_{number + 10:06d}"
                lines[part].append(f"{label}/{name} 300 {index}")
                if number != 2:
                    write_clip(root / part / label / f"{name}.mp4", kind)
    for part, listed in lines.items():
        (root / f"ksounds27-{part}.txt").write_text("".join(f"{line}\n" for line in listed))
    pack(root / "part_0.tar.gz", root / "val", "w:gz")
    return root


VGGSOUND = ["engine accelerating, revving, vroom", "dog barking", "playing harp"]


def vggsound(root: Path) -> Path:
    """Most clips in an archive, some beside it under names with other zeros; vggsound.csv, and VGGSounder's labels."""
    rows, relabelled = [], ["video_id,label,modality,background_music,static_image,voice_over"]
    number = 0
    for kind, label in enumerate(VGGSOUND):
        for part, count in (("train", 6), ("test", 3)):
            for index in range(count):
                number += 1
                start = 30 * index
                rows.append(f'{video_id(number)},{start},"{label}",{part}')
                in_archive = index % 3
                name = f"{video_id(number)}_{start:06d}" if in_archive else f"{video_id(number)}_{start}"
                folder = "in_archive/video" if in_archive else "more"
                write_clip(root / folder / f"{name}.mp4", kind)
                if part == "test" and index < 2:
                    other = VGGSOUND[(kind + 1) % 3]
                    for each, modality in ((label, "AV"), (other, "A")):
                        relabelled.append(f'{video_id(number)}_{start:06d},"{each}",{modality},False,False,False')
    (root / "vggsound.csv").write_text("".join(f"{row}\n" for row in rows))
    (root / "vggsounder.csv").write_text("".join(f"{row}\n" for row in relabelled))
    pack(root / "vggsound_00.tar", root / "in_archive", "w")
    return root


EPIC_VERBS = {0: "take", 1: "put", 5: "cut"}
EPIC_NOUNS = {0: "tap", 2: "plate", 3: "knife", 299: "salt"}
_EPIC_COLUMNS = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame"
)


def epic_kitchens_100(root: Path) -> Path:
    """Four videos of many segments each: the picture tells the verb, the sound the noun."""
    lists = root / "epic-kitchens-100-annotations"
    lists.mkdir(parents=True)
    for name, classes in (("verb", EPIC_VERBS), ("noun", EPIC_NOUNS)):
        lines = [f"{number},{key},\"['{key}']\",some" for number, key in classes.items()]
        (lists / f"EPIC_100_{name}_classes.csv").write_text("\n".join(["id,key,instances,category", *lines, ""]))
    for name, videos in {
        "train": {"P01_01": 12, "P01_02": 12},
        "validation": {"P02_01": 6},
        "test_timestamps": {"P02_101": 4},
    }.items():
        is_labelled = name != "test_timestamps"
        more = ",narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes" if is_labelled else ""
        lines = [_EPIC_COLUMNS + more]
        for video, count in videos.items():
            lines += _epic_video(root / video[:3] / "videos" / f"{video}.MP4", count, is_labelled)
        (lists / f"EPIC_100_{name}.csv").write_text("\n".join([*lines, ""]))
    info = ["video_id,duration,fps,resolution", "P01_01,24.0,10,64x48", "P02_01,11.9,10,64x48"]
    (lists / "EPIC_100_video_info.csv").write_text("\n".join([*info, ""]))
    return root


def _epic_video(path: Path, count: int, is_labelled: bool) -> list[str]:
    """Segments of 2 s, one after the other, each listed as one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames: list[np.ndarray] = []
    waveform, lines = [], []
    for index in range(count):
        verb, noun = index % len(EPIC_VERBS), index // 2 % 3
        frames += frames_of(verb, 2)
        waveform.append(tone_of(noun, 2))
        times = [f"00:00:{second:02d}.{hundredths:02d}" for second, hundredths in ((2 * index, 10), (2 * index + 2, 0))]
        video = path.stem
        line = f"{video}_{index},{video[:3]},{video},00:00:00.000,{times[0]},{times[1]},1,20"
        if is_labelled:
            verb_class, noun_class = list(EPIC_VERBS)[verb], list(EPIC_NOUNS)[noun]
            names = f"{EPIC_VERBS[verb_class]},{verb_class},{EPIC_NOUNS[noun_class]},{noun_class}"
            line += f",something,{names},\"['x']\",[{noun_class}]"
        lines.append(line)
    write_video(path, frames, fps=FPS, waveform=np.concatenate(waveform), sample_rate_hz=RATE_HZ, audio_codec="aac")
    return lines


def pack(archive: Path, folder: Path, mode: str) -> None:
    """Put a folder's files into an archive and take the folder away."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with tarfile.open(archive, mode) as written:  # type: ignore[call-overload]
        for path in files:
            written.add(path, arcname=str(path.relative_to(folder.parent)))
    for path in files:
        path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()
