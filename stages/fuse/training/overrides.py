"""What a user asks of training, before it is known of which head."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from avfuse.features.errors import UsageError
from avfuse.moved_modules import renamed
from avfuse.stages.fuse.config import Recipe, Settings, parse_settings
from avfuse.stages.fuse.heads import get_head

PER_HEAD = ("lr", "weight_decay", "l1")
"""Settings in which heads that share a pass may differ."""


class TrainingOverrides:
    """How to train: settings by name, of recipes and of heads' options, as text or as they are; what is not given is
    the head's own. `shuffle_labels` permutes the training labels, a control under which every head must fall to chance.
    """

    def __init__(self, *, shuffle_labels: bool = False, **given: Any) -> None:
        self.shuffle_labels = shuffle_labels
        self.settings: Mapping[str, Any] = {name: value for name, value in given.items() if value is not None}

    def updated(self, more: Mapping[str, Any]) -> "TrainingOverrides":
        """With further settings."""
        return TrainingOverrides(shuffle_labels=self.shuffle_labels, **{**self.settings, **more})

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
        """Raises UsageError for a setting that none of the heads has, and for values that cannot be."""
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
        """As plain values."""
        return {**{name: str(value) for name, value in self.settings.items()}, "shuffle_labels": self.shuffle_labels}


def accepts_setting(head: str, name: str) -> bool:
    """Whether a setting of this name means anything to a head."""
    return name in Recipe.model_fields or name in get_head(head).Options.model_fields


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Training": "TrainingOverrides", "knows": "accepts_setting"})
