"""Parsing of feature names (`lite`, `lite:frames`, `ast:fbank:tokens6x50`, `image:mfcc`) to FeatureSpecs.

A name is SOURCE:INPUT[-STYLE][:OUTPUT][:WINDOW][:VIEW]. SOURCE is a backbone, or `image` or `audio` for a backbone's
input itself; alone it means all its inputs. INPUT is `frames` (one by one), `clip` (frames together), an audio
image, `images` for all of them, `fbank` or `sound`. STYLE is that of audio images. OUTPUT is `tokens`, with an
optional grid to average them to. WINDOW is `2of4` for frames of the second quarter (or the second of four strided
runs), or `windows4` for one feature of each. VIEW is `h`, `v` or `hv`, or `flips` for these and the unmirrored image.
`imported:NAME` was computed elsewhere: it cannot be extracted.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from avfuse.features import backbones
from avfuse.features.audio_images import DEFAULT_SIZES, STYLES, Size, Style, get_audio_image, list_audio_images
from avfuse.features.audio_images.render import check_style
from avfuse.features.backbones import Backbone, Grid, WeightsChoice
from avfuse.features.errors import UsageError
from avfuse.features.inputs import filter_bank
from avfuse.features.media.reader import DEFAULT_READER, READERS, check_reader
from avfuse.features.spec import (
    IMPORTED,
    VIEWS,
    AnyInput,
    Dtype,
    FeatureSpec,
    FilterBankInput,
    FramesInput,
    ImageInput,
    ModelSpec,
    Output,
    Precision,
    Preprocess,
    ReaderSpec,
    SoundInput,
    View,
)

DEFAULT_SAMPLING = "uniform:25"
DEFAULT_STYLE: Style = "aligned"
PAPER_SIDE = 224
PUBLISHED = WeightsChoice()

_RAW_SOURCES = ("image", "audio")
_NAME = re.compile(
    r"(\w*)(?:-(\w+))?(?::tokens((?:\d+(?:x\d+)*)?))?(?::(?:([1-9]\d*)of|windows)([1-9]\d*))?(?::(\w+))?"
)
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class _FeatureName:
    """The pieces of one feature's name."""

    source: str
    input: str
    style: Style | None  #: None if the name has none
    tokens: str | None  #: a grid such as `6x50`, empty for the network's own; None for the pooled vector
    window: tuple[int, int] | None  #: (number from 1, count)
    view: View

    def text(self, style: Style) -> str:
        """The canonical name, given the style of audio images."""
        suffix = f"-{style}" if self.input in list_audio_images() and style != DEFAULT_STYLE else ""
        output = f":tokens{self.tokens}" if self.tokens is not None else ""
        window = ":{}of{}".format(*self.window) if self.window else ""
        view = f":{self.view}" if self.view != "id" else ""
        return f"{self.source}:{self.input}{suffix}{output}{window}{view}"


def resolve(
    names: Iterable[str],
    sampling: str | None = None,
    reader: str = DEFAULT_READER,
    style: Style = DEFAULT_STYLE,
    size: Size | None = None,
    weights: WeightsChoice = PUBLISHED,
    precision: Precision = "float32",
    dtype: Dtype = "float16",
) -> list[FeatureSpec]:
    """The specs of named features, in order, without duplicates.

    Args:
        names: feature names; `all` means every backbone.
        sampling: of frames; by default 25 frames, or the number that a video network takes.
        reader: of media files.
        style: of audio images whose name has none.
        size: (height, width) of audio images; by default that of the backbone (aligned) or 360 x 360 (paper).
        weights: of the backbones; their hash is in the spec.
        precision: of the networks' weights and activations.
        dtype: of stored network outputs; audio images and filter banks keep theirs.

    Raises:
        UsageError: an invalid name, a sampling with a varying number of frames, an unknown reader or style, or missing
            weights.
    """
    check_reader(reader)
    check_style(style, size)
    specs: dict[str, FeatureSpec] = {}
    for name in names:
        for feature in _parse(name):
            spec = _spec(feature, sampling, reader, feature.style or style, size, weights, precision)
            if spec.model is not None:
                spec = spec.model_copy(update={"dtype": dtype})
            specs[spec.key] = spec
    if not specs:
        raise UsageError("no features: name one, for example --features lite")
    return list(specs.values())


