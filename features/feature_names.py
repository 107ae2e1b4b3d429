"""From what a user types (`lite`, `lite:frames`, `ast:fbank:tokens6x50`, `image:mfcc`) to FeatureSpecs.

A name is SOURCE:INPUT[-STYLE][:OUTPUT][:WINDOW][:VIEW]. SOURCE is a backbone, or `image` or `audio` for a backbone's
input itself; alone it means all it takes. INPUT is `frames` (each on its own), `clip` (frames together), one of the six
representations, `images` for all six, or `fbank`. STYLE is how audio images are drawn. OUTPUT is `tokens`, with a grid
to average them down to where one is given. WINDOW is `2of4` for frames of the second quarter (or the second of four
strided runs), or `windows4` for one feature of each. VIEW is `h`, `v` or `hv`, or `flips` for these and the picture as
it is. `imported:NAME` was computed elsewhere: it can be named, and not extracted.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from avfuse.features import backbones
from avfuse.features.audio_images import DEFAULT_SIZES, REPRESENTATION_REVISION, REPRESENTATIONS, STYLES, Size, Style
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

_WITHOUT_BACKBONE = {"image": REPRESENTATIONS, "audio": ("fbank",)}
_NAME = re.compile(
    r"(\w*)(?:-(\w+))?(?::tokens((?:\d+(?:x\d+)*)?))?(?::(?:([1-9]\d*)of|windows)([1-9]\d*))?(?::(\w+))?"
)
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class _Wanted:
    """One feature by name. style: None where the name says nothing. tokens: the grid asked for, such as `6x50`, empty
    for the network's own; None for the pooled vector. window: (which, of how many), or None."""

    source: str
    taken: str
    style: Style | None
    tokens: str | None
    window: tuple[int, int] | None
    view: View

    def name(self, style: Style) -> str:
        drawn = f"-{style}" if self.taken in REPRESENTATIONS and style != DEFAULT_STYLE else ""
        output = f":tokens{self.tokens}" if self.tokens is not None else ""
        window = ":{}of{}".format(*self.window) if self.window else ""
        view = f":{self.view}" if self.view != "id" else ""
        return f"{self.source}:{self.taken}{drawn}{output}{window}{view}"


def resolve(
    wanted: Iterable[str],
    sampling: str | None = None,
    reader: str = DEFAULT_READER,
    style: Style = DEFAULT_STYLE,
    size: Size | None = None,
    weights: WeightsChoice = PUBLISHED,
    precision: Precision = "float32",
    dtype: Dtype = "float16",
) -> list[FeatureSpec]:
    """The specs of the features asked for, in order, each once.

    Args:
        wanted: names; `all` means every backbone.
        sampling, reader: which frames, and who decodes them; by default 25 frames, or as many as a network that sees
            frames together takes.
        style, size: of audio images whose name gives no style; size is (height, width), by default what the backbone
            takes (aligned) or 360 x 360 (paper).
        weights: what backbones are loaded with; its hash is in the spec.
        precision: the numbers that networks compute with.
        dtype: how what networks give is stored; pictures and filter banks stay as they are.

    Raises:
        UsageError: a name that means nothing, a sampling that does not give every clip as many frames, an unknown
            reader or style, weights that are not here.
    """
    check_reader(reader)
    check_style(style, size)
    specs: dict[str, FeatureSpec] = {}
    for name in wanted:
        for each in _parse(name):
            spec = _spec(each, sampling, reader, each.style or style, size, weights, precision)
            if spec.model is not None:
                spec = spec.model_copy(update={"dtype": dtype})
            specs[spec.key] = spec
    if not specs:
        raise UsageError("no feature asked for: name one, for example --features lite")
    return list(specs.values())


def expand_names(wanted: Iterable[str]) -> list[str]:
    """Feature names with groups spelled out: `lite:images` -> `lite:waveplot`, ... A name with `@key` stays itself, and
    so does `imported:NAME`."""
    expanded: list[str] = []
    for name in wanted:
        if name.startswith(f"{IMPORTED}:"):
            expanded.append(name)
            continue
        plain, at, _ = name.partition("@")
        spelled_out = [each.name(each.style or DEFAULT_STYLE) for each in _parse(plain, known=False)]
        expanded += [name] if at else spelled_out
    return list(dict.fromkeys(expanded))


def is_raw_input(name: str) -> bool:
    """Whether a feature of this name is a backbone's input itself."""
    return name.partition(":")[0] in _WITHOUT_BACKBONE


def image_spec(image: ImageInput) -> FeatureSpec:
    """The spec of a picture as it was drawn: what is cached of it serves every backbone."""
    return _without_backbone(
        _Wanted("image", image.representation, None, None, None, "id"), image.style, image.as_drawn
    )


