"""Where the numbers of a page come from: features with their checkpoints, commands, versions, clips left out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from avfuse.features import backbones
from avfuse.features.backbones.weights import Checkpoint
from avfuse.features.errors import UsageError
from avfuse.pipeline.report.page.tables import Cell, PageTable, cell
from avfuse.stages.fuse.runs.run_folder import Run

_HEADINGS = ("feature", "key", "made of", "network", "checkpoint (SHA-256)", "licence", "shape", "type")
_MEANINGS = {
    "feature": "What users type to ask for it.",
    "key": "The first digits of the SHA-256 of its spec: everything that decides its bytes.",
    "made of": "What the network was given, by which reader.",
    "network": "The frozen backbone and its revision.",
    "checkpoint (SHA-256)": "The hash of the weights.",
    "licence": "Of the weights, where it is known here.",
    "shape": "Of one clip.",
    "type": "How it is stored.",
}


def feature_table(specs: Iterable[Mapping[str, Any]], file: str) -> PageTable:
    """specs: features as run.json describes them, each shown once."""
    each = {spec["key"]: spec for spec in specs}
    rows = [_feature_row(spec) for spec in each.values()]
    return PageTable(
        "features", "Features that heads were trained on", _HEADINGS, rows, file, _MEANINGS, frozenset(range(1, 8))
    )


def facts(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of a run or table, in words, short ones."""
    found = [("made", described["created"]), ("command", described["command"]), ("media", described["media_root"])]
    manifest = described["manifest"]
    found.append(
        ("manifest", ", ".join(f"{name} {_short(value)}" for name, value in manifest.items() if name != "class_ids"))
    )
    found = [(name, value) for name, value in found if value]
    found.append(("versions", ", ".join(f"{name} {version}" for name, version in described["software"].items())))
    return found


def run_facts(run: Run) -> list[tuple[str, str]]:
    """Those of a run, with what its heads took."""
    described = run.described
    seconds = sum(one.described["cost"]["seconds"] for heads in run.heads.values() for one in heads)
    clips = described["clips"]
    return [
        ("folder", str(run.folder)),
        *facts(described),
        ("clips", ", ".join(f"{clips[name]} {name}" for name in ("train", "validation", "test", "unlabelled"))),
        ("clips and features (hash)", described["data"]),
        ("training took", f"{_duration(seconds)} for {sum(map(len, run.heads.values()))} heads"),
        *[("training", ", ".join(f"{name} {value}" for name, value in described["training"].items()))],
    ]


def settings_table(rows: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]], file: str) -> PageTable:
    """Of each row, how it was trained: name, recipe, the head's own options. Settings that are the same everywhere
    stand in the first columns as well as others: nothing is left out."""
    names = list(dict.fromkeys(name for _, recipe, options in rows for name in (*recipe, *options)))
    table = [
        [Cell(name), *(cell(_short((dict(recipe) | dict(options)).get(each, "-"))) for each in names)]
        for name, recipe, options in rows
    ]
    return PageTable("settings", "Settings of every row", ("row", *names), table, file, {})


def _feature_row(spec: Mapping[str, Any]) -> list[Cell]:
    model = spec["model"]
    checkpoint = model["checkpoint"] if model else "-"
    return [
        Cell(spec["name"]),
        Cell(spec["key"]),
        Cell(_made_of(spec["input"], spec.get("view", "id"))),
        Cell(f"{model['backbone']}, revision {model['revision']}" if model else "none"),
        Cell(checkpoint if not (model and model["untrained"]) else "random: untrained"),
        Cell(_licence(model) if model else "-"),
        Cell(" × ".join(map(str, spec["shape"]))),
        Cell(f"{spec['dtype']}, computed in {spec['compute']}"),
    ]


def _made_of(taken: Mapping[str, Any], view: str) -> str:
    parts = [taken["kind"].replace("_", " ")]
    for name in ("representation", "style", "sampling", "description"):
        if taken.get(name):
            parts.append(str(taken[name]))
    if taken.get("reader"):
        parts.append(f"reader {taken['reader']['name']} {taken['reader']['revision']}")
    if view != "id":
        parts.append(f"view {view}")
    return ", ".join(parts)


def _licence(model: Mapping[str, Any]) -> str:
    """Of the registered checkpoint with this hash. Networks of libraries are not asked for: that could need a
    network."""
    if model["untrained"]:
        return "-"
    known = _checkpoint(model["backbone"], model["checkpoint"])
    if known is None:
        return "not known here"
    return f"{known.licence}{' (non-commercial)' if known.non_commercial else ''}, {known.name}"


def _checkpoint(backbone: str, sha256: str) -> Checkpoint | None:
    if backbones.is_adapted(backbone):
        return None
    try:
        published = backbones.get_backbone(backbone).checkpoints
    except UsageError:
        return None
    return next((each for each in published if each.sha256 and sha256.startswith(each.sha256)), None)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
