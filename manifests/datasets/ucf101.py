"""Builder `ucf101`: 101 actions, three official splits, and the 51 classes that kept their sound."""

from pathlib import Path

import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.manifests.annotations import Annotations, read_lines
from avfuse.manifests.description import DatasetDescription, clip_table, sort_clips
from avfuse.manifests.manifest import Target
from avfuse.manifests.media_tree import MediaTree

REVISION = 1

GUIDE = """UCF101 is free for research; ask its authors before any other use. Get from https://www.crcv.ucf.edu/data/UCF101.php
  UCF101.rar (6.5 GB, the clips) and UCF101TrainTestSplits-RecognitionTask.zip (the lists), unpack both into one folder:
    DIR/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi ...
    DIR/ucfTrainTestlist/classInd.txt trainlist01.txt testlist01.txt ...
  and name it: ROOT=DIR (--root DIR). Without a name it is looked for in data/ucf101."""

SPLITS = (1, 2, 3)
SUBSETS = ("all", "audio51")

_EXPECTED = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}
_EXPECTED_AUDIO51 = {1: (4901, 1944), 2: (4930, 1915), 3: (4945, 1900)}
_PUBLISHED_AUDIO51 = {1: (4893, 1944)}
"""MAiVAR, section 4."""

_VALIDATION_GROUPS = (24, 25)
"""Groups that are in train in all three splits."""

# fmt: off
AUDIO51 = (
    "ApplyEyeMakeup", "ApplyLipstick", "Archery", "BabyCrawling", "BalanceBeam", "BandMarching", "BasketballDunk",
    "BlowDryHair", "BlowingCandles", "BodyWeightSquats", "Bowling", "BoxingPunchingBag", "BoxingSpeedBag",
    "BrushingTeeth", "CliffDiving", "CricketBowling", "CricketShot", "CuttingInKitchen", "FieldHockeyPenalty",
    "FloorGymnastics", "FrisbeeCatch", "FrontCrawl", "Haircut", "Hammering", "HammerThrow", "HandstandPushups",
    "HandstandWalking", "HeadMassage", "IceDancing", "Knitting", "LongJump", "MoppingFloor", "ParallelBars",
    "PlayingCello", "PlayingDaf", "PlayingDhol", "PlayingFlute", "PlayingSitar", "Rafting", "ShavingBeard", "Shotput",
    "SkyDiving", "SoccerPenalty", "StillRings", "SumoWrestling", "Surfing", "TableTennisShot", "Typing", "UnevenBars",
    "WallPushups", "WritingOnBoard",
)
# fmt: on
"""The classes that UCF50 does not have: only their clips were published with sound."""


def describe_ucf101(root: Path, annotations: Annotations, split: int = 1, subset: str = "all") -> DatasetDescription:
    """Describe an official split; `subset="audio51"` keeps the 51 classes with sound, and of them the clips with sound.

    Groups 24 and 25 of train are for validation. A group is the clips of one class cut from one video.
    Raises UsageError when a list is missing or not as published.
    """
    if split not in SPLITS:
        raise UsageError(f"UCF101 has splits 1, 2 and 3, not {split}")
    if subset not in SUBSETS:
        raise UsageError(f"UCF101 has the subsets {' and '.join(SUBSETS)}, not '{subset}'")
    media = MediaTree(root)
    names = _classes(annotations.need("classInd.txt"))
    parts = []
    for part in ("train", "test"):
        path = annotations.need(f"{part}list0{split}.txt")
        parts.append(_read_list(path, names).assign(split=part))
    table = pd.concat(parts, ignore_index=True)
    if subset == "audio51":
        kept = {name.casefold() for name in AUDIO51}
        names = [name for name in names if name.casefold() in kept]
        table = table[table["label"].isin(names)].reset_index(drop=True)
    paths = media.by_stem(ignore_case=True)
    table["path"] = table["clip_id"].str.casefold().map(paths).astype(object)
    table = sort_clips(table)
    numbers = table["group"].str.extract(r"_g(\d+)$")[0].astype(int)
    variant = (["audio51"] if subset == "audio51" else []) + ([f"split{split}"] if split != 1 else [])
    return DatasetDescription(
        name="-".join(["ucf101", *variant]),
        collection="ucf101",
        table=table,
        targets=(Target("label", tuple(names)),),
        provenance={"builder": "ucf101", "revision": REVISION, "options": {"split": split, "subset": subset}},
        sizes=media.sizes,
        expected=_by_split(_EXPECTED_AUDIO51[split] if subset == "audio51" else _EXPECTED[split]),
        published=_by_split(_PUBLISHED_AUDIO51.get(split)) if subset == "audio51" else {},
        validation=(table["split"] == "train") & numbers.isin(_VALIDATION_GROUPS),
        needs_audio=subset == "audio51",
        notes=(*media.problems, *_notes(table, split, subset)),
    )


def _classes(path: Path) -> list[str]:
    """Class names, sorted by number."""
    numbered = [line.split(maxsplit=1) for line in read_lines(path)]
    if any(len(pair) != 2 or not pair[0].isdecimal() for pair in numbered):
        raise UsageError(f"{path}: every line is a number and a class, such as '1 ApplyEyeMakeup'")
    return [name for _, name in sorted(numbered, key=lambda pair: int(pair[0]))]


def _read_list(path: Path, names: list[str]) -> pd.DataFrame:
    """Lines such as `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`; test lists lack the number."""
    files = pd.Series([line.split()[0] for line in read_lines(path)], dtype=str)
    parts = files.str.extract(r"^(?P<folder>[^/]+)/(?P<clip_id>v_(?P<group>(?P<label>[^_]+)_g\d+)_c\d+)\.\w+$")
    wrong = files[parts["clip_id"].isna()]
    if len(wrong):
        raise UsageError(f"{path}: '{wrong.iloc[0]}' is not CLASS/v_CLASS_gNN_cNN.avi")
    spelled = {name.casefold(): name for name in names}
    labels = parts["folder"].str.casefold().map(spelled)
    if labels.isna().any():
        raise UsageError(f"{path}: class '{parts['folder'][labels.isna()].iloc[0]}' is not in classInd.txt")
    return clip_table(clip_id=parts["clip_id"], label=labels, group=labels + parts["group"].str.extract(r"(_g\d+)$")[0])


def _notes(table: pd.DataFrame, split: int, subset: str) -> tuple[str, ...]:
    notes = []
    present = table.dropna(subset="path")
    stems = present["path"].map(lambda path: Path(path).stem)
    respelled = present[stems != present["clip_id"]]
    if len(respelled):
        notes.append(
            f"{len(respelled)} files have another spelling than in the lists, such as {respelled['path'].iloc[0]}; "
            "case is ignored (HandStandPushups is HandstandPushups)"
        )
    if subset == "audio51" and split == 1:
        notes.append(
            "MAiVAR counts 4,893 train clips where the lists have 4,901: most likely it leaves out 8 whose sound "
            "cannot be used; clips without an audio stream are left out here, whatever their number"
        )
    return tuple(notes)


def _by_split(counts: tuple[int, int] | None) -> dict[str, int]:
    return dict(zip(("train", "test"), counts, strict=True)) if counts else {}