def expand_names(names: Iterable[str]) -> list[str]:
    """Feature names with groups expanded: `lite:images` -> `lite:waveplot`, ... Names with `@key` and `imported:NAME`
    stay as they are. Raises UsageError for an invalid name."""
    expanded: list[str] = []
    for name in names:
        if name.startswith(f"{IMPORTED}:"):
            expanded.append(name)
            continue
        plain, at, _ = name.partition("@")
        features = _parse(plain, known=False)
        expanded += [name] if at else [feature.text(feature.style or DEFAULT_STYLE) for feature in features]
    return list(dict.fromkeys(expanded))


def is_raw_input(name: str) -> bool:
    """Whether the feature is a backbone's input itself."""
    return name.partition(":")[0] in _RAW_SOURCES


def image_spec(image: ImageInput) -> FeatureSpec:
    """The spec of an audio image without preprocessing, whose cached rows serve every backbone."""
    return _without_backbone(
        _FeatureName("image", image.representation, None, None, None, "id"), image.style, image.as_drawn
    )


def _parse(name: str, known: bool = True) -> list[_FeatureName]:
    """The features that a name stands for. known: the source must be registered; a cached feature's need not be."""
    if name == "all":
        return [feature for backbone in backbones.list_backbones() for feature in _parse(backbone)]
    source, rest = _split_source(name)
    if source == IMPORTED:
        raise UsageError(
            f"'{name}' cannot be extracted: {IMPORTED}:NAME was computed elsewhere, and is imported with avfuse "
            "features import"
        )
    allowed = _allowed_inputs(source, rest, known)
    match = _NAME.fullmatch(rest)
    if match is None:
        raise UsageError(
            f"unknown feature '{name}': write {source}:INPUT, then -paper, :tokens, :2of4, :h, :v or :hv if you like"
        )
    input_name, style, tokens, number, count, view = match.groups()
    images = list_audio_images()
    if input_name in allowed:
        inputs = [input_name]
    elif not input_name:
        inputs = allowed
    elif input_name == "images" and images[0] in allowed:
        inputs = list(images)
    else:
        groups = ", or images for all of these" if images[0] in allowed else ""
        raise UsageError(f"unknown feature '{name}': {source} takes {', '.join(allowed)}{groups}")
    if style and inputs[0] not in images:
        raise UsageError(f"unknown feature '{name}': only audio images have a style")
    if style and style not in STYLES:
        raise UsageError(f"unknown feature '{name}': styles are {', '.join(STYLES)}")
    if tokens is not None and source in _RAW_SOURCES:
        raise UsageError(f"unknown feature '{name}': only backbones give tokens")
    views = VIEWS if view == "flips" else (view or "id",)
    for view_name in views:
        _check_view(name, inputs, view_name)
    # mypy cannot know that style and views are among the literals.
    return [
        _FeatureName(source, input_name, style or None, tokens, window, view)  # type: ignore[arg-type]
        for input_name in inputs
        for window in _windows(name, inputs, number, count)
        for view in views
    ]


def _windows(name: str, inputs: list[str], number: str | None, count: str | None) -> list[tuple[int, int] | None]:
    if count is None:
        return [None]
    if inputs[0] not in ("frames", "clip"):
        raise UsageError(f"unknown feature '{name}': only frames have windows")
    if number is None:
        return [(index, int(count)) for index in range(1, int(count) + 1)]
    if int(number) > int(count):
        raise UsageError(f"unknown feature '{name}': there is no window {number} of {count}")
    return [(int(number), int(count))]


def _split_source(name: str) -> tuple[str, str]:
    """(source, rest). The source of a library's network has two pieces, as in `timm:resnet50`."""
    first, _, rest = name.partition(":")
    if first not in backbones.ADAPTERS:
        return first, rest
    second, _, rest = rest.partition(":")
    return f"{first}:{second}", rest


