"""What a network of any library gives, found by asking it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avfuse.features.backbones.registry import Encoded


class OutputShapes(NamedTuple):
    """Shapes of what a network makes of one item. tokens: (N, D), or None."""

    feature_dim: int
    tokens: tuple[int, int] | None


def probe_output_shapes(
    make: Callable[[], nn.Module], encode: Callable[[Any, Tensor], Encoded], shape: tuple[int, ...]
) -> OutputShapes:
    """One item of zeros through the network, without weights or arithmetic where the library allows for that."""
    import torch

    def give(device: str) -> OutputShapes:
        with torch.device(device), torch.inference_mode():
            encoded = encode(make().eval(), torch.zeros(1, *shape))
        tokens = None if encoded.tokens is None else (encoded.tokens.shape[1], encoded.tokens.shape[2])
        return OutputShapes(encoded.pooled.shape[1], tokens)

    try:
        return give("meta")
    except (NotImplementedError, RuntimeError):
        return give("cpu")  # some read their own numbers while they are made
