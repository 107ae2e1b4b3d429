"""Builder `epic_kitchens_100`: segments of long kitchen videos, each a verb and a noun."""

from pathlib import Path

import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.manifests.annotations import Annotations, read_csv
from avfuse.manifests.description import DatasetDescription, clip_table, sort_clips
from avfuse.manifests.manifest import Target
from avfuse.manifests.media_tree import MediaTree

REVISION = 1
VALIDATION_FRACTION = 0.1

GUIDE = """EPIC-KITCHENS-100 is CC BY-NC 4.0 (not for commercial use). Get the lists from
  https://github.com/epic-kitchens/epic-kitchens-100-annotations and the videos (about 740 GB) with
  https://github.com/epic-kitchens/epic-kitchens-download-scripts (--videos):
    DIR/**/P01_01.MP4 ...        (any folders, any size of picture)
    DIR/epic-kitchens-100-annotations/EPIC_100_train.csv EPIC_100_validation.csv EPIC_100_verb_classes.csv ...
  and name it: ROOT=DIR (--root DIR). Without a name it is looked for in data/epic_kitchens_100."""

_LISTS = {
    "train": "EPIC_100_train.csv",
    "test": "EPIC_100_validation.csv",
    "unlabelled": "EPIC_100_test_timestamps.csv",
}
"""The challenge keeps the labels of its test split: papers report the validation split, which is `test` here."""

_EXPECTED = {"train": 67217, "test": 9668, "unlabelled": 13092}


def describe_epic_kitchens_100(
    root: Path, annotations: Annotations, train_list: Path | None = None
) -> DatasetDescription:
    """Describe the official train, validation (as `test`) and test (as `unlabelled`) segments, with targets verb and
    noun.

    Groups are videos; a tenth of train's is for validation. `train_list` is another list of training segments in the
    same format, such as EPIC_100_uda_source_train.csv.

    Raises UsageError when a list is missing or not as published.
    """
    media = MediaTree(root)
    verbs = _classes(annotations.need("EPIC_100_verb_classes.csv"))
    nouns = _classes(annotations.need("EPIC_100_noun_classes.csv", "EPIC_100_noun_classes_v2.csv"))
    notes, parts = [], []
    for split, name in _LISTS.items():
        if split == "train" and train_list is not None:
            path: Path | None = annotations.use(train_list)
        else:
            path = annotations.need(name) if split == "test" else annotations.find(name)
        if path is None:
            if split == "train":
                notes.append(f"{name} is missing: nothing to train on")
            continue
        parts.append(_segments(path, verbs, nouns, labelled=split != "unlabelled").assign(split=split))
    table = pd.concat(parts, ignore_index=True)
    table["path"] = table["group"].str.casefold().map(media.by_stem(ignore_case=True))
    table = sort_clips(table)
    notes += _late_segments(table, annotations)
    expected = dict(_EXPECTED)
    if train_list is not None:
        del expected["train"]
    return DatasetDescription(
        name="epic_kitchens_100" if train_list is None else f"epic_kitchens_100-{train_list.stem}",
        collection="epic_kitchens_100",
        table=table,
        targets=(Target("verb", tuple(verbs.values())), Target("noun", tuple(nouns.values()))),
        provenance={
            "builder": "epic_kitchens_100",
            "revision": REVISION,
            "options": {"train_list": train_list.name if train_list is not None else None},
            "class_ids": {
                "verb": {name: number for number, name in verbs.items()},
                "noun": {name: number for number, name in nouns.items()},
            },
        },
        sizes=media.sizes,
        expected={split: count for split, count in expected.items() if split in set(table["split"])},
        validation=VALIDATION_FRACTION,
        notes=(*media.problems, *notes),
    )


def _classes(path: Path) -> dict[int, str]:
    """Class names by number, sorted by it."""
    source = read_csv(path, ("id", "key"))
    if not source["id"].str.isdecimal().all():
        raise UsageError(f"{path}: column 'id' has a value that is no number")
    return dict(sorted(zip(source["id"].astype(int), source["key"], strict=True)))


def _segments(path: Path, verbs: dict[int, str], nouns: dict[int, str], labelled: bool) -> pd.DataFrame:
    columns = ("narration_id", "video_id", "start_timestamp", "stop_timestamp")
    source = read_csv(path, (*columns, "verb_class", "noun_class") if labelled else columns)
    verb: pd.Series | None = None
    noun: pd.Series | None = None
    if labelled:
        verb = _named(source["verb_class"], verbs, path)
        noun = _named(source["noun_class"], nouns, path)
    return clip_table(
        clip_id=source["narration_id"],
        start=_seconds(source["start_timestamp"], path),
        end=_seconds(source["stop_timestamp"], path),
        label=verb + " " + noun if verb is not None and noun is not None else None,
        verb=verb,
        noun=noun,
        group=source["video_id"],
    )


def _named(numbers: pd.Series, names: dict[int, str], path: Path) -> pd.Series:
    named = pd.to_numeric(numbers, errors="coerce").map(names)
    if named.isna().any():
        raise UsageError(f"{path}, column '{numbers.name}': '{numbers[named.isna()].iloc[0]}' is no class")
    return named


def _seconds(timestamps: pd.Series, path: Path) -> pd.Series:
    """Seconds of `HH:MM:SS.ss`."""
    wrong = timestamps[~timestamps.str.fullmatch(r"\d+:[0-5]\d:[0-5]\d(\.\d+)?")]
    if len(wrong):
        raise UsageError(f"{path}, column '{timestamps.name}': '{wrong.iloc[0]}' is not a time such as 00:01:02.35")
    return pd.to_timedelta(timestamps).dt.total_seconds().round(6)


def _late_segments(table: pd.DataFrame, annotations: Annotations) -> list[str]:
    path = annotations.find("EPIC_100_video_info.csv")
    if path is None:
        return []
    source = read_csv(path, ("video_id", "duration"))
    durations = pd.to_numeric(source.set_index("video_id")["duration"], errors="coerce")
    beyond = table["end"] - table["group"].map(durations)
    late = table[(beyond > 0) & table["path"].notna()]
    if late.empty:
        return []
    return [
        f"{len(late)} segments end after their videos, by up to {beyond[late.index].max():.2f} s, such as "
        f"{late['clip_id'].iloc[0]}: they end with the video"
    ]
