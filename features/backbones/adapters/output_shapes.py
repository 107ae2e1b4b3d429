"""The output shapes of a library's network, found by running it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avfuse.features.backbones.registry import Encoded


class OutputShapes(NamedTuple):
    """The shapes of a network's output for one input."""

    feature_dim: int
    tokens: tuple[int, int] | None  #: (N, D); None: it gives no tokens


def probe_output_shapes(
    make: Callable[[], nn.Module], encode: Callable[[Any, Tensor], Encoded], shape: tuple[int, ...]
) -> OutputShapes:
    """Run zeros of a shape through the network; on the meta device, without memory or arithmetic, if that works."""
    import torch

    def run(device: str) -> OutputShapes:
        with torch.device(device), torch.inference_mode():
            encoded = encode(make().eval(), torch.zeros(1, *shape))
        tokens = None if encoded.tokens is None else (encoded.tokens.shape[1], encoded.tokens.shape[2])
        return OutputShapes(encoded.pooled.shape[1], tokens)

    try:
        return run("meta")
    except (NotImplementedError, RuntimeError):
        return run("cpu")  # some networks read their own weights while they are built
