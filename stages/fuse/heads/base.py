"""What every head is: named token tensors and masks in, logits out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

from torch import Tensor, nn

from features.errors import UsageError
from stages.fuse.heads.inputs import Form, ModalityInput
from stages.fuse.losses import loss_of_targets
from stages.fuse.targets import Targets

Masks = Mapping[str, Tensor | None]
"""Which clips have a modality: bool (B,) by name, None where all have it."""


class ModalityShape(NamedTuple):
    """Tokens per clip and their dimension."""

    length: int
    dim: int


@dataclass(frozen=True)
class Optimisation:
    """How a head is trained unless the user says otherwise: Adam with decoupled weight decay, for at most `epochs`,
    less when validation has not improved for `patience` of them."""

    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch_size: int = 64
    epochs: int = 60
    patience: int = 10


class Head(nn.Module):
    """A trainable fusion module over cached features.

    `forward` takes tokens {modality: (B, T, D)}, NaN where a clip lacks the modality, and masks {modality: bool (B,)};
    it returns {"logits": (B, targets.width)}, those of one target after the other, and may add named extras.
    """

    name: ClassVar[str]
    modalities: ClassVar[tuple[str, ...]]
    summary: ClassVar[str]
    optimisation: ClassVar[Optimisation] = Optimisation()

    forms: ClassVar[Mapping[str, Form]] = {}

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets) -> None:
        super().__init__()
        self.targets = targets
        self.inputs = nn.ModuleDict(
            {name: ModalityInput(*shape, self.forms.get(name, "tokens")) for name, shape in shapes.items()}
        )

    def fit_inputs(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
        """Set the standardisation of every input from training clips."""
        for name in self.inputs:
            self.input(name).fit(tokens[name], present[name])

    def prepare(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `forward` takes, standardised and in the head's forms: the same in every epoch."""
        return {name: self.input(name).prepare(tokens[name], present[name]) for name in self.inputs}

    def read(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        """Prepared inputs, with a learned token in the place of a missing modality."""
        return {name: self.input(name)(prepared[name], present[name]) for name in self.inputs}

    def input(self, name: str) -> ModalityInput:
        module = self.inputs[name]
        assert isinstance(module, ModalityInput)
        return module

    def predict(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the head says of clips as they are loaded: `forward` of `prepare`."""
        outputs: dict[str, Tensor] = self(self.prepare(tokens, present), present)
        return outputs

    def loss(self, outputs: Mapping[str, Tensor], present: Masks, truth: Sequence[Tensor]) -> Tensor:
        """Scalar; the mean over targets of the logits' cross-entropy unless a head says otherwise. truth: a tensor a
        target, as Targets has it."""
        return loss_of_targets(self.targets, outputs["logits"], truth)


_HEADS: dict[str, type[Head]] = {}
_HeadType = TypeVar("_HeadType", bound=type[Head])


def register_head(name: str, *, modalities: tuple[str, ...], summary: str) -> Callable[[_HeadType], _HeadType]:
    """Class decorator: make a head known to the command line under `name`."""

    def register(head: _HeadType) -> _HeadType:
        if name in _HEADS:
            raise ValueError(f"head '{name}' is registered twice")
        head.name, head.modalities, head.summary = name, modalities, summary
        _HEADS[name] = head
        return head

    return register


def head_names() -> list[str]:
    """In the order in which tables list them: single modalities, late fusion, then joint heads."""
    order = ["audio", "video", "average", "mlp", "crossattn", "bottleneck"]
    return sorted(_HEADS, key=lambda name: (order.index(name) if name in order else len(order), name))


def get_head(name: str) -> type[Head]:
    """Raises UsageError that lists the known heads."""
    if name not in _HEADS:
        raise UsageError(f"unknown fusion '{name}': choose from {', '.join(head_names())}, or all")
    return _HEADS[name]


def build_head(name: str, shapes: Mapping[str, ModalityShape], targets: Targets) -> Head:
    """A freshly initialised head that sees only its own modalities."""
    head = get_head(name)
    return head({modality: shapes[modality] for modality in head.modalities}, targets)
