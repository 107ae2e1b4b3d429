"""The experiment file: rows of a table, each a head on features that are named by role, and published numbers.

Roles, such as `frames` or `image.mfcc.flips`, stand for features; a map in backbones/ resolves them, so that a table
runs on the networks that a paper used or on others. A user's own table may name features directly.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from avfuse.features.errors import UsageError

DataSet = Literal["ucf101", "kinetics_sounds", "vggsound", "epic_kitchens_100"]
DATA_SETS: tuple[DataSet, ...] = get_args(DataSet)
"""Data sets with published numbers, by the builder of their manifests."""

Value = str | int | float | bool

Kind = TypeVar("Kind", bound=BaseModel)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableRow(_Model):
    """One row of a table. A row without a head has published numbers only."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    label: str
    section: str = ""
    head: str | None = None
    video: tuple[str, ...] = ()  # roles, or names of features, such as `lite:mfcc`; only these have a colon
    audio: tuple[str, ...] = ()
    settings: Mapping[str, Value] = {}  # the paper's, of recipe and head, on top of the table's
    baseline: str | None = None  # id of the row that this one is tested against
    published: Mapping[DataSet, Mapping[str, float]] = {}  # by data set and measure, as printed (per cent, GMACs, nats)
    note: str = ""


class ExperimentTable(_Model):
    """A table of a paper, or a user's own."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str
    paper: str = ""
    data: tuple[DataSet, ...] = ()  # data sets with published numbers; a user's own table has none
    settings: Mapping[str, Value] = {}  # of all rows
    settings_of_data: Mapping[DataSet, Mapping[str, Value]] = {}  # on top of `settings`, by data set
    measures: tuple[str, ...] = ()  # shown beside the data set's own score
    classes: tuple[str, ...] = ()  # shown one by one, where the data set has them
    curves: bool = False  # whether learning curves are written
    notes: tuple[str, ...] = ()
    rows: tuple[TableRow, ...]

    @model_validator(mode="after")
    def _check_rows(self) -> "ExperimentTable":
        ids = [row.id for row in self.rows]
        if duplicates := [row_id for row_id in ids if ids.count(row_id) > 1]:
            raise ValueError(f"two rows are called {duplicates[0]}")
        for row in self.rows:
            if row.baseline is not None and row.baseline not in ids:
                raise ValueError(f"row {row.id} has the baseline {row.baseline}, which is no row")
            for modality in ("video", "audio"):
                if row.head is not None and not getattr(row, modality):
                    raise ValueError(
                        f"row {row.id} names no features of {modality}: a row names those of both, as all rows have "
                        "the same clips, and a head of one modality takes its own"
                    )
            if row.published and not self.data:
                raise ValueError(f"row {row.id} has published numbers, so name the data sets of the table: data")
        return self

    @property
    def trained(self) -> tuple[TableRow, ...]:
        """Rows with a head."""
        return tuple(row for row in self.rows if row.head is not None)

    def settings_of(self, row: TableRow, data: str | None = None) -> dict[str, Value]:
        """The paper's settings of one row on a data set."""
        of_data = next((own for name, own in self.settings_of_data.items() if name == data), {})
        return {**self.settings, **of_data, **row.settings}


class Backbones(_Model):
    """A map of roles to features. Rows that need a role which it lacks are not run."""

    name: str
    summary: str
    base: str | None = None  # a map that this one extends
    substitute: bool | tuple[str, ...] = True  # whether networks differ from the papers', or the roles whose do
    roles: Mapping[str, str]  # `NAME` or `NAME SAMPLING` of features; several names are joined by commas
    settings: Mapping[str, Value] = {}  # of heads, to suit these features; they override a paper's table
    marks: Mapping[str, str] = {}  # notes on features, by role


def table_names() -> list[str]:
    """Names of the tables that come with avfuse."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml"))


def backbones_names() -> list[str]:
    """Names of the maps of roles that come with avfuse."""
    return sorted(path.name.removesuffix(".yaml") for path in (_folder() / "backbones").iterdir())


def load_table(name: str) -> ExperimentTable:
    """Load a table that comes with avfuse, or a .yaml file. Raises UsageError for an unknown name or invalid file."""
    return _load(ExperimentTable, name, table_names(), "", "table")


def load_backbones(name: str) -> Backbones:
    """Load a map of roles merged with its base. Raises UsageError as `load_table` does."""
    own = _load(Backbones, name, backbones_names(), "backbones/", "map of backbones")
    if own.base is None:
        return own
    base = _load(Backbones, own.base, backbones_names(), "backbones/", "map of backbones")
    if base.base is not None:
        raise UsageError(f"{name} has the base {own.base}, which has a base itself: name {base.base}")
    merged = {name: {**getattr(base, name), **getattr(own, name)} for name in ("roles", "settings", "marks")}
    return own.model_copy(update={"substitute": base.substitute, **own.model_dump(exclude_unset=True), **merged})


def _load(kind: type[Kind], name: str, known: list[str], folder: str, what: str) -> Kind:
    if name in known:
        text = (_folder() / f"{folder}{name}.yaml").read_text()
    elif name.endswith((".yaml", ".yml")):
        try:
            text = Path(name).read_text()
        except OSError as error:
            raise UsageError(f"{name} cannot be read ({error.strerror})") from error
    else:
        raise UsageError(f"unknown {what} '{name}': choose from {', '.join(known)}, or name a .yaml file")
    try:
        return kind.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is not YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ") for item in error.errors()]
        raise UsageError(f"{name}: {'; '.join(problems)}") from error


def _folder() -> Any:
    return files("avfuse.pipeline.experiments")
