"""`hf:REPOSITORY` and `hf:FOLDER`: encoders of pictures, videos and sounds in transformers, prepared as their own
processor says. They come from the hub, or from a folder in its layout: `config.json`, the processor's, weights.

A processor's configuration is read into a Preprocess, which is part of the key, and held against the processor itself
on one picture before anything is extracted. Feature extractors of sounds run as they are. No code from a repository
runs, nor is anybody asked whether it may.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avfuse.features.backbones.adapters.output_shapes import probe_output_shapes
from avfuse.features.backbones.adapters.transformers_checkpoints import check_loading_info, silence_transformers
from avfuse.features.backbones.loading import first_line
from avfuse.features.backbones.registry import Backbone, Encoded, Grid, InputKind, SoundExtractor
from avfuse.features.backbones.weights import Checkpoint, HubFolder, LocalFile, fetch
from avfuse.features.errors import UsageError
from avfuse.features.inputs.hf_audio import extracted
from avfuse.features.inputs.resize import fit_frame
from avfuse.features.spec import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn

PREFIX = "hf"
CLIP_FRAMES = 16

_HALVES = {"clip": "vision_model", "siglip": "vision_model", "clap": "audio_model", "whisper": "encoder"}
"""Model types of which one half is taken, the one that sees or hears: its name in the whole."""

_VIDEO = ("timesformer", "videomae", "vivit", "vjepa2")
_SOUND = ("audio-spectrogram-transformer", "clap", "whisper")
_RESAMPLING = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def adapt(name: str) -> Backbone:
    """Raises UsageError for a folder that is none, an encoder that transformers does not know, or a processor that does
    something avfuse does not."""
    import transformers

    checkpoint = checkpoint_of(name)
    folder = fetch(checkpoint)
    config = _described(folder, lambda: transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False))
    kernels = {str(getattr(part, "_attn_implementation", None)) for part in (config, *_halves_of(config))}
    if any("/" in kernel for kernel in kernels):  # transformers would fetch that repository and run it
        raise UsageError(_needs_code(folder))
    if config.model_type in _SOUND:
        return _of_sounds(name, checkpoint, folder, config)
    return _of_pictures(name, checkpoint, folder, config)


def checkpoint_of(name: str) -> Checkpoint:
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"the folder {folder} has no config.json: {PREFIX}:FOLDER takes one in the hub's layout")
        return Checkpoint(name=f"{PREFIX}:{name}", file=folder.name, licence="not stated", source=LocalFile(folder))
    if not _REPOSITORY.fullmatch(name):
        raise UsageError(f"{PREFIX}:{name}: no such folder, and a repository's name is OWNER/NAME")
    file = f"{PREFIX}--{name.replace('/', '--')}"
    return Checkpoint(name=f"{PREFIX}:{name}", file=file, licence="on its page", source=HubFolder(name))


def _of_pictures(name: str, checkpoint: Checkpoint, folder: Path, config: Any) -> Backbone:
    """Of pictures, or of frames together."""
    is_video = config.model_type in _VIDEO
    given = getattr(config, "vision_config", config)
    preprocess = _preprocess(name, folder, is_video)
    frames = int(getattr(given, "num_frames", 0) or getattr(given, "frames_per_clip", CLIP_FRAMES))
    encode = _encoder(config.model_type)
    make, read = _maker(config), _reader(config)
    side = preprocess.crop
    shape = (frames, 3, side, side) if is_video else (3, side, side)
    try:
        probed = probe_output_shapes(make, encode, shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{PREFIX}:{name} ({config.model_type}) cannot be used ({first_line(error)})") from error
    kinds: tuple[InputKind, ...] = ("clip",) if is_video else ("frames", "image")
    patches = _patches(given, frames if is_video else None, side)
    return Backbone(
        name=f"{PREFIX}:{name}",
        revision=1,
        inputs=kinds,
        feature_dim=probed.feature_dim,
        preprocess=preprocess,
        checkpoints=(checkpoint,),
        make=make,
        read=read,
        encode=encode,
        grid=_grid(probed.tokens, probed.feature_dim, patches),
        frame_counts=(frames,) if is_video else (),
        sampling=f"uniform:{frames}",
    )


def _of_sounds(name: str, checkpoint: Checkpoint, folder: Path, config: Any) -> Backbone:
    import transformers

    extractor = _described(
        folder, lambda: transformers.AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    )
    sound = _sound(name, extractor)
    encode = _encoder(config.model_type)
    make, read = _maker(config), _reader(config)
    probed = probe_output_shapes(make, encode, sound.shape)
    return Backbone(
        name=f"{PREFIX}:{name}",
        revision=1,
        inputs=("sound",),
        feature_dim=probed.feature_dim,
        preprocess=None,
        checkpoints=(checkpoint,),
        make=make,
        read=read,
        encode=encode,
        grid=_grid(probed.tokens, probed.feature_dim, None),
        sound=sound,
    )


def _described(folder: Path, read: Callable[[], Any]) -> Any:
    with silence_transformers():
        try:
            return read()
        except (OSError, ValueError, KeyError, ImportError) as error:
            if _wants_code(error):
                raise UsageError(_needs_code(folder)) from error
            raise UsageError(f"{folder}: transformers does not understand it ({first_line(error)})") from error


def _wants_code(error: Exception) -> bool:
    """Whether transformers stopped because the repository's own code may not run."""
    return "trust_remote_code" in str(error)