def _allowed_inputs(source: str, rest: str, known: bool) -> list[str]:
    """The inputs of a source. A library's network is not loaded, which may download it, if the name has an input."""
    if source in _RAW_SOURCES:
        return list(list_audio_images()) if source == "image" else ["fbank"]
    is_registered = source in backbones.list_backbones()
    if rest and not is_registered and (backbones.is_adapted(source) or not known):
        return ["frames", "clip", *list_audio_images(), "fbank", "sound"]
    if not is_registered and not backbones.is_adapted(source):
        raise UsageError(backbones.unknown_backbone_message(source, [*backbones.list_backbones(), *_RAW_SOURCES]))
    return _backbone_inputs(backbones.get_backbone(source))


def _backbone_inputs(backbone: Backbone) -> list[str]:
    return [name for kind in backbone.inputs for name in (list_audio_images() if kind == "image" else (kind,))]


def _check_view(name: str, inputs: list[str], view: str) -> None:
    if view not in VIEWS:
        raise UsageError(
            f"unknown view in '{name}': h, v, hv, or flips for all (the order is SOURCE:INPUT-STYLE:tokens:WINDOW:VIEW)"
        )
    are_images = set(inputs) <= set(list_audio_images())
    if view != "id" and not (are_images or (inputs[0] in ("frames", "clip") and view == "h")):
        raise UsageError(f"'{name}': audio images have the views h, v and hv, frames have h, other inputs have none")


def _spec(
    feature: _FeatureName,
    sampling: str | None,
    reader: str,
    style: Style,
    size: Size | None,
    weights: WeightsChoice,
    precision: Precision,
) -> FeatureSpec:
    if feature.source == "audio":
        return _without_backbone(feature, style, _filter_bank_input())
    if feature.source == "image":
        return _without_backbone(feature, style, _image_input(feature.input, style, size or DEFAULT_SIZES[style], None))
    backbone = backbones.get_backbone(feature.source)
    if feature.input not in _backbone_inputs(backbone):
        raise UsageError(f"'{feature.text(style)}': {backbone.name} takes {', '.join(_backbone_inputs(backbone))}")
    feature_input: AnyInput
    if feature.input == "fbank":
        feature_input = _filter_bank_input()
    elif feature.input == "sound":
        feature_input = _sound_input(backbone)
    elif feature.input in list_audio_images():
        feature_input = _backbone_image(backbone, feature.input, style, size)
    else:
        feature_input = _frames_input(backbone, feature, sampling, reader)
    frames = (feature_input.shape[0],) if feature_input.kind == "frames" else ()
    shape = (*frames, backbone.feature_dim)
    output: Output = "frames" if frames else "pooled"
    cells = None
    if feature.tokens is not None:
        prefix, cells = _grid_cells(feature, backbone, feature_input)
        output, shape = "tokens", (*frames, prefix + math.prod(cells), backbone.feature_dim)
    return FeatureSpec(
        name=feature.text(style),
        input=feature_input,
        model=_model(backbone, weights),
        output=output,
        grid=cells,
        shape=shape,
        compute=precision,
        view=feature.view,
    )


def token_grid(backbone: Backbone, feature_input: AnyInput) -> Grid | None:
    """The layout of a backbone's tokens for an input; None if it gives none."""
    if backbone.grid is None:
        return None
    if isinstance(feature_input, FilterBankInput):
        return backbone.grid((feature_input.bands, feature_input.frames))
    if isinstance(feature_input, SoundInput):
        return backbone.grid(feature_input.shape)
    shape = feature_input.shape[1:] if feature_input.kind == "frames" else feature_input.shape
    return backbone.grid(shape[:-1])


def _grid_cells(feature: _FeatureName, backbone: Backbone, feature_input: AnyInput) -> tuple[int, tuple[int, ...]]:
    """(number of prefix tokens, grid) of the tokens of a feature."""
    grid = token_grid(backbone, feature_input)
    if grid is None:
        raise UsageError(f"'{feature.text(DEFAULT_STYLE)}': {backbone.name} gives no tokens")
    if not feature.tokens:
        return grid.prefix, grid.cells
    requested = tuple(int(cells) for cells in feature.tokens.split("x"))
    full = grid.cells[: grid.pooled]
    if len(requested) != len(full) or not all(1 <= new <= old for new, old in zip(requested, full, strict=True)):
        raise UsageError(
            f"'{feature.text(DEFAULT_STYLE)}': the tokens of {backbone.name} are a grid of "
            f"{'x'.join(map(str, full))}: name that or a smaller one"
        )
    return grid.prefix, (*requested, *grid.cells[grid.pooled :])