def _parse(name: str, known: bool = True) -> list[_Wanted]:
    """known: whether the source must be one that is here; cached features outlive the networks that they came from."""
    if name == "all":
        return [each for backbone in backbones.list_backbones() for each in _parse(backbone)]
    source, rest = _source(name)
    if source == IMPORTED:
        raise UsageError(
            f"'{name}' cannot be extracted: what is called {IMPORTED}:NAME was computed elsewhere, and comes into the "
            "cache with avfuse features import"
        )
    every = _takes(source, rest, known)
    match = _NAME.fullmatch(rest)
    if match is None:
        raise UsageError(
            f"unknown feature '{name}': write {source}:INPUT, with -paper, :tokens, :2of4, :h, :v or :hv behind it"
        )
    taken, style, tokens, which, count, view = match.groups()
    if taken in every:
        chosen = [taken]
    elif not taken:
        chosen = every
    elif taken == "images" and REPRESENTATIONS[0] in every:
        chosen = list(REPRESENTATIONS)
    else:
        groups = ", or images for all six" if REPRESENTATIONS[0] in every else ""
        raise UsageError(f"unknown feature '{name}': {source} takes {', '.join(every)}{groups}")
    if style and chosen[0] not in REPRESENTATIONS:
        raise UsageError(f"unknown feature '{name}': only audio images have a style")
    if style and style not in STYLES:
        raise UsageError(f"unknown feature '{name}': styles are {', '.join(STYLES)}")
    if tokens is not None and source in _WITHOUT_BACKBONE:
        raise UsageError(f"unknown feature '{name}': tokens are a backbone's")
    views = VIEWS if view == "flips" else (view or "id",)
    for each in views:
        _check_view(name, chosen, each)
    # mypy cannot know that style and views were looked up in the lists of them.
    return [
        _Wanted(source, taken, style or None, tokens, window, view)  # type: ignore[arg-type]
        for taken in chosen
        for window in _windows(name, chosen, which, count)
        for view in views
    ]


def _windows(name: str, chosen: list[str], which: str | None, count: str | None) -> list[tuple[int, int] | None]:
    if count is None:
        return [None]
    if chosen[0] not in ("frames", "clip"):
        raise UsageError(f"unknown feature '{name}': only frames are taken in windows")
    if which is None:
        return [(each, int(count)) for each in range(1, int(count) + 1)]
    if int(which) > int(count):
        raise UsageError(f"unknown feature '{name}': there is no window {which} of {count}")
    return [(int(which), int(count))]


def _source(name: str) -> tuple[str, str]:
    """A library's network has its library's name before its own."""
    first, _, rest = name.partition(":")
    if first not in backbones.ADAPTERS:
        return first, rest
    second, _, rest = rest.partition(":")
    return f"{first}:{second}", rest


def _takes(source: str, rest: str, known: bool) -> list[str]:
    """What may be asked of a source. A library's network, whose weights may be far away, is not looked at where the
    name says what it takes."""
    if source in _WITHOUT_BACKBONE:
        return list(_WITHOUT_BACKBONE[source])
    is_here = source in backbones.list_backbones()
    if rest and not is_here and (backbones.is_adapted(source) or not known):
        return ["frames", "clip", *REPRESENTATIONS, "fbank", "sound"]
    if not is_here and not backbones.is_adapted(source):
        raise UsageError(backbones.unknown_backbone_message(source, [*backbones.list_backbones(), *_WITHOUT_BACKBONE]))
    return _inputs(backbones.get_backbone(source))


def _inputs(backbone: Backbone) -> list[str]:
    return [name for kind in backbone.inputs for name in (REPRESENTATIONS if kind == "image" else (kind,))]


def _check_view(name: str, chosen: list[str], view: str) -> None:
    if view not in VIEWS:
        raise UsageError(
            f"unknown view in '{name}': h, v, hv, or flips for all (the order is SOURCE:INPUT-STYLE:tokens:WINDOW:VIEW)"
        )
    if view != "id" and not (set(chosen) <= set(REPRESENTATIONS) or (chosen[0] in ("frames", "clip") and view == "h")):
        raise UsageError(f"'{name}': audio images have the views h, v and hv, frames have h, and others have none")


def _spec(
    wanted: _Wanted,
    sampling: str | None,
    reader: str,
    style: Style,
    size: Size | None,
    weights: WeightsChoice,
    precision: Precision,
) -> FeatureSpec:
    if wanted.source == "audio":
        return _without_backbone(wanted, style, _filter_bank_input())
    if wanted.source == "image":
        return _without_backbone(wanted, style, _image(wanted.taken, style, size or DEFAULT_SIZES[style], None))
    backbone = backbones.get_backbone(wanted.source)
    if wanted.taken not in _inputs(backbone):
        raise UsageError(f"'{wanted.name(style)}': {backbone.name} takes {', '.join(_inputs(backbone))}")
    taken: AnyInput
    if wanted.taken == "fbank":
        taken = _filter_bank_input()
    elif wanted.taken == "sound":
        taken = _sound_input(backbone)
    elif wanted.taken in REPRESENTATIONS:
        taken = _image_for(backbone, wanted.taken, style, size)
    else:
        taken = _frames_for(backbone, wanted, sampling, reader)
    each = (taken.shape[0],) if taken.kind == "frames" else ()
    shape = (*each, backbone.feature_dim)
    output: Output = "frames" if each else "pooled"
    cells = None
    if wanted.tokens is not None:
        prefix, cells = _cells(wanted, backbone, taken)
        output, shape = "tokens", (*each, prefix + math.prod(cells), backbone.feature_dim)
    return FeatureSpec(
        name=wanted.name(style),
        input=taken,
        model=_model(backbone, weights),
        output=output,
        grid=cells,
        shape=shape,
        compute=precision,
        view=wanted.view,
    )


