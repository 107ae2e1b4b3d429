"""Builder `vggsound`: 309 classes of sounds that are seen, and VGGSounder's several labels for its test clips."""

from pathlib import Path

import pandas as pd

from avfuse.features.errors import UsageError
from avfuse.manifests.annotations import Annotations, read_csv
from avfuse.manifests.description import DatasetDescription, clip_table, sort_clips
from avfuse.manifests.manifest import SEPARATOR, Target
from avfuse.manifests.media_tree import MediaTree

REVISION = 1
VALIDATION_FRACTION = 0.1

GUIDE = """VGGSound's list is CC BY 4.0, its videos are YouTube's. Get vggsound.csv from
  https://www.robots.ox.ac.uk/~vgg/data/vggsound/ and the clips from a mirror
  (huggingface.co/datasets/Loie/VGGSound, vggsound_00.tar.gz ...) or by a download of your own:
    DIR/vggsound.csv
    DIR/vggsound_00.tar.gz ...   (read in place), or DIR/**/YOUTUBEID_000030.mp4 (start in seconds, any zeros)
  and name it: ROOT=DIR (--root DIR). Without a name it is looked for in data/vggsound.
  VGGSounder's labels of the test clips: VGGSOUNDER=FILE (--vggsounder), its vggsounder.csv, which also comes with the
  Python package `vggsounder`."""

HEARD, SEEN = "A", "V"
MODALITIES = {"any": (HEARD, SEEN, HEARD + SEEN), "audible": (HEARD, HEARD + SEEN), "visible": (SEEN, HEARD + SEEN)}
"""The modalities with which labels of VGGSounder count: heard, seen, or both."""


def describe_vggsound(
    root: Path,
    annotations: Annotations,
    vggsounder: Path | None = None,
    vggsounder_labels: str = "any",
) -> DatasetDescription:
    """Describe the official split. A tenth of train, by YouTube video, is for validation.

    With `vggsounder`, test clips have the labels of that file (target `labels`, several to a clip), and those it does
    not cover are left out. Raises UsageError when a list is missing or not as published.
    """
    media = MediaTree(root)
    table, notes = _read(annotations)
    table["path"], by_id = media.by_video(table["group"], table["clip_id"].str[12:])
    table = sort_clips(table)
    if by_id:
        notes.append(
            f"{by_id} clips were found by their YouTube id alone: the file is taken for the clip, not the video"
        )
    names = tuple(sorted(table["label"].unique()))
    targets = (Target("label", names),)
    name = "vggsound"
    options: dict[str, str] = {}
    if vggsounder is not None:
        table, covered = _relabel(table, annotations.use(vggsounder), vggsounder_labels, names)
        targets = (Target("labels", names, several=True),)
        name += f"-{vggsounder.stem}" + ("" if vggsounder_labels == "any" else f"-{vggsounder_labels}")
        options = {"vggsounder": vggsounder.name, "vggsounder_labels": vggsounder_labels}
        notes.append(covered)
    elif vggsounder_labels != "any":
        raise UsageError("--vggsounder-labels is about VGGSounder's file: add --vggsounder FILE")
    return DatasetDescription(
        name=name,
        collection="vggsound",
        table=table,
        targets=targets,
        provenance={"builder": "vggsound", "revision": REVISION, "options": options},
        sizes=media.sizes,
        expected={} if vggsounder is not None else {"test": 15446},
        validation=VALIDATION_FRACTION,
        notes=(*media.problems, *notes),
    )


def _read(annotations: Annotations) -> tuple[pd.DataFrame, list[str]]:
    """All clips; `group` is the YouTube id and clip_id the id with the start in six digits."""
    whole = annotations.find("vggsound.csv")
    if whole is not None:
        source = read_csv(whole, ("id", "start", "label", "split"), header=False)
        wrong = source[~(source["start"].str.isdecimal() & source["split"].isin(["train", "test"]))]
        if len(wrong):
            raise UsageError(f"{whole}, line {wrong.index[0] + 1}: not YOUTUBEID,START,LABEL,train|test")
        return _rows(source["id"], source["start"], source["label"], source["split"])
    parts = []
    for split in ("train", "test"):
        path = annotations.find(f"{split}.csv") if split == "train" else annotations.need("vggsound.csv", "test.csv")
        if path is not None:
            parts.append(_read_part(path).assign(split=split))
    source = pd.concat(parts, ignore_index=True)
    table, notes = _rows(source["id"], source["start"], source["label"], source["split"])
    if "train" not in set(table["split"]):
        notes.append("only test.csv is there: without vggsound.csv there is nothing to train on")
    return table, notes


def _read_part(path: Path) -> pd.DataFrame:
    """Lines such as `glLQrEijrKg_000300.mp4,playing hammond organ`."""
    source = read_csv(path, ("file", "label"), header=False)
    parts = source["file"].str.extract(r"^(?P<id>.{11})_(?P<start>\d+)\.\w+$")
    wrong = source[parts["id"].isna()]
    if len(wrong):
        raise UsageError(f"{path}, line {wrong.index[0] + 1}: '{wrong['file'].iloc[0]}' is not YOUTUBEID_START.mp4")
    return parts.assign(label=source["label"])


def _rows(ids: pd.Series, starts: pd.Series, labels: pd.Series, splits: pd.Series) -> tuple[pd.DataFrame, list[str]]:
    table = clip_table(clip_id=ids + "_" + starts.str.zfill(6), label=labels.str.strip(), group=ids, split=splits)
    twice = table["clip_id"].duplicated()
    notes = [f"{twice.sum()} clips are listed twice: the first line counts"] if twice.any() else []
    return table[~twice].reset_index(drop=True), notes


def _relabel(table: pd.DataFrame, path: Path, which: str, names: tuple[str, ...]) -> tuple[pd.DataFrame, str]:
    """Test clips with VGGSounder's labels in a column `labels`; in train it repeats `label`."""
    if which not in MODALITIES:
        raise UsageError(f"VGGSounder's labels are {', '.join(MODALITIES)}, not '{which}'")
    source = read_csv(path, ("video_id", "label", "modality"))
    unknown = sorted(set(source["label"]) - set(names))
    if unknown:
        raise UsageError(f"{path}: '{unknown[0]}' is no class of VGGSound's list")
    counted = source[source["modality"].isin(MODALITIES[which])].drop_duplicates(["video_id", "label"])
    joined = counted.sort_values("label").groupby("video_id")["label"].agg(SEPARATOR.join)
    is_test = table["split"] == "test"
    labels = table["clip_id"].map(joined).where(is_test, table["label"])
    kept = labels.notna()
    note = (
        f"VGGSounder ({path.name}, {which} labels) covers {(kept & is_test).sum():,} of {is_test.sum():,} test clips, "
        f"{counted['video_id'].isin(table['clip_id'][is_test]).sum():,} labels; the others are left out"
    )
    return table.assign(labels=labels)[kept].reset_index(drop=True), note