def _frames_input(backbone: Backbone, feature: _FeatureName, sampling: str | None, reader: str) -> FramesInput:
    assert backbone.preprocess is not None
    sampling = sampling or (DEFAULT_SAMPLING if feature.input == "frames" else backbone.sampling)
    if feature.window is not None:
        if "@" in sampling:
            raise UsageError(
                f"'{feature.text(DEFAULT_STYLE)}' is a window already, and --frames {sampling} names another"
            )
        sampling += "@{}/{}".format(*feature.window)
    if feature.input == "frames":
        return FramesInput(reader=_reader(reader), sampling=sampling, preprocess=backbone.preprocess)
    feature_input = FramesInput(kind="clip", reader=_reader(reader), sampling=sampling, preprocess=backbone.preprocess)
    if backbone.frame_counts and feature_input.shape[0] not in backbone.frame_counts:
        counts = " or ".join(map(str, backbone.frame_counts))
        raise UsageError(
            f"{backbone.name} takes clips of {counts} frames, '{sampling}' gives {feature_input.shape[0]} (--frames)"
        )
    return feature_input


def _without_backbone(feature: _FeatureName, style: Style, feature_input: ImageInput | FilterBankInput) -> FeatureSpec:
    is_image = isinstance(feature_input, ImageInput)
    return FeatureSpec(
        name=feature.text(style),
        input=feature_input,
        model=None,
        output="image" if is_image else "filter_bank",
        shape=feature_input.shape,
        dtype="uint8" if is_image else "float32",
        compute="float32" if is_image else "float64",
        view=feature.view,
    )


def _model(backbone: Backbone, choice: WeightsChoice) -> ModelSpec:
    weights = choice.weights_for(backbone.name, backbone.checkpoints)
    return ModelSpec(
        backbone=backbone.name, revision=backbone.revision, checkpoint=weights.sha256, untrained=weights.untrained
    )


def _backbone_image(backbone: Backbone, representation: str, style: Style, size: Size | None) -> ImageInput:
    """An audio image as input of a backbone. The `paper` style is normalised as published: with ImageNet's mean and
    deviation, and at 224 x 224, whatever the checkpoint was trained with."""
    assert backbone.preprocess is not None
    side = PAPER_SIDE if style == "paper" else backbone.preprocess.crop
    preprocess = backbone.preprocess.model_copy(update={"resize": None})
    if style == "paper":
        preprocess = Preprocess(
            resize=None, crop=side, interpolation="bilinear", mean=_IMAGENET_MEAN, std=_IMAGENET_STD
        )
        size = size or DEFAULT_SIZES["paper"]
    return _image_input(representation, style, size or (side, side), preprocess)


def _image_input(representation: str, style: Style, size: Size, preprocess: Preprocess | None) -> ImageInput:
    height, width = size
    return ImageInput(
        reader=_reader(DEFAULT_READER),  # audio is always decoded by PyAV
        representation=representation,
        revision=get_audio_image(representation).revision,
        style=style,
        height=height,
        width=width,
        preprocess=preprocess,
    )


def _filter_bank_input() -> FilterBankInput:
    return FilterBankInput(
        reader=_reader(DEFAULT_READER),
        revision=filter_bank.REVISION,
        rate_hz=filter_bank.RATE_HZ,
        frames=filter_bank.FRAMES,
        bands=filter_bank.MEL_BANDS,
    )


def _sound_input(backbone: Backbone) -> SoundInput:
    sound = backbone.sound
    assert sound is not None
    return SoundInput(
        reader=_reader(DEFAULT_READER),
        extractor=sound.extractor,
        rate_hz=sound.rate_hz,
        seconds=sound.seconds,
        shape=sound.shape,
    )


def _reader(name: str) -> ReaderSpec:
    return ReaderSpec(name=name, revision=READERS[name])
