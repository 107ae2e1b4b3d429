"""Builder `kinetics_sounds`: the classes of Kinetics-400 that one can hear, in the variants that papers use."""

from pathlib import Path

import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.manifests.annotations import Annotations, read_csv, read_lines
from avfuse.manifests.description import DatasetDescription, clip_table, sort_clips
from avfuse.manifests.manifest import COLUMNS, Target
from avfuse.manifests.media_tree import MediaTree

REVISION = 1
VALIDATION_FRACTION = 0.1
CLIP_SECONDS = 10

GUIDE = """Kinetics' lists are CC BY 4.0, its videos are YouTube's. Get Kinetics-400 from
  https://github.com/cvdfoundation/kinetics-dataset, and a variant's lists: my_train.txt and my_test.txt (31 classes),
  or ksounds27-train.txt and ksounds27-val.txt (27 classes):
    DIR/**/YOUTUBEID_000058_000068.mp4   (any folders; part_0.tar.gz ... are read in place)
  and name them: ROOT=DIR ANNOTATIONS=LISTS (--root DIR --annotations LISTS).
  Without a name the clips are looked for in data/kinetics400.
  Other variants: CLASSES=FILE (--classes FILE), a class of Kinetics-400 a line, over Kinetics-400's own train.csv and
  validate.csv, or its folders train/CLASS/ and val/CLASS/."""

CLASSES_31 = (
    "blowing nose",
    "blowing out candles",
    "bowling",
    "chopping wood",
    "dribbling basketball",
    "laughing",
    "mowing lawn",
    "playing accordion",
    "playing bagpipes",
    "playing bass guitar",
    "playing clarinet",
    "playing drums",
    "playing guitar",
    "playing harmonica",
    "playing keyboard",
    "playing organ",
    "playing piano",
    "playing saxophone",
    "playing trombone",
    "playing trumpet",
    "playing violin",
    "playing xylophone",
    "ripping paper",
    "shoveling snow",
    "shuffling cards",
    "singing",
    "stomping grapes",
    "tap dancing",
    "tapping guitar",
    "tapping pen",
    "tickling",
)
"""Names by the numbers of the 31-class lists, which hold no names. 27 follow from videos that the 27-class lists name,
the other four (1, 4, 6, 26) from the alphabet and the 34 classes of the first publication."""

_LISTS = {"31": ("my_train.txt", "my_test.txt"), "27": ("ksounds27-train.txt", "ksounds27-val.txt")}
_EXPECTED = {"31": {"train": 14799, "test": 2597}, "27": {"train": 19347, "test": 1344}}


def describe_kinetics_sounds(
    root: Path, annotations: Annotations, variant: str | None = None, classes: Path | None = None
) -> DatasetDescription:
    """Describe the 27- or 31-class variant by its published lists, or the classes of Kinetics-400 that a file names.

    A tenth of train, by YouTube video, is set aside for validation. Raises UsageError when a list is missing or not as
    published.
    """
    media = MediaTree(root)
    if classes is not None:
        if variant is not None:
            raise UsageError("--classes and --variant exclude each other: leave one out")
        variant, named = classes.stem, [name.replace("_", " ") for name in read_lines(annotations.use(classes))]
        table, notes = _from_kinetics(media, annotations, named)
        ids: dict[str, int] = {}
    else:
        variant = _variant(annotations, variant)
        parts = []
        for split, name in zip(("train", "test"), _LISTS[variant], strict=True):
            path = annotations.need(name)
            parts.append((_read_31 if variant == "31" else _read_27)(path).assign(split=split))
        table, notes = pd.concat(parts, ignore_index=True), []
        ids = {name: number for number, name in _numbers(table).items()}
        named = list(ids)
    starts = table["clip_id"].str.extract(r"_(\d+)_\d+$")[0]
    paths, by_id = media.by_video(table["group"], starts)
    if classes is None:
        table["path"] = paths
    else:
        table["path"] = table["path"].where(table["path"].notna(), paths)
    if by_id:
        notes.append(
            f"{by_id} clips were found by their YouTube id alone: the file is taken for the clip, not the video"
        )
    return DatasetDescription(
        name=f"kinetics_sounds-{variant}",
        collection="kinetics400",
        table=sort_clips(table[list(COLUMNS)]),
        targets=(Target("label", tuple(named)),),
        provenance={
            "builder": "kinetics_sounds",
            "revision": REVISION,
            "options": {"variant": variant, "classes": classes.name if classes is not None else None},
            "class_ids": {"label": ids},
        },
        sizes=media.sizes,
        expected=_EXPECTED.get(variant, {}) if classes is None else {},
        validation=VALIDATION_FRACTION,
        notes=(*media.problems, *notes),
    )


def _variant(annotations: Annotations, variant: str | None) -> str:
    """The given variant, or the only one whose lists are there."""
    if variant is None:
        variants = [name for name, (train, _) in _LISTS.items() if annotations.find(train) is not None]
        if len(variants) == 1:
            return variants[0]
        if not variants:
            annotations.need(*(train for train, _ in _LISTS.values()))
        raise UsageError("the lists of several variants are there: choose one, VARIANT=27 or 31 (--variant)")
    if variant not in _LISTS:
        raise UsageError(
            f"no variant '{variant}' of Kinetics-Sounds has published lists: choose from {', '.join(_LISTS)}, or name "
            "the classes of yours (--classes FILE)"
        )
    return variant


