"""The head API: named token tensors and masks in, logits out; and the registry of heads."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.features.name_rules import check_name
from avfuse.features.plugins import run_plugin_files
from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.shapes import InputLayout, ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.modality_input import ModalityInput
from avfuse.stages.fuse.heads.old_names import OldHeadNames, accept_old_arguments
from avfuse.stages.fuse.losses import multi_target_loss

Masks = Mapping[str, Tensor | None]
"""Clips that have a modality: bool (B,) by name, None where all have it."""

_TOKENS: Mapping[str, InputLayout] = MappingProxyType({})


class Head(nn.Module, OldHeadNames):
    """A trainable fusion module over cached features.

    `forward` takes the output of `prepare` and masks {modality: bool (B,) or None}; it returns {"logits": (B,
    targets.width)}, targets side by side, and may add named outputs. Auxiliary losses need `before_video` and
    `before_audio` (B, d), each modality before fusion, `after_video` and `after_audio` (B, d), after fusion, and
    `tokens_video` and `tokens_audio` (B, T, d), the fused tokens.

    `Options` are the head's own settings, each with a default. `recipe` is the default training recipe.
    """

    name: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]]
    summary: ClassVar[str]
    recipe: ClassVar[Recipe] = Recipe()
    revision: ClassVar[int] = 1
    """Raise it when the same clips and seed would give another head: saved heads are then trained again."""
    accepts_filter_bank: ClassVar[bool] = False
    """Whether the filter bank itself may be a modality."""
    evaluation_batch_size: ClassVar[int] = 1024
    """Largest batch outside training."""
    fits_without_epochs: ClassVar[bool] = False
    """Whether it is fitted by `fit_without_epochs` instead of gradient descent."""

    class Options(Settings):
        """None, unless a head defines some."""

    @accept_old_arguments
    def __init__(
        self,
        shapes: Mapping[str, ModalityShape],
        targets: Targets,
        layouts: Mapping[str, InputLayout] = _TOKENS,
        unstandardised: Sequence[str] = (),
    ) -> None:
        """Build the inputs.

        Args:
            shapes: of each used modality.
            targets: whose logits the head returns.
            layouts: by modality, `tokens` unless named.
            unstandardised: modalities that are taken as they are cached.

        Raises UsageError for a filter bank that the head does not accept.
        """
        super().__init__()
        self.targets = targets
        self.shapes = {name: ModalityShape(*shape) for name, shape in shapes.items()}
        for shape in self.shapes.values():
            if shape.raw and not self.accepts_filter_bank:
                raise UsageError(
                    f"head '{self.name}' takes what a backbone gives, and audio:fbank is for mat and mmt (encoder=mat)"
                )
        self.inputs = nn.ModuleDict(
            {
                name: ModalityInput(shape, layouts.get(name, "tokens"), name in unstandardised)
                for name, shape in self.shapes.items()
            }
        )

    @classmethod
    def used_modalities(cls, options: Settings) -> tuple[str, ...]:
        """Names of the modalities that it takes."""
        return cls.modalities

    @classmethod
    def parents(cls, options: Settings) -> Mapping[str, Settings]:
        """Heads to train first, from the same seed, with their options."""
        return {}

    @classmethod
    def parent_recipe_overrides(cls, options: Settings) -> Mapping[str, float]:
        """Recipe values that the parents do not take from their own recipes."""
        return {}

    def init_from_parents(self, parents: Mapping[str, "Head"]) -> None:
        """Copy weights of the trained parents, before training."""

    def fit_without_epochs(
        self, prepared: Mapping[str, Tensor], present: Masks, truth: Sequence[Tensor], seed: int
    ) -> None:
        """Set the weights from all training clips at once; called where `fits_without_epochs`."""
        raise NotImplementedError

    def input(self, name: str) -> ModalityInput:
        """The input of one modality: its standardisation, layout, and token for clips without it."""
        module = self.inputs[name]
        assert isinstance(module, ModalityInput)
        return module

    def modality_inputs(self) -> dict[str, ModalityInput]:
        """The input of each used modality."""
        return {name: self.input(name) for name in self.inputs}

    def prepare(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Standardise tokens {modality: (B, T, D)}, NaN where a clip lacks the modality, and bring them to the head's
        layouts: the argument of `forward`, the same in every epoch."""
        inputs = self.modality_inputs()
        return {name: inputs[name].prepare(tokens[name], present[name]) for name in inputs}

    def fill_missing(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        """Put a learned token in the place of missing modalities."""
        return {name: self.input(name)(prepared[name], present[name]) for name in self.inputs}

    def predict(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs for clips as they are loaded: `forward` of `prepare`."""
        outputs: dict[str, Tensor] = self(self.prepare(tokens, present), present)
        return outputs

    def loss(
        self, outputs: Mapping[str, Tensor], present: Masks, truth: Sequence[Tensor], smoothing: float = 0.0
    ) -> Tensor:
        """Classification loss, a scalar: the mean over targets of the logits' cross-entropy, unless overridden.

        Args:
            outputs: of `forward`.
            present: masks of the batch.
            truth: one tensor per target, as in `Targets`.
            smoothing: label smoothing.
        """
        return multi_target_loss(self.targets, outputs["logits"], truth, smoothing)


_HEADS: dict[str, type[Head]] = {}
_HeadType = TypeVar("_HeadType", bound=type[Head])


def register_head(name: str, *, modalities: tuple[str, ...], summary: str) -> Callable[[_HeadType], _HeadType]:
    """Class decorator: register a head under `name`. Raises UsageError for a name that is taken.

    Args:
        name: on the command line, in tables and run folders.
        modalities: that the head can take, `video`, `audio` or both.
        summary: one line for the list of heads.
    """

    def register(head: _HeadType) -> _HeadType:
        check_name(name, "head")
        if name in _HEADS:
            raise UsageError(f"a head cannot be called '{name}': the name is taken")
        head.name, head.modalities, head.summary = name, modalities, summary
        _HEADS[name] = head
        return head

    return register


STANDARD = ("audio", "video", "average", "mlp", "crossattn", "bottleneck")
"""The heads of FUSION=all: they take any features."""

PLUGIN_FILES, ENTRY_POINTS = "AVFUSE_HEADS", "avfuse.heads"
_ORDER = (
    "audio",
    "mat",
    "mat_lite",
    "video",
    "average",
    "svc",
    "logreg",
    "mlp",
    "alpha",
    "crossattn",
    "bottleneck",
    "mmt",
)


def head_names() -> list[str]:
    """Registered heads in the order of tables: single modalities, late fusion, then joint heads."""
    _register_plugins()
    return sorted(_HEADS, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def get_head(name: str) -> type[Head]:
    """The class of a registered head. Raises UsageError that lists the known heads."""
    _register_plugins()
    if name not in _HEADS:
        raise UsageError(
            f"unknown fusion '{name}': choose from {', '.join(head_names())}, all, or a head of your "
            "own: AVFUSE_HEADS=FILE.py (docs/add-a-head.md)"
        )
    return _HEADS[name]


def build_head(
    name: str, shapes: Mapping[str, ModalityShape], targets: Targets, options: Settings | None = None
) -> Head:
    """A freshly initialised head.

    Args:
        name: of a registered head.
        shapes: of at least the modalities that it uses.
        targets: to predict.
        options: of the head's class, by default its defaults.

    Raises UsageError where a modality has another shape than the head needs.
    """
    head = get_head(name)
    chosen = head.Options() if options is None else options
    used = {modality: shapes[modality] for modality in head.used_modalities(chosen)}
    built: Head = head(used, targets, chosen)  # type: ignore[arg-type]
    return built


@lru_cache
def _register_plugins() -> None:
    """Import installed packages' entry points of the group `avfuse.heads` and the Python files in AVFUSE_HEADS: both
    call `register_head` themselves."""
    for point in entry_points(group=ENTRY_POINTS):
        point.load()
    run_plugin_files(PLUGIN_FILES)