def _needs_code(folder: Path) -> str:
    return (
        f"{folder} needs Python code of its own, and avfuse never runs code that comes with weights: read it, and make "
        "the network in a file of yours, named by AVFUSE_BACKBONES (docs/add-a-backbone.md)"
    )


def _halves_of(config: Any) -> list[Any]:
    return [getattr(config, part) for part in ("vision_config", "audio_config") if hasattr(config, part)]


def _maker(config: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        return _half(transformers.AutoModel.from_config(config, trust_remote_code=False), config)

    return make


def _reader(config: Any) -> Callable[[Path], nn.Module]:
    """Every tensor of the encoder must be there; those of heads and of other halves are left out."""

    def read(path: Path) -> nn.Module:
        import transformers

        if not path.is_dir():
            raise UsageError(f"{path} is one file: configuration and weights go together, {PREFIX}:FOLDER names both")
        folder = path
        how: dict[str, Any] = {
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,
            "dtype": "float32",
            "trust_remote_code": False,
        }

        def load(**more: Any) -> Any:
            try:
                return transformers.AutoModel.from_pretrained(folder, **how, **more)
            except (OSError, ValueError, RuntimeError) as error:
                raise UsageError(f"{folder} holds no weights that can be read ({first_line(error)})") from error

        with silence_transformers():
            network, told = load()
            missing = _of_half(told["missing_keys"], config)
            if missing and all(name.startswith("pooler.") for name in missing):
                network, told = load(add_pooling_layer=False)  # what would be left random is left out
                missing = _of_half(told["missing_keys"], config)
        wrong = {"missing_keys": missing, "unexpected_keys": (), "mismatched_keys": told["mismatched_keys"]}
        check_loading_info(wrong, f"{folder} is no checkpoint of its {config.model_type}")
        return _half(network, config)

    return read


def _half(network: Any, config: Any) -> nn.Module:
    half: nn.Module = getattr(network, _HALVES[config.model_type]) if config.model_type in _HALVES else network
    return half


def _of_half(names: Iterable[str], config: Any) -> list[str]:
    half = f"{_HALVES[config.model_type]}." if config.model_type in _HALVES else ""
    return [name for name in names if name.startswith(half)]


def _encoder(model_type: str) -> Callable[[Any, Tensor], Encoded]:
    """Pooled is what the network itself pools; where it does not, CLS if there is one, else the mean of all tokens."""

    def encode(network: Any, batch: Tensor) -> Encoded:
        import torch

        if model_type == "vjepa2":
            given = network(pixel_values_videos=batch, skip_predictor=True)
        elif model_type == "clap":
            given = network(
                input_features=batch, is_longer=torch.zeros(len(batch), 1, dtype=torch.bool, device=batch.device)
            )
        elif model_type in _SOUND:
            given = network(batch)
        else:
            given = network(pixel_values=batch)
        tokens = given.last_hidden_state
        pooled = getattr(given, "pooler_output", None)
        if tokens.ndim == 4:  # a map (B, D, H, W)
            tokens = tokens.flatten(2).transpose(1, 2)
        if pooled is None:
            has_cls = hasattr(getattr(network, "embeddings", None), "cls_token")
            pooled = tokens[:, 0] if has_cls else tokens.mean(dim=1)
        return Encoded(pooled.flatten(1), tokens)

    return encode


def _patches(given: Any, frames: int | None, side: int) -> tuple[int, ...] | None:
    """How many patches a picture or clip is cut into along each dimension, where the configuration says."""
    patch = getattr(given, "patch_size", None)
    if isinstance(patch, list | tuple):
        patch = patch[-1] if len(set(patch)) == 1 else None
    if not isinstance(patch, int):
        return None
    places = (side // patch, side // patch)
    if frames is None:
        return places
    tubelet = getattr(given, "tubelet_size", 1)
    if given.model_type == "timesformer":
        return (*places, frames)
    return (frames // (tubelet if isinstance(tubelet, int) else tubelet[0]), *places)


def _grid(tokens: tuple[int, int] | None, dim: int, patches: tuple[int, ...] | None) -> Any:
    """Patches in their places behind the tokens that are none; where that does not add up, tokens in a row."""
    if tokens is None or tokens[1] != dim:
        return None
    count = tokens[0]
    known = patches is not None and 0 <= count - math.prod(patches) <= 16  # CLS and registers
    cells = patches if known and patches is not None else (count,)
    grid = Grid(cells, count - math.prod(cells), pooled=min(len(cells), 3))
    return lambda shape: grid


def _preprocess(name: str, folder: Path, is_video: bool) -> Preprocess:
    import transformers

    automatic = ("AutoVideoProcessor", "AutoImageProcessor") if is_video else ("AutoImageProcessor",)
    for each in automatic:
        try:
            with silence_transformers():
                processor = getattr(transformers, each).from_pretrained(folder, trust_remote_code=False)
            break
        except (OSError, ValueError, KeyError, ImportError) as error:
            if _wants_code(error):
                raise UsageError(_needs_code(folder)) from error
            problem = first_line(error)
    else:
        raise UsageError(f"{folder} has no processor that transformers understands ({problem})")
    preprocess = _read_processor(name, processor)
    _hold_against(name, processor, preprocess, is_video)
    return preprocess


def _read_processor(name: str, processor: Any) -> Preprocess:
    def said(key: str) -> Any:
        return getattr(processor, key, None)

    size, crop = _sides(said("size")), _sides(said("crop_size"))
    resize: int | tuple[int, int] | None = None
    if said("do_resize"):
        resize = size.get("shortest_edge") or ((size["height"], size["width"]) if "height" in size else None)
    cut = crop if said("do_center_crop") and crop else size
    side = cut.get("height") or cut.get("shortest_edge")
    filtering = _RESAMPLING.get(int(said("resample") or 0))
    squashed = isinstance(resize, tuple) or bool(said("do_center_crop"))
    if side is None or cut.get("width", side) != side or filtering is None or resize is None or not squashed:
        raise UsageError(
            f"{PREFIX}:{name}: its processor ({type(processor).__name__}) does not make square pictures by resizing "
            "and cropping, which is all avfuse does"
        )
    scale = (said("rescale_factor") if said("do_rescale") else None) or 1.0
    mean, std = (said("image_mean"), said("image_std")) if said("do_normalize") else ([0.0] * 3, [1.0] * 3)
    return Preprocess(
        resize=resize,
        crop=side,
        interpolation=filtering,  # type: ignore[arg-type]
        centre="before",
        mean=(mean[0] / scale, mean[1] / scale, mean[2] / scale),
        std=(std[0] / scale, std[1] / scale, std[2] / scale),
    )


def _sides(size: Any) -> dict[str, int]:
    given = dict(size) if isinstance(size, dict) else {key: getattr(size, key, None) for key in _SIDES}
    return {key: int(each) for key, each in given.items() if each and key in _SIDES}


_SIDES = ("height", "width", "shortest_edge")


def _hold_against(name: str, processor: Any, preprocess: Preprocess, is_video: bool) -> None:
    """Raises UsageError when the processor makes another picture than the Preprocess read from its configuration.

    Processors resize tensors, which may round a level the other way; anything beyond that is another picture.
    """
    frame = np.random.default_rng(0).integers(0, 256, (97, 171, 3), dtype=np.uint8)
    with silence_transformers():
        try:
            given = processor(videos=[frame, frame], return_tensors="np")
        except (TypeError, ValueError):
            given = processor([frame, frame] if is_video else frame, return_tensors="np")
    theirs = np.asarray(next(iter(given.values())), dtype=np.float64)
    theirs = theirs.reshape(-1, *theirs.shape[-3:])[0].transpose(1, 2, 0)
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    ours = fit_frame(frame, preprocess)
    if theirs.shape != ours.shape or np.abs(theirs * std + mean - ours).max() > 2.01:
        raise UsageError(
            f"{PREFIX}:{name}: its processor ({type(processor).__name__}) does more than resize, crop and normalise, "
            "which is all avfuse does"
        )


def _sound(name: str, extractor: Any) -> SoundExtractor:
    """Raises UsageError for an extractor that gives longer sounds more numbers."""
    described = json.loads(extractor.to_json_string())
    described["feature_extractor_type"] = type(extractor).__name__
    rate = int(extractor.sampling_rate)
    seconds = _seconds(extractor)
    text = json.dumps(described, sort_keys=True)
    shapes = {extracted(text, np.zeros(round(rate * part * seconds), np.float32), rate).shape for part in (0.1, 1.0)}
    if len(shapes) > 1:
        raise UsageError(
            f"{PREFIX}:{name}: its feature extractor ({type(extractor).__name__}) gives longer sounds more numbers: "
            "one that pads to a fixed length is needed"
        )
    return SoundExtractor(text, rate, seconds, shapes.pop())


def _seconds(extractor: Any) -> float:
    """How much of a sound is heard: from its beginning."""
    for key in ("chunk_length", "max_length_s"):
        if getattr(extractor, key, None):
            return float(getattr(extractor, key))
    return float(extractor.max_length) / 100  # AST's: a frame every 10 ms
