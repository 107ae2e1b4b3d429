"""Encoders of transformers, loaded from the hub's files or from the papers' authors'.

Tensor names change between versions of transformers, which alone can map them: authors' names are translated to those
of the hub's files, which transformers then loads.
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
"""Regular expressions of authors' names, and the hub's names that replace them."""


def transformers_maker(name: str) -> Callable[[], nn.Module]:
    """The builder of one of transformers' encoders, such as `AST`, at its published size."""

    def make() -> nn.Module:
        import transformers

        network: nn.Module = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")())
        return network

    return make


def transformers_reader(name: str, translate: Callable[[StateDict], StateDict]) -> Callable[[Path], nn.Module]:
    """The reader of its weights files. translate: from the authors' layout to the hub's; leaves the hub's unchanged."""

    def read(path: Path) -> nn.Module:
        import transformers

        state = translate(read_state(path))
        state = {key: tensor for key, tensor in state.items() if not key.startswith("classifier.")}
        config = getattr(transformers, f"{name}Config")()
        with silence_transformers():
            network, info = getattr(transformers, f"{name}Model").from_pretrained(
                None,
                config=config,
                state_dict=state,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
            )
        check_loading_info(info, f"{path} is no checkpoint of transformers' {name}Model")
        return network  # type: ignore[no-any-return]

    return read


def check_loading_info(info: Mapping[str, Any], message: str) -> None:
    """Raises UsageError for missing, unexpected and mismatched tensors. info: as `from_pretrained` returns it."""
    problems = []
    for key, problem in (
        ("missing_keys", "missing"),
        ("unexpected_keys", "unexpected"),
        ("mismatched_keys", "of another shape"),
    ):
        names = sorted(entry if isinstance(entry, str) else entry[0] for entry in info[key])
        if names:
            problems.append(f"{len(names)} tensors are {problem}, such as {names[0]}")
    if problems:
        raise UsageError(f"{message}: {'; '.join(problems)}")


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Switch off transformers' progress bars and loading reports: avfuse raises what matters of them."""
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
    """Tensors renamed by the first rule that matches. drop: a pattern of tensors to leave out."""
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
"""Rules for authors' networks that are built on timm's vision transformer."""
