"""`hf:REPOSITORY` and `hf:FOLDER`: image, video and audio encoders of transformers, with their own preprocessing. They
come from the hub, or from a folder in its layout: `config.json`, the processor's configuration, weights.

A processor's configuration is converted to a Preprocess, which is part of the key, and compared with the processor
itself on one image before extraction. Audio feature extractors run unchanged. Code of a repository never runs.
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
from avfuse.features.inputs.hf_audio import hf_audio_features
from avfuse.features.inputs.resize import resize_and_crop
from avfuse.features.spec import Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn

PREFIX = "hf"
CLIP_FRAMES = 16

_SUBMODELS = {"clip": "vision_model", "siglip": "vision_model", "clap": "audio_model", "whisper": "encoder"}
"""Model types of which only the image or audio encoder is used, and that encoder's attribute."""

_VIDEO_TYPES = ("timesformer", "videomae", "vivit", "vjepa2")
_SOUND_TYPES = ("audio-spectrogram-transformer", "clap", "whisper")
_RESAMPLING = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def adapt(name: str) -> Backbone:
    """The backbone of a repository or folder. Raises UsageError for a missing folder, an encoder that transformers does
    not know, or a processor that avfuse cannot reproduce."""
    import transformers

    checkpoint = checkpoint_of(name)
    folder = fetch(checkpoint)
    config = _read_config(folder, lambda: transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False))
    kernels = {str(getattr(level, "_attn_implementation", None)) for level in (config, *_subconfigs(config))}
    if any("/" in kernel for kernel in kernels):  # transformers would fetch that repository and run it
        raise UsageError(_remote_code_message(folder))
    if config.model_type in _SOUND_TYPES:
        return _sound_backbone(name, checkpoint, folder, config)
    return _image_backbone(name, checkpoint, folder, config)


def checkpoint_of(name: str) -> Checkpoint:
    """The checkpoint of a folder, or of a repository OWNER/NAME."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UsageError(f"the folder {folder} has no config.json: {PREFIX}:FOLDER must be in the hub's layout")
        return Checkpoint(name=f"{PREFIX}:{name}", file=folder.name, licence="not stated", source=LocalFile(folder))
    if not _REPOSITORY.fullmatch(name):
        raise UsageError(f"{PREFIX}:{name}: no such folder, and repositories are named OWNER/NAME")
    file = f"{PREFIX}--{name.replace('/', '--')}"
    return Checkpoint(name=f"{PREFIX}:{name}", file=file, licence="on its page", source=HubFolder(name))


def _image_backbone(name: str, checkpoint: Checkpoint, folder: Path, config: Any) -> Backbone:
    """A backbone of single images, or of video clips."""
    is_video = config.model_type in _VIDEO_TYPES
    vision = getattr(config, "vision_config", config)
    preprocess = _preprocess(name, folder, is_video)
    frames = int(getattr(vision, "num_frames", 0) or getattr(vision, "frames_per_clip", CLIP_FRAMES))
    encode = _encoder(config.model_type)
    make, read = _maker(config), _reader(config)
    side = preprocess.crop
    shape = (frames, 3, side, side) if is_video else (3, side, side)
    try:
        shapes = probe_output_shapes(make, encode, shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{PREFIX}:{name} ({config.model_type}) cannot be used ({first_line(error)})") from error
    kinds: tuple[InputKind, ...] = ("clip",) if is_video else ("frames", "image")
    patches = _patches(vision, frames if is_video else None, side)
    return Backbone(
        name=f"{PREFIX}:{name}",
        revision=1,
        inputs=kinds,
        feature_dim=shapes.feature_dim,
        preprocess=preprocess,
        checkpoints=(checkpoint,),
        make=make,
        read=read,
        encode=encode,
        grid=_grid(shapes.tokens, shapes.feature_dim, patches),
        frame_counts=(frames,) if is_video else (),
        sampling=f"uniform:{frames}",
    )


def _sound_backbone(name: str, checkpoint: Checkpoint, folder: Path, config: Any) -> Backbone:
    import transformers

    extractor = _read_config(
        folder, lambda: transformers.AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    )
    sound = _sound_extractor(name, extractor)
    encode = _encoder(config.model_type)
    make, read = _maker(config), _reader(config)
    shapes = probe_output_shapes(make, encode, sound.shape)
    return Backbone(
        name=f"{PREFIX}:{name}",
        revision=1,
        inputs=("sound",),
        feature_dim=shapes.feature_dim,
        preprocess=None,
        checkpoints=(checkpoint,),
        make=make,
        read=read,
        encode=encode,
        grid=_grid(shapes.tokens, shapes.feature_dim, None),
        sound=sound,
    )


def _read_config(folder: Path, read: Callable[[], Any]) -> Any:
    with silence_transformers():
        try:
            return read()
        except (OSError, ValueError, KeyError, ImportError) as error:
            if _needs_remote_code(error):
                raise UsageError(_remote_code_message(folder)) from error
            raise UsageError(f"{folder}: transformers does not understand it ({first_line(error)})") from error


def _needs_remote_code(error: Exception) -> bool:
    """Whether transformers failed because it may not run the repository's code."""
    return "trust_remote_code" in str(error)


