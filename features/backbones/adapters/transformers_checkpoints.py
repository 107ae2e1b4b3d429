"""Encoders of transformers, read from their hub's files and from those of the papers' authors.

The names of their tensors change from one version of transformers to the next, and only transformers knows how: the
authors' names are translated to those of the hub's files, and the rest is its own loading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avfuse.features.backbones.loading import read_state
from avfuse.features.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from avfuse.features.backbones.registry import StateDict

Rules = Mapping[str, str]
"""Regular expressions of authors' names -> the hub's; what `drop` matches, a classifier, is dropped."""


def transformers_maker(name: str) -> Callable[[], nn.Module]:
    """How one of transformers' encoders, such as `AST`, is made, at its published size."""

    def make() -> nn.Module:
        import transformers

        network: nn.Module = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")())
        return network

    return make


def transformers_reader(name: str, translate: Callable[[StateDict], StateDict]) -> Callable[[Path], nn.Module]:
    """How it is read from a weights file. translate: from the authors' layout to the hub's, which it leaves alone."""

    def read(path: Path) -> nn.Module:
        import transformers

        state = translate(read_state(path))
        state = {key: tensor for key, tensor in state.items() if not key.startswith("classifier.")}
        config = getattr(transformers, f"{name}Config")()
        with silence_transformers():
            network, told = getattr(transformers, f"{name}Model").from_pretrained(
                None,
                config=config,
                state_dict=state,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
            )
        check_loading_info(told, f"{path} is no checkpoint of transformers' {name}Model")
        return network  # type: ignore[no-any-return]

    return read


def check_loading_info(told: Mapping[str, Any], said: str) -> None:
    """Raises UsageError for tensors that found no place, and for places that found no tensor."""
    problems = []
    for key, what in (
        ("missing_keys", "missing"),
        ("unexpected_keys", "without a place"),
        ("mismatched_keys", "of another shape"),
    ):
        names = sorted(each if isinstance(each, str) else each[0] for each in told[key])
        if names:
            problems.append(f"{len(names)} tensors are {what}, such as {names[0]}")
    if problems:
        raise UsageError(f"{said}: {'; '.join(problems)}")


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Without transformers' bars and reports: what matters of them is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def rename_tensors(state: StateDict, rules: Rules, drop: str) -> dict[str, Tensor]:
    """Tensors under the names that the first rule with a match gives."""
    translated = {}
    for key, tensor in state.items():
        if re.match(drop, key):
            continue
        for pattern, name in rules.items():
            if re.match(pattern, key):
                key = re.sub(pattern, name, key, count=1)
                break
        translated[key] = tensor
    return translated


VISION_RULES = {
    r"cls_token": "embeddings.cls_token",
    r"pos_embed": "embeddings.position_embeddings",
    r"patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"blocks\.(\d+)\.norm1\.": r"encoder.layer.\1.layernorm_before.",
    r"blocks\.(\d+)\.norm2\.": r"encoder.layer.\1.layernorm_after.",
    r"blocks\.(\d+)\.attn\.proj\.": r"encoder.layer.\1.attention.output.dense.",
    r"blocks\.(\d+)\.mlp\.fc1\.": r"encoder.layer.\1.intermediate.dense.",
    r"blocks\.(\d+)\.mlp\.fc2\.": r"encoder.layer.\1.output.dense.",
    r"norm\.": "layernorm.",
}
"""What authors who built on timm's vision transformer have in common."""
