"""What an experiment file says: rows of a table, each a head on features that are named by role, and published numbers.

Roles, such as `frames` or `image.mfcc.flips`, stand for features; a map in backbones/ says which, so that a table runs
on the networks that a paper used as well as on those that are at hand. A user's own table may name features themselves.
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
"""That numbers are published for, by the builder of a manifest."""

Value = str | int | float | bool

Kind = TypeVar("Kind", bound=BaseModel)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableRow(_Model):
    """One line of a table. Without a head it is published only.

    `video`, `audio`: roles, or features by their names, such as `lite:mfcc`, which have a colon where roles have none.
    `settings` are the paper's own, of recipe and head, on top of the table's; `baseline` is the id of the row that this
    one is tested against. `published`: data set -> measure -> number as printed (per cent, GMACs, nats).
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    label: str
    section: str = ""
    head: str | None = None
    video: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    settings: Mapping[str, Value] = {}
    baseline: str | None = None
    published: Mapping[DataSet, Mapping[str, float]] = {}
    note: str = ""


class ExperimentTable(_Model):
    """A table of a paper, or of a user, which has no `data`: nothing of it is published. `settings` are those of all
    rows, on a data set with those of `settings_of_data` on top; `measures` are shown, the first is what rows are
    compared by where it is not the data set's own; `classes` are shown one by one, where the data set has them;
    `curves` asks for learning curves."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str
    paper: str = ""
    data: tuple[DataSet, ...] = ()
    settings: Mapping[str, Value] = {}
    settings_of_data: Mapping[DataSet, Mapping[str, Value]] = {}
    measures: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    curves: bool = False
    notes: tuple[str, ...] = ()
    rows: tuple[TableRow, ...]

    @model_validator(mode="after")
    def _check_rows(self) -> "ExperimentTable":
        ids = [row.id for row in self.rows]
        if twice := [one for one in ids if ids.count(one) > 1]:
            raise ValueError(f"two rows are called {twice[0]}")
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
        """The rows that are more than published."""
        return tuple(row for row in self.rows if row.head is not None)

    def settings_of(self, row: TableRow, data: str | None = None) -> dict[str, Value]:
        """The paper's own, of one row on one of the data sets."""
        of_data = next((own for name, own in self.settings_of_data.items() if name == data), {})
        return {**self.settings, **of_data, **row.settings}


class Backbones(_Model):
    """A map of roles to features: `NAME` or `NAME SAMPLING`, several joined by a comma. A role that it lacks has no
    network here, and rows that need it are not run. `marks` says of features, by role, what a reader must know;
    `settings` of heads suit these features or the machine that has no others, and go before a table's. `substitute`:
    whether they stand for the papers' own networks; a list names the roles that do. `base`: a map that this one only
    adds to and changes."""

    name: str
    summary: str
    base: str | None = None
    substitute: bool | tuple[str, ...] = True
    roles: Mapping[str, str]
    settings: Mapping[str, Value] = {}
    marks: Mapping[str, str] = {}


def table_names() -> list[str]:
    """Of the tables that come with avfuse."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml"))


def backbones_names() -> list[str]:
    """Of the maps of roles that come with avfuse."""
    return sorted(path.name.removesuffix(".yaml") for path in (_folder() / "backbones").iterdir())


def load_table(name: str) -> ExperimentTable:
    """A table that comes with avfuse, or of a user's own file. Raises UsageError for one that is neither."""
    return _load(ExperimentTable, name, table_names(), "", "table")


def load_backbones(name: str) -> Backbones:
    """Likewise, a map of roles, with what it has of its base."""
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
        raise UsageError(f"{name} is no YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}".removeprefix(": ") for each in error.errors()]
        raise UsageError(f"{name}: {'; '.join(wrong)}") from error


def _folder() -> Any:
    return files("avfuse.pipeline.experiments")
