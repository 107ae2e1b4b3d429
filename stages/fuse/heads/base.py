"""What every head is: named token tensors and masks in, logits out."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.features.name_rules import check_name
from avfuse.features.plugins import run_own_files
from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.shapes import Form, ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.modality_input import ModalityInput
from avfuse.stages.fuse.losses import loss_of_targets

Masks = Mapping[str, Tensor | None]
"""Which clips have a modality: bool (B,) by name, None where all have it."""

_TOKENS: Mapping[str, Form] = MappingProxyType({})


class Head(nn.Module):
    """A trainable fusion module over cached features.

    `forward` takes what `prepare` makes of tokens {modality: (B, T, D)}, NaN where a clip lacks the modality, and masks
    {modality: bool (B,) or None}; it returns {"logits": (B, targets.width)}, those of one target after the other, and
    may add named extras. Those that losses beside classification need are called `before_video`, `before_audio`
    (B, d), each modality before it has seen the other, `after_video`, `after_audio` (B, d), after it, and
    `tokens_video`, `tokens_audio` (B, T, d), the same for each token.

    `Options` are what can be chosen of a head; each has a default. `recipe` is how it is trained unless told otherwise.
    """

    name: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]]
    summary: ClassVar[str]
    recipe: ClassVar[Recipe] = Recipe()
    revision: ClassVar[int] = 1
    """Raised when the same clips and seed would give another head: heads trained before are then trained again."""
    takes_raw: ClassVar[bool] = False
    """Whether the filter bank itself may be a modality."""
    evaluation_batch: ClassVar[int] = 1024
    """Clips that it looks at together, at most, where nothing is trained."""
    fits_at_once: ClassVar[bool] = False
    """Whether it is fitted by `fit_at_once` and not by gradients, epoch by epoch."""

    class Options(Settings):
        """None, unless a head says otherwise."""

    def __init__(
        self,
        shapes: Mapping[str, ModalityShape],
        targets: Targets,
        forms: Mapping[str, Form] = _TOKENS,
        as_is: Sequence[str] = (),
    ) -> None:
        """forms: of modalities that are not taken token by token. as_is: modalities that are not standardised."""
        super().__init__()
        self.targets = targets
        self.shapes = {name: ModalityShape(*shape) for name, shape in shapes.items()}
        for shape in self.shapes.values():
            if shape.raw and not self.takes_raw:
                raise UsageError(
                    f"head '{self.name}' takes what a backbone gives, and audio:fbank is for mat and mmt (encoder=mat)"
                )
        self.inputs = nn.ModuleDict(
            {
                name: ModalityInput(shape, forms.get(name, "tokens"), name in as_is)
                for name, shape in self.shapes.items()
            }
        )

    @classmethod
    def sees(cls, options: Settings) -> tuple[str, ...]:
        """The modalities it takes."""
        return cls.modalities

    @classmethod
    def parents(cls, options: Settings) -> Mapping[str, Settings]:
        """Heads that are trained first, from the same seed, with their options."""
        return {}

    @classmethod
    def parents_recipe(cls, options: Settings) -> Mapping[str, float]:
        """What of these heads' recipes is not their own."""
        return {}

    def start_from(self, parents: Mapping[str, "Head"]) -> None:
        """Take what parents have learned, before training."""

    def fit_at_once(self, prepared: Mapping[str, Tensor], present: Masks, truth: Sequence[Tensor], seed: int) -> None:
        """Set the weights from all clips that it is fitted on, where `fits_at_once`."""
        raise NotImplementedError

    def input(self, name: str) -> ModalityInput:
        """The input of one modality: its standardisation, form, and token for clips without it."""
        module = self.inputs[name]
        assert isinstance(module, ModalityInput)
        return module

    def doors(self) -> dict[str, ModalityInput]:
        """The input of each modality it sees."""
        return {name: self.input(name) for name in self.inputs}

    def prepare(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `forward` takes, standardised and in the head's forms: the same in every epoch."""
        return {name: door.prepare(tokens[name], present[name]) for name, door in self.doors().items()}

    def read(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        """Prepared inputs, with a learned token in the place of a missing modality."""
        return {name: self.input(name)(prepared[name], present[name]) for name in self.inputs}

    def predict(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the head says of clips as they are loaded: `forward` of `prepare`."""
        outputs: dict[str, Tensor] = self(self.prepare(tokens, present), present)
        return outputs

    def loss(
        self, outputs: Mapping[str, Tensor], present: Masks, truth: Sequence[Tensor], smoothing: float = 0.0
    ) -> Tensor:
        """Scalar; the mean over targets of the logits' cross-entropy unless a head says otherwise. truth: a tensor a
        target, as Targets has it. smoothing: of labels."""
        return loss_of_targets(self.targets, outputs["logits"], truth, smoothing)


_HEADS: dict[str, type[Head]] = {}
_HeadType = TypeVar("_HeadType", bound=type[Head])


def register_head(name: str, *, modalities: tuple[str, ...], summary: str) -> Callable[[_HeadType], _HeadType]:
    """Class decorator: make a head known to the command line under `name`, which must not be taken."""

    def register(head: _HeadType) -> _HeadType:
        check_name(name, "head")
        if name in _HEADS:
            raise UsageError(f"a head cannot be called '{name}': the name is taken")
        head.name, head.modalities, head.summary = name, modalities, summary
        _HEADS[name] = head
        return head

    return register


STANDARD = ("audio", "video", "average", "mlp", "crossattn", "bottleneck")
"""What is meant by all: they take any features."""

OWN_FILES, ENTRY_POINTS = "AVFUSE_HEADS", "avfuse.heads"
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
    """In the order in which tables list them: single modalities, late fusion, then joint heads."""
    _register_users_own()
    return sorted(_HEADS, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))


def get_head(name: str) -> type[Head]:
    """The class of a registered head, a user's own among them. Raises UsageError that lists the known heads."""
    _register_users_own()
    if name not in _HEADS:
        raise UsageError(
            f"unknown fusion '{name}': choose from {', '.join(head_names())}, all, or a head of your "
            "own: AVFUSE_HEADS=FILE.py (docs/add-a-head.md)"
        )
    return _HEADS[name]


def build_head(
    name: str, shapes: Mapping[str, ModalityShape], targets: Targets, options: Settings | None = None
) -> Head:
    """A freshly initialised head that sees only its own modalities. options: of the head's class, by default its
    defaults. Raises UsageError where a modality has not the shape that the head needs."""
    head = get_head(name)
    chosen = head.Options() if options is None else options
    built: Head = head({modality: shapes[modality] for modality in head.sees(chosen)}, targets, chosen)  # type: ignore[arg-type]
    return built


@lru_cache
def _register_users_own() -> None:
    """Heads of installed packages that name a class as an entry point of the group `avfuse.heads`, and of the Python
    files in AVFUSE_HEADS; both call `register_head` themselves."""
    for point in entry_points(group=ENTRY_POINTS):
        point.load()
    run_own_files(OWN_FILES)
