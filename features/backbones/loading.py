"""Loading of a backbone's record and weights file into a network that encodes batches."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avfuse.features.errors import UsageError
from avfuse.features.inputs import filter_bank
from avfuse.features.malloc import keep_large_buffers
from avfuse.features.media.sampling import parse_sampling
from avfuse.threads import limit_torch_threads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avfuse.features.backbones.registry import Backbone, Encoded, StateDict
    from avfuse.features.backbones.weights import Weights
    from avfuse.features.spec import Precision, Preprocess

Encoder = Callable[["Tensor", "Preprocess | None"], "Encoded"]
"""A loaded network: images uint8 (B, H, W, 3) or (B, T, H, W, 3) with their Preprocess, or filter banks float32
(B, 1024, 128) with None -> its output, on its device."""

RANDOM_SEED = 0
_UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError)
"""Errors that PyTorch raises for a file that is not its own."""

_WRAPPERS = ("state_dict", "model", "model_state")
"""Keys under which training scripts save a network's weights beside other state."""


def load(backbone: Backbone, weights: Weights, device: str, precision: Precision = "float32") -> Encoder:
    """Load a network, frozen, onto a device.

    Args:
        backbone: its record.
        weights: what to load; every tensor must match by name and shape.
        device: as PyTorch names it.
        precision: of weights and activations.

    Raises UsageError if the file is not a checkpoint of this network.
    """
    import torch

    if weights.path is None:
        network = make(backbone)
    elif backbone.read is not None:
        network = backbone.read(weights.path)
    else:
        network = make(backbone)
        _fill(network, backbone, weights.path)
    if device == "cpu":
        keep_large_buffers()
        limit_torch_threads()
    dtype = getattr(torch, precision)
    network = backbone.finish(network.eval().requires_grad_(False)).to(device, dtype)
    if "image" in backbone.inputs or "frames" in backbone.inputs:
        network = network.to(memory_format=torch.channels_last)
    if device.startswith("cuda"):
        # By default convolutions would be rounded to TF32, and differ with the batch.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    @lru_cache
    def on_device(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=device).view(3, 1, 1)

    @torch.inference_mode()
    def encode(batch: Tensor, preprocess: Preprocess | None) -> Encoded:
        inputs = batch.to(device, non_blocking=True)
        if preprocess is None:
            return backbone.encode(network, inputs.to(dtype))
        pixels = inputs.movedim(-1, -3)  # NHWC bytes are channels-last already
        normalised = pixels.float().sub_(on_device(preprocess.mean)).div_(on_device(preprocess.std))
        return backbone.encode(network, normalised.to(dtype))

    return encode


def make(backbone: Backbone) -> nn.Module:
    """Build the network with random weights, from a fixed seed."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        network = backbone.make()
        calibrate_batch_norms(network, lambda: backbone.encode(network, noise(backbone)))
        return network


def noise(backbone: Backbone, items: int = 8) -> Tensor:
    """Random inputs of the network, (items, *item_shape), with structure at all scales, as natural images have."""
    import torch

    shape = item_shape(backbone)
    height, width = shape[-2:]
    planes = torch.zeros(items, math.prod(shape[:-2]), height, width)
    for cells in (1, 4, 16, 64, max(height, width)):
        coarse = torch.randn(items, planes.shape[1], min(cells, height), min(cells, width))
        planes += torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") / 2
    values = planes.reshape(items, *shape)
    if backbone.preprocess is None:
        return values
    mean, std = (torch.tensor(side).view(3, 1, 1) for side in (backbone.preprocess.mean, backbone.preprocess.std))
    return ((128 + 60 * values).clamp(0, 255) - mean) / std


def calibrate_batch_norms(network: nn.Module, run: Callable[[], object]) -> None:
    """Set the running statistics of untrained batch norms to those of one batch: with the initial ones, activations of
    a deep network vanish or explode. run: the forward pass of that batch."""
    import torch

    norms = [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        run()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum


def item_shape(backbone: Backbone) -> tuple[int, ...]:
    """The shape of one input, without the batch: (3, H, W), (T, 3, H, W), (1024, 128), or a sound's."""
    if backbone.sound is not None:
        return backbone.sound.shape
    if backbone.preprocess is None:
        return (filter_bank.FRAMES, filter_bank.MEL_BANDS)
    image = (3, backbone.preprocess.crop, backbone.preprocess.crop)
    return (parse_sampling(backbone.sampling).frames_per_clip or 1, *image) if "clip" in backbone.inputs else image


def read_state(path: Path) -> StateDict:
    """The tensors of a checkpoint by name, from safetensors or a PyTorch file, of which only tensors are unpickled.

    Raises UsageError for any other file.
    """
    from safetensors import SafetensorError

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            import torch

            state = torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, SafetensorError) as error:
        raise UsageError(f"{path} holds no weights that can be read ({first_line(error)})") from error
    for name in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not state:
        raise UsageError(f"{path} holds no weights: a checkpoint is a table of tensors by name")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _fill(network: nn.Module, backbone: Backbone, path: Path) -> None:
    """Load a checkpoint strictly, but for the batch counters that old ones lack."""
    state = backbone.translate(read_state(path))
    expected = network.state_dict()
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    mismatched = [name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape]
    problems = [
        f"{len(names)} {problem}, such as {names[0]}"
        for problem, names in (
            ("tensors are missing", missing),
            ("tensors are unexpected", unexpected),
            ("tensors have another shape", sorted(mismatched)),
        )
        if names
    ]
    if problems:
        raise UsageError(f"{path} is no checkpoint of {backbone.name}: {'; '.join(problems)}")
    counters = {name: tensor for name, tensor in expected.items() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**counters, **state})


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class."""
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
