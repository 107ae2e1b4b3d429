"""Settings of training as a user gives them, before they are applied to a head."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from avfuse.features.errors import UsageError
from avfuse.moved_modules import renamed, warn_moved
from avfuse.stages.fuse.config import Recipe, Settings, parse_settings
from avfuse.stages.fuse.heads import get_head

PER_HEAD = ("lr", "weight_decay", "l1")
"""Settings in which heads that train in one pass may differ."""


class TrainingOverrides:
    """A user's settings of training, by name: of recipes and of heads' options, as text or as values. What is not given
    is the head's own.

    Args:
        shuffle_labels: permute the training labels, a control under which every head must fall to chance.
        given: the settings; None stands for one that is not given.
    """

    def __init__(self, *, shuffle_labels: bool = False, **given: Any) -> None:
        self.shuffle_labels = shuffle_labels
        self.settings: Mapping[str, Any] = {name: value for name, value in given.items() if value is not None}

    def updated(self, more: Mapping[str, Any]) -> "TrainingOverrides":
        """A copy with further settings."""
        return TrainingOverrides(shuffle_labels=self.shuffle_labels, **{**self.settings, **more})

    def plus(self, more: Mapping[str, Any]) -> "TrainingOverrides":
        """`updated`, by its old name."""
        warn_moved("Training.plus", "TrainingOverrides.updated")
        return self.updated(more)

    def recipe(self, head: str) -> Recipe:
        """Raises UsageError for a value that cannot be."""
        own = {name: value for name, value in self.settings.items() if name in Recipe.model_fields}
        return parse_settings(Recipe, own, f"head '{head}'", get_head(head).recipe)

    def options(self, head: str) -> Settings:
        """Raises UsageError for a value that cannot be."""
        kind = get_head(head).Options
        own = {name: value for name, value in self.settings.items() if name in kind.model_fields}
        return parse_settings(kind, own, f"head '{head}'", kind())

    def check(self, heads: Sequence[str]) -> None:
        """Raises UsageError for a setting that none of the heads has, and for invalid values."""
        for name in self.settings:
            if not any(accepts_setting(head, name) for head in heads):
                known = {head: ", ".join(get_head(head).Options.model_fields) or "none" for head in heads}
                raise UsageError(
                    f"no setting is called '{name}': recipes have {', '.join(Recipe.model_fields)}; "
                    + "; ".join(f"options of {head}: {names}" for head, names in known.items())
                )
        for head in heads:
            self.recipe(head), self.options(head)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**{name: str(value) for name, value in self.settings.items()}, "shuffle_labels": self.shuffle_labels}


def accepts_setting(head: str, name: str) -> bool:
    """Whether a setting of this name exists for a head."""
    return name in Recipe.model_fields or name in get_head(head).Options.model_fields


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Training": "TrainingOverrides", "knows": "accepts_setting"})