def _remote_code_message(folder: Path) -> str:
    return (
        f"{folder} needs Python code of its own, and avfuse never runs code that comes with weights: read it, and "
        "define the network in a file of yours, named by AVFUSE_BACKBONES (docs/add-a-backbone.md)"
    )


def _subconfigs(config: Any) -> list[Any]:
    return [getattr(config, name) for name in ("vision_config", "audio_config") if hasattr(config, name)]


def _maker(config: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        return _submodel(transformers.AutoModel.from_config(config, trust_remote_code=False), config)

    return make


def _reader(config: Any) -> Callable[[Path], nn.Module]:
    """A reader that requires every tensor of the encoder, and ignores those of heads and other submodels."""

    def read(path: Path) -> nn.Module:
        import transformers

        if not path.is_dir():
            raise UsageError(f"{path} is one file: a configuration belongs to it, name the folder ({PREFIX}:FOLDER)")
        options: dict[str, Any] = {
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,
            "dtype": "float32",
            "trust_remote_code": False,
        }

        def load(**more: Any) -> Any:
            try:
                return transformers.AutoModel.from_pretrained(path, **options, **more)
            except (OSError, ValueError, RuntimeError) as error:
                raise UsageError(f"{path} holds no weights that can be read ({first_line(error)})") from error

        with silence_transformers():
            network, info = load()
            missing = _submodel_tensors(info["missing_keys"], config)
            if missing and all(name.startswith("pooler.") for name in missing):
                network, info = load(add_pooling_layer=False)  # without a checkpoint's weights it would be random
                missing = _submodel_tensors(info["missing_keys"], config)
        info = {"missing_keys": missing, "unexpected_keys": (), "mismatched_keys": info["mismatched_keys"]}
        check_loading_info(info, f"{path} is no checkpoint of its {config.model_type}")
        return _submodel(network, config)

    return read


def _submodel(network: Any, config: Any) -> nn.Module:
    submodel: nn.Module = (
        getattr(network, _SUBMODELS[config.model_type]) if config.model_type in _SUBMODELS else network
    )
    return submodel


def _submodel_tensors(names: Iterable[str], config: Any) -> list[str]:
    prefix = f"{_SUBMODELS[config.model_type]}." if config.model_type in _SUBMODELS else ""
    return [name for name in names if name.startswith(prefix)]


def _encoder(model_type: str) -> Callable[[Any, Tensor], Encoded]:
    """Pooled: the network's own pooled output, else the CLS token, else the mean of all tokens."""

    def encode(network: Any, batch: Tensor) -> Encoded:
        import torch

        if model_type == "vjepa2":
            output = network(pixel_values_videos=batch, skip_predictor=True)
        elif model_type == "clap":
            output = network(
                input_features=batch, is_longer=torch.zeros(len(batch), 1, dtype=torch.bool, device=batch.device)
            )
        elif model_type in _SOUND_TYPES:
            output = network(batch)
        else:
            output = network(pixel_values=batch)
        tokens = output.last_hidden_state
        pooled = getattr(output, "pooler_output", None)
        if tokens.ndim == 4:  # a map (B, D, H, W)
            tokens = tokens.flatten(2).transpose(1, 2)
        if pooled is None:
            has_cls = hasattr(getattr(network, "embeddings", None), "cls_token")
            pooled = tokens[:, 0] if has_cls else tokens.mean(dim=1)
        return Encoded(pooled.flatten(1), tokens)

    return encode


def _patches(config: Any, frames: int | None, side: int) -> tuple[int, ...] | None:
    """The number of patches along each dimension of an image or clip, if the configuration states it."""
    patch = getattr(config, "patch_size", None)
    if isinstance(patch, list | tuple):
        patch = patch[-1] if len(set(patch)) == 1 else None
    if not isinstance(patch, int):
        return None
    spatial = (side // patch, side // patch)
    if frames is None:
        return spatial
    tubelet = getattr(config, "tubelet_size", 1)
    if config.model_type == "timesformer":
        return (*spatial, frames)
    return (frames // (tubelet if isinstance(tubelet, int) else tubelet[0]), *spatial)


def _grid(tokens: tuple[int, int] | None, dim: int, patches: tuple[int, ...] | None) -> Any:
    """Prefix tokens, then the grid of patches; a plain sequence if the counts do not add up."""
    if tokens is None or tokens[1] != dim:
        return None
    count = tokens[0]
    known = patches is not None and 0 <= count - math.prod(patches) <= 16  # CLS and registers
    cells = patches if known and patches is not None else (count,)
    grid = Grid(cells, count - math.prod(cells), pooled=min(len(cells), 3))
    return lambda shape: grid


def _preprocess(name: str, folder: Path, is_video: bool) -> Preprocess:
    import transformers

    classes = ("AutoVideoProcessor", "AutoImageProcessor") if is_video else ("AutoImageProcessor",)
    for class_name in classes:
        try:
            with silence_transformers():
                processor = getattr(transformers, class_name).from_pretrained(folder, trust_remote_code=False)
            break
        except (OSError, ValueError, KeyError, ImportError) as error:
            if _needs_remote_code(error):
                raise UsageError(_remote_code_message(folder)) from error
            problem = first_line(error)
    else:
        raise UsageError(f"{folder} has no processor that transformers understands ({problem})")
    preprocess = _parse_processor(name, processor)
    _check_processor(name, processor, preprocess, is_video)
    return preprocess


def _parse_processor(name: str, processor: Any) -> Preprocess:
    """A processor's configuration as a Preprocess. Raises UsageError for one that does not make square images."""

    def option(key: str) -> Any:
        return getattr(processor, key, None)

    size, crop = _size_dict(option("size")), _size_dict(option("crop_size"))
    resize: int | tuple[int, int] | None = None
    if option("do_resize"):
        resize = size.get("shortest_edge") or ((size["height"], size["width"]) if "height" in size else None)
    final = crop if option("do_center_crop") and crop else size
    side = final.get("height") or final.get("shortest_edge")
    interpolation = _RESAMPLING.get(int(option("resample") or 0))
    is_square = isinstance(resize, tuple) or bool(option("do_center_crop"))
    if side is None or final.get("width", side) != side or interpolation is None or resize is None or not is_square:
        raise UsageError(
            f"{PREFIX}:{name}: its processor ({type(processor).__name__}) does not make square images by resizing and "
            "cropping, which is all that avfuse does"
        )
    scale = (option("rescale_factor") if option("do_rescale") else None) or 1.0
    mean, std = (option("image_mean"), option("image_std")) if option("do_normalize") else ([0.0] * 3, [1.0] * 3)
    return Preprocess(
        resize=resize,
        crop=side,
        interpolation=interpolation,  # type: ignore[arg-type]
        centre="before",
        mean=(mean[0] / scale, mean[1] / scale, mean[2] / scale),
        std=(std[0] / scale, std[1] / scale, std[2] / scale),
    )


def _size_dict(size: Any) -> dict[str, int]:
    sides = dict(size) if isinstance(size, dict) else {key: getattr(size, key, None) for key in _SIDES}
    return {key: int(side) for key, side in sides.items() if side and key in _SIDES}


_SIDES = ("height", "width", "shortest_edge")


def _check_processor(name: str, processor: Any, preprocess: Preprocess, is_video: bool) -> None:
    """Raises UsageError if the processor's output differs from that of the Preprocess read from its configuration, by
    more than the rounding of the tensors that processors resize."""
    frame = np.random.default_rng(0).integers(0, 256, (97, 171, 3), dtype=np.uint8)
    with silence_transformers():
        try:
            output = processor(videos=[frame, frame], return_tensors="np")
        except (TypeError, ValueError):
            output = processor([frame, frame] if is_video else frame, return_tensors="np")
    expected = np.asarray(next(iter(output.values())), dtype=np.float64)
    expected = expected.reshape(-1, *expected.shape[-3:])[0].transpose(1, 2, 0)
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    actual = resize_and_crop(frame, preprocess)
    if expected.shape != actual.shape or np.abs(expected * std + mean - actual).max() > 2.01:
        raise UsageError(
            f"{PREFIX}:{name}: its processor ({type(processor).__name__}) does more than resize, crop and normalise, "
            "which is all that avfuse does"
        )


def _sound_extractor(name: str, extractor: Any) -> SoundExtractor:
    """Raises UsageError for an extractor whose output grows with the length of its input."""
    config = json.loads(extractor.to_json_string())
    config["feature_extractor_type"] = type(extractor).__name__
    rate = int(extractor.sampling_rate)
    seconds = _longest_input(extractor)
    text = json.dumps(config, sort_keys=True)
    shapes = {
        hf_audio_features(text, np.zeros(round(rate * share * seconds), np.float32), rate).shape for share in (0.1, 1.0)
    }
    if len(shapes) > 1:
        raise UsageError(
            f"{PREFIX}:{name}: the output of its feature extractor ({type(extractor).__name__}) grows with the length "
            "of a sound: it must pad to a fixed length"
        )
    return SoundExtractor(text, rate, seconds, shapes.pop())


def _longest_input(extractor: Any) -> float:
    """The seconds of a sound, from its start, that the extractor uses."""
    for key in ("chunk_length", "max_length_s"):
        if getattr(extractor, key, None):
            return float(getattr(extractor, key))
    return float(extractor.max_length) / 100  # AST's: a frame every 10 ms
