"""The folder of a run, and all that knows its format on disk.

runs/<dataset>/<name>/
    run.json                    data, settings, rows: all that the numbers depend on
    results.csv                 one line per row and seed
    <row>/seed-<n>.json         settings and metrics of one trained head; written last, it marks the head complete
    <row>/seed-<n>.curve.csv    its learning curve
    <row>/seed-<n>.npz          its predictions: clip_id, logits and target_<name> of test clips,
                                unlabelled_clip_id and unlabelled_logits
    <row>/seed-<n>.safetensors  its weights
    <row>/seed-<n>.space.safetensors  of a head trained with contrast, its layers to the joint embedding
    <row>/choice-<n>.json       where validation selects rows, the learning curve that it selects by
    .training/                  checkpoints of unfinished training

A row is a head, or in a sweep a head and the values swept: `mlp`, `mlp,lr=1e-4,l1=0`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from avfuse.features.atomic import atomic_write
from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.evaluation.metrics import Truth
from avfuse.stages.fuse.heads import head_names

FORMAT_VERSION = 4


class SeedFiles:
    """The files of one trained head, `<row>/seed-<n>` with different endings."""

    def __init__(self, stem: Path) -> None:
        self.stem = stem
        self.seed = int(stem.name.split("-")[1])
        self.metadata = stem.with_suffix(".json")
        self.predictions = stem.with_suffix(".npz")
        self.curve = stem.with_suffix(".curve.csv")
        self.weights = stem.with_suffix(".safetensors")
        self.joint_embedding = stem.with_suffix(".space.safetensors")

    def write(
        self,
        head: nn.Module,
        joint_embedding: nn.Module | None,
        predictions: Mapping[str, NDArray[Any]],
        curve: pd.DataFrame,
        metadata: Mapping[str, Any],
    ) -> None:
        """Save a trained head. Its metadata come last and mark it complete."""
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        _save_weights(head, self.weights)
        if joint_embedding is not None:
            _save_weights(joint_embedding, self.joint_embedding)
        np.savez_compressed(self.predictions, **predictions)  # type: ignore[arg-type]
        curve.to_csv(self.curve, index=False)
        write_json(self.metadata, metadata)

    def read(self, row: str, targets: Sequence[Mapping[str, Any]]) -> "SeedResult":
        """The trained head of a run with these targets."""
        with np.load(self.predictions, allow_pickle=False) as saved:
            return SeedResult(
                row=row,
                seed=self.seed,
                file=self.predictions,
                described=read_json(self.metadata),
                clip_ids=_decoded(saved["clip_id"]),
                truth=tuple(saved[f"target_{target['name']}"] for target in targets),
                logits=saved["logits"],
                curve=pd.read_csv(self.curve),
            )

    def remove(self) -> None:
        for file in self.stem.parent.glob(f"{self.stem.name}.*"):
            file.unlink()


@dataclass(frozen=True)
class SeedResult:
    """One trained head, read back from its run."""

    row: str
    """The head with the values swept."""
    seed: int
    file: Path
    """Its predictions, `<row>/seed-<n>.npz`."""
    described: dict[str, Any]
    """Its JSON: settings, metrics, cost."""
    clip_ids: list[str]
    """Test clips."""
    truth: tuple[Truth, ...]
    """An array per target, in the order of `clip_ids`."""
    logits: NDArray[np.float32]
    """(n_test, width)."""
    curve: pd.DataFrame
    """The learning curve, a line per epoch."""

    @property
    def head(self) -> str:
        """The row without the values swept."""
        return head_of(self.row)

    @property
    def files(self) -> SeedFiles:
        return SeedFiles(self.file.with_suffix(""))

    def unlabelled(self) -> tuple[list[str], NDArray[np.float32]]:
        """Ids of the unlabelled clips, and their logits (n_unlabelled, width)."""
        with np.load(self.file, allow_pickle=False) as saved:
            return _decoded(saved["unlabelled_clip_id"]), saved["unlabelled_logits"]


@dataclass(frozen=True)
class Run:
    """Trained heads over one data set, by row and in the order of their seeds. `described` is run.json."""

    folder: Path
    described: dict[str, Any]
    heads: dict[str, list[SeedResult]]

    @cached_property
    def targets(self) -> Targets:
        return Targets.from_dicts(self.described["targets"])

    @property
    def groups(self) -> NDArray[np.object_]:
        """The group of each test clip (n_test,), in the order of SeedResult.clip_ids."""
        return np.array(self.described["test_groups"], dtype=object)


def head_of(row: str) -> str:
    """The head of a row."""
    return row.partition(",")[0]


class RunFolder:
    """Reads and writes the folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata_file = path / "run.json"
        self.results_file = path / "results.csv"
        self.checkpoints = path / ".training"

    @property
    def exists(self) -> bool:
        return self.metadata_file.is_file()

    def seed(self, row: str, seed: int) -> SeedFiles:
        return SeedFiles(self.path / row / f"seed-{seed}")

    def seeds(self, row: str) -> list[SeedFiles]:
        """The complete seeds of a row, in order."""
        files = [SeedFiles(file.with_suffix("")) for file in (self.path / row).glob("seed-*.json")]
        return sorted(files, key=lambda seed_files: seed_files.seed)

    def choice(self, row: str, seed: int) -> Path:
        """The file with the learning curve by which validation selects rows."""
        return self.path / row / f"choice-{seed}.json"

    def read_metadata(self) -> dict[str, Any]:
        """run.json. Raises UsageError when there is none, or another version made it."""
        metadata = read_json(self.metadata_file)
        if metadata.get("format_version") != FORMAT_VERSION:
            raise UsageError(
                f"{self.path} holds a run of another version of avfuse, which cannot be read: train it again "
                "(--replace)"
            )
        return metadata

    def count_seeds(self) -> dict[str, int]:
        """The number of complete seeds of each row that has any."""
        return {row: len(seeds) for row in self.read_metadata()["rows"] if (seeds := self.seeds(row))}

    def load(self, row: str | None = None) -> Run:
        """Load all rows or one. Raises UsageError as `read_metadata`."""
        metadata = self.read_metadata()
        rows = [name for name in metadata["rows"] if row in (None, name)]
        heads = {name: [seed.read(name, metadata["targets"]) for seed in self.seeds(name)] for name in rows}
        return Run(self.path, metadata, {name: results for name, results in heads.items() if results})

    def claim(self, metadata: dict[str, Any], rows: Sequence[str], replace: bool) -> None:
        """Write run.json with these rows added to `metadata`; `replace` removes heads with other data or settings.

        Raises UsageError where the folder holds a run with other settings and `replace` is not given.
        """
        earlier = read_json(self.metadata_file) if self.exists else None
        if earlier is not None and not replace:
            self._check_same(earlier, metadata)
        known = [] if earlier is None else earlier.get("rows", [])
        self.path.mkdir(parents=True, exist_ok=True)
        metadata["rows"] = sorted(dict.fromkeys([*known, *rows]), key=lambda row: head_names().index(head_of(row)))
        write_json(self.metadata_file, metadata)
        if replace:
            for file in self.path.glob("*/seed-*.json"):
                head = read_json(file)
                if head["data"] != metadata["data"] or head["training"] != metadata["training"]:
                    SeedFiles(file.with_suffix("")).remove()

    def _check_same(self, earlier: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        words = {"format_version": "another version", "data": "other clips or features", "training": ""}
        differing = {name: text for name, text in words.items() if earlier.get(name) != metadata[name]}
        if not differing:
            return
        differences = [text for text in differing.values() if text]
        differences += list_differences(earlier.get("training", {}), metadata["training"])
        raise UsageError(
            f"{self.path} holds a run with other settings ({'; '.join(differences)}): give this one another name "
            "(NAME=..., --name), or replace it (--replace)"
        )

    def finish(self) -> Run:
        """Remove checkpoints, write results.csv, and load the run."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        run = self.load()
        with atomic_write(self.results_file) as temporary:
            results_table(run).to_csv(temporary, index=False)
        return run


def load_run(folder: Path, head: str | None = None) -> Run:
    """Read a run back, all of its rows or one. Raises UsageError when there is none, or another version made it."""
    return RunFolder(folder).load(head)


def results_table(run: Run) -> pd.DataFrame:
    """One line per row and seed: the values swept, the metrics (shares of 1; nll in nats), the cost."""
    return pd.DataFrame(
        [
            {
                "head": result.head,
                **result.described["swept"],
                "seed": result.seed,
                **result.described["metrics"],
                **result.described["cost"],
            }
            for results in run.heads.values()
            for result in results
        ]
    )


def list_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Each setting in which two runs differ, in words."""
    return [
        f"{name}: {theirs.get(name)} there, {ours.get(name)} here"
        for name in {**ours, **theirs}
        if theirs.get(name) != ours.get(name)
    ]


def read_json(path: Path) -> dict[str, Any]:
    """Raises UsageError for a missing or damaged file."""
    try:
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    except FileNotFoundError as error:
        raise UsageError(
            f"{path.parent} holds no run ({path.name} is missing): train one with avfuse fuse, or name another "
            "(avfuse runs list)"
        ) from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is damaged ({error}): train again with --replace") from error


def read_if_current(path: Path, key: str) -> dict[str, Any] | None:
    """The content of a JSON file, or None where it is missing or made with another key."""
    content = read_json(path) if path.exists() else {}
    return content if content.get("key") == key else None


def write_json(path: Path, content: Mapping[str, Any], indent: int | None = 2) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent) + "\n")


def _save_weights(module: nn.Module, file: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, file)


def _decoded(clip_ids: NDArray[np.bytes_]) -> list[str]:
    return [clip_id.decode() for clip_id in clip_ids]