def _numbers(table: pd.DataFrame) -> dict[int, str]:
    """Classes by the numbers of the lists, sorted; numbers may have gaps."""
    pairs = table.drop_duplicates(["number", "label"]).sort_values("number")
    if pairs["number"].duplicated().any() or pairs["label"].duplicated().any():
        row = pairs[pairs["number"].duplicated(keep=False) | pairs["label"].duplicated(keep=False)].iloc[0]
        raise UsageError(f"the lists of Kinetics-Sounds disagree on the number of '{row['label']}'")
    return {int(number): label for number, label in zip(pairs["number"], pairs["label"], strict=True)}


def _read_31(path: Path) -> pd.DataFrame:
    """Lines `VIDEO_START,SECONDS,CLASS` or `VIDEO_START_END,SECONDS,CLASS`."""
    lines = pd.Series(read_lines(path), dtype=str)
    parts = lines.str.extract(r"^(?P<id>.{11})_(?P<start>\d+)(?:_\d+)?,(?P<seconds>\d+),(?P<number>\d+)$")
    _check(parts, lines, path, "VIDEO_START,SECONDS,CLASS")
    numbers = parts["number"].astype(int)
    if numbers.max() >= len(CLASSES_31):
        raise UsageError(f"{path}: class {numbers.max()} is beyond the {len(CLASSES_31)} classes of this variant")
    return _rows(parts["id"], parts["start"].astype(int), numbers.map(dict(enumerate(CLASSES_31))), numbers)


def _read_27(path: Path) -> pd.DataFrame:
    """Lines `CLASS NAME/VIDEO_START_END FRAMES CLASS`."""
    lines = pd.Series(read_lines(path), dtype=str)
    parts = lines.str.extract(
        r"^(?P<label>[^/]+)/(?P<id>.{11})_(?P<start>\d+)_\d+(?:\.\w+)? (?P<frames>\d+) (?P<number>\d+)$"
    )
    _check(parts, lines, path, "CLASS NAME/VIDEO_START_END FRAMES CLASS")
    return _rows(parts["id"], parts["start"].astype(int), parts["label"], parts["number"].astype(int))


def _check(parts: pd.DataFrame, lines: pd.Series, path: Path, form: str) -> None:
    wrong = lines[parts["id"].isna()]
    if len(wrong):
        raise UsageError(f"{path}, line {wrong.index[0] + 1}: '{wrong.iloc[0]}' is not {form}")


def _rows(ids: pd.Series, starts: pd.Series, labels: pd.Series, numbers: pd.Series | None = None) -> pd.DataFrame:
    """Clips with ids as Kinetics writes them, whatever zeros a list has."""
    padded = starts.astype(str).str.zfill(6) + "_" + (starts + CLIP_SECONDS).astype(str).str.zfill(6)
    return clip_table(clip_id=ids + "_" + padded, label=labels, group=ids, number=numbers)


def _from_kinetics(media: MediaTree, annotations: Annotations, named: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Clips of some classes by Kinetics-400's own lists; without these, by its folders."""
    parts = []
    for split, names in {"train": ("train.csv",), "test": ("validate.csv", "val.csv")}.items():
        path = annotations.find(*names)
        if path is not None:
            source = read_csv(path, ("label", "youtube_id", "time_start"))
            starts = pd.to_numeric(source["time_start"], errors="coerce")
            if starts.isna().any():
                raise UsageError(f"{path}, column 'time_start': '{source['time_start'][starts.isna()].iloc[0]}'")
            listed = _rows(source["youtube_id"], starts.astype(int), source["label"].str.replace("_", " "))
            parts.append(listed.assign(split=split, path=None))
    notes = []
    if not parts:
        parts = [_from_folders(media)]
        notes.append("no train.csv and validate.csv of Kinetics-400: the clips are those that lie in its folders")
    table = pd.concat(parts, ignore_index=True)
    if "train" not in set(table["split"]):
        notes.append("train.csv of Kinetics-400 is missing: nothing to train on")
    unknown = [name for name in named if name not in set(table["label"])]
    if unknown:
        raise UsageError(f"no clip of Kinetics-400 is of class '{unknown[0]}': check its spelling")
    return table[table["label"].isin(named)].reset_index(drop=True), notes


def _from_folders(media: MediaTree) -> pd.DataFrame:
    """Files `train/CLASS/VIDEO_START_END.mp4` and `val/CLASS/...`; `validate` and `test` mean test too."""
    paths = pd.Series(list(media.sizes), dtype=str)
    parts = paths.str.extract(
        r"(?:^|/)(?P<split>train|val|validate|test)/(?P<label>[^/]+)/(?P<id>.{11})_(?P<start>\d+)_\d+\.\w+$"
    )
    paths, parts = paths[parts["id"].notna()].reset_index(drop=True), parts.dropna(subset="id").reset_index(drop=True)
    if parts.empty:
        raise UsageError(
            f"{media.root} has neither Kinetics-400's train.csv and validate.csv nor files "
            "train/CLASS/VIDEO_START_END.mp4"
        )
    listed = _rows(parts["id"], parts["start"].astype(int), parts["label"].str.replace("_", " "))
    split = parts["split"].map(lambda name: "train" if name == "train" else "test")
    return listed.assign(split=split, path=paths).drop_duplicates("clip_id").reset_index(drop=True)