def token_grid(backbone: Backbone, taken: AnyInput) -> Grid | None:
    """How a backbone lays out the tokens of an input; None where it gives none."""
    if backbone.grid is None:
        return None
    if isinstance(taken, FilterBankInput):
        return backbone.grid((taken.bands, taken.frames))
    if isinstance(taken, SoundInput):
        return backbone.grid(taken.shape)
    pictures = taken.shape[1:] if taken.kind == "frames" else taken.shape
    return backbone.grid(pictures[:-1])


def _cells(wanted: _Wanted, backbone: Backbone, taken: AnyInput) -> tuple[int, tuple[int, ...]]:
    grid = token_grid(backbone, taken)
    if grid is None:
        raise UsageError(f"'{wanted.name(DEFAULT_STYLE)}': {backbone.name} gives no tokens")
    if not wanted.tokens:
        return grid.prefix, grid.cells
    asked = tuple(int(cells) for cells in wanted.tokens.split("x"))
    whole = grid.cells[: grid.pooled]
    if len(asked) != len(whole) or not all(1 <= new <= old for new, old in zip(asked, whole, strict=True)):
        raise UsageError(
            f"'{wanted.name(DEFAULT_STYLE)}': the tokens of {backbone.name} lie in a grid of "
            f"{'x'.join(map(str, whole))}: ask for that or a smaller one"
        )
    return grid.prefix, (*asked, *grid.cells[grid.pooled :])


def _frames_for(backbone: Backbone, wanted: _Wanted, sampling: str | None, reader: str) -> FramesInput:
    assert backbone.preprocess is not None
    sampling = sampling or (DEFAULT_SAMPLING if wanted.taken == "frames" else backbone.sampling)
    if wanted.window is not None:
        if "@" in sampling:
            raise UsageError(f"'{wanted.name(DEFAULT_STYLE)}' is a window already: --frames {sampling} names another")
        sampling += "@{}/{}".format(*wanted.window)
    if wanted.taken == "frames":
        return FramesInput(reader=_reader(reader), sampling=sampling, preprocess=backbone.preprocess)
    taken = FramesInput(kind="clip", reader=_reader(reader), sampling=sampling, preprocess=backbone.preprocess)
    if backbone.frame_counts and taken.shape[0] not in backbone.frame_counts:
        counts = " or ".join(map(str, backbone.frame_counts))
        raise UsageError(
            f"{backbone.name} takes clips of {counts} frames, '{sampling}' gives {taken.shape[0]} (--frames)"
        )
    return taken


def _without_backbone(wanted: _Wanted, style: Style, taken: ImageInput | FilterBankInput) -> FeatureSpec:
    is_image = isinstance(taken, ImageInput)
    return FeatureSpec(
        name=wanted.name(style),
        input=taken,
        model=None,
        output="image" if is_image else "filter_bank",
        shape=taken.shape,
        dtype="uint8" if is_image else "float32",
        compute="float32" if is_image else "float64",
        view=wanted.view,
    )


def _model(backbone: Backbone, choice: WeightsChoice) -> ModelSpec:
    weights = choice.weights_for(backbone.name, backbone.checkpoints)
    return ModelSpec(
        backbone=backbone.name, revision=backbone.revision, checkpoint=weights.sha256, untrained=weights.untrained
    )


def _image_for(backbone: Backbone, representation: str, style: Style, size: Size | None) -> ImageInput:
    """A picture as a backbone takes it. The papers' pictures are normalised as they were: with ImageNet's colours,
    whatever the checkpoint was trained with, and at 224 x 224, whatever size it prefers."""
    assert backbone.preprocess is not None
    side = PAPER_SIDE if style == "paper" else backbone.preprocess.crop
    preprocess = backbone.preprocess.model_copy(update={"resize": None})
    if style == "paper":
        preprocess = Preprocess(
            resize=None, crop=side, interpolation="bilinear", mean=_IMAGENET_MEAN, std=_IMAGENET_STD
        )
        size = size or DEFAULT_SIZES["paper"]
    return _image(representation, style, size or (side, side), preprocess)


def _image(representation: str, style: Style, size: Size, preprocess: Preprocess | None) -> ImageInput:
    height, width = size
    return ImageInput(
        reader=_reader(DEFAULT_READER),  # sound is always PyAV's
        representation=representation,
        revision=REPRESENTATION_REVISION,
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
