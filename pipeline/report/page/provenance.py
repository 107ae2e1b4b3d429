"""Provenance of a page's numbers: features with their checkpoints, commands, versions, settings."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from avfuse.features import backbones
from avfuse.features.backbones.weights import Checkpoint
from avfuse.features.errors import UsageError
from avfuse.pipeline.report.page.tables import Cell, PageTable, cell
from avfuse.stages.fuse.runs.run_folder import Run

_HEADINGS = ("feature", "key", "made of", "network", "checkpoint (SHA-256)", "licence", "shape", "type")
_MEANINGS = {
    "feature": "Its name on the command line.",
    "key": "The first digits of the SHA-256 of its spec: everything that decides its bytes.",
    "made of": "The input of the network, and the reader that decoded it.",
    "network": "The frozen backbone and its revision.",
    "checkpoint (SHA-256)": "The hash of the weights.",
    "licence": "Licence of the weights, where it is known.",
    "shape": "Shape per clip.",
    "type": "Stored type.",
}


def feature_table(specs: Iterable[Mapping[str, Any]], file: str) -> PageTable:
    """Table of features without duplicates. specs: as run.json describes them."""
    by_key = {spec["key"]: spec for spec in specs}
    rows = [_feature_row(spec) for spec in by_key.values()]
    return PageTable("features", "Features of the heads", _HEADINGS, rows, file, _MEANINGS, frozenset(range(1, 8)))


def facts(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts of a run or table as pairs of name and text."""
    pairs = [("made", metadata["created"]), ("command", metadata["command"]), ("media", metadata["media_root"])]
    manifest = metadata["manifest"]
    pairs.append(
        ("manifest", ", ".join(f"{name} {_short(value)}" for name, value in manifest.items() if name != "class_ids"))
    )
    pairs = [(name, value) for name, value in pairs if value]
    pairs.append(("versions", ", ".join(f"{name} {version}" for name, version in metadata["software"].items())))
    return pairs


def run_facts(run: Run) -> list[tuple[str, str]]:
    """Facts of a run, with the time that training took."""
    metadata = run.described
    seconds = sum(result.described["cost"]["seconds"] for results in run.heads.values() for result in results)
    clips = metadata["clips"]
    return [
        ("folder", str(run.folder)),
        *facts(metadata),
        ("clips", ", ".join(f"{clips[name]} {name}" for name in ("train", "validation", "test", "unlabelled"))),
        ("clips and features (hash)", metadata["data"]),
        ("training took", f"{_duration(seconds)} for {sum(map(len, run.heads.values()))} heads"),
        *[("training", ", ".join(f"{name} {value}" for name, value in metadata["training"].items()))],
    ]


def settings_table(rows: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]], file: str) -> PageTable:
    """Table of every setting of every row. rows: name, recipe, and the head's own options."""
    names = list(dict.fromkeys(name for _, recipe, options in rows for name in (*recipe, *options)))
    table = [
        [Cell(name), *(cell(_short((dict(recipe) | dict(options)).get(setting, "-"))) for setting in names)]
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
    """Licence of the registered checkpoint with this hash. Libraries' networks are skipped, which could download."""
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
    return next(
        (checkpoint for checkpoint in published if checkpoint.sha256 and sha256.startswith(checkpoint.sha256)), None
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
