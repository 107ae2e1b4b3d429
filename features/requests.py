"""From what a user types (`lite`, `lite:frames`, `lite:chromagram-paper:h`, `image:mfcc`) to FeatureSpecs.

A name is SOURCE:INPUT[-STYLE][:VIEW]. SOURCE is a backbone, or `image` or `audio` for a backbone's input itself; INPUT
is `frames`, one of the six representations, `images` for all six, or `fbank`; STYLE is how audio images are drawn; VIEW
is `h`, `v` or `hv`, or `flips` for these and the picture as it is. A source alone means everything it takes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from features import backbones, filter_bank
from features.audio_images import DEFAULT_SIZES, REPRESENTATION_REVISION, REPRESENTATIONS, STYLES, Size, Style
from features.audio_images.render import check_style
from features.backbones import Backbone
from features.errors import UsageError
from features.media.reader import DEFAULT_READER, READERS, check_reader
from features.spec import (
    VIEWS,
    FeatureSpec,
    FilterBankInput,
    FramesInput,
    ImageInput,
    ModelSpec,
    Preprocess,
    ReaderSpec,
    View,
)

DEFAULT_SAMPLING = "uniform:25"
DEFAULT_STYLE: Style = "aligned"

_WITHOUT_BACKBONE = {"image": REPRESENTATIONS, "audio": ("fbank",)}
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class _Wanted:
    """One feature by name. style: None where the name says nothing."""

    source: str
    taken: str
    style: Style | None
    view: View

    def name(self, style: Style) -> str:
        drawn = f"-{style}" if self.taken in REPRESENTATIONS and style != DEFAULT_STYLE else ""
        return f"{self.source}:{self.taken}{drawn}" + (f":{self.view}" if self.view != "id" else "")


def resolve(
    wanted: Iterable[str],
    sampling: str = DEFAULT_SAMPLING,
    reader: str = DEFAULT_READER,
    style: Style = DEFAULT_STYLE,
    size: Size | None = None,
) -> list[FeatureSpec]:
    """The specs of the features asked for, in order, each once.

    Args:
        wanted: names; `all` means every backbone.
        sampling, reader: which frames, and who decodes them.
        style, size: of audio images whose name gives no style; size is (height, width), by default what the backbone
            takes (aligned) or 360 x 360 (paper).

    Raises:
        UsageError: a name that means nothing, a sampling that does not give every clip as many frames, an unknown
            reader or style.
    """
    check_reader(reader)
    check_style(style, size)
    specs: dict[str, FeatureSpec] = {}
    for name in wanted:
        for each in _parse(name):
            spec = _spec(each, sampling, reader, each.style or style, size)
            specs[spec.key] = spec
    if not specs:
        raise UsageError("no feature asked for: name one, for example --features lite")
    return list(specs.values())


def expand_names(wanted: Iterable[str]) -> list[str]:
    """Feature names with groups spelled out: `lite:images` -> `lite:waveplot`, ... A name with `@key` stays itself."""
    expanded: list[str] = []
    for name in wanted:
        plain, at, _ = name.partition("@")
        spelled_out = [each.name(each.style or DEFAULT_STYLE) for each in _parse(plain)]
        expanded += [name] if at else spelled_out
    return list(dict.fromkeys(expanded))


def drawn_image(image: ImageInput) -> FeatureSpec:
    """The spec of a picture as it was drawn: what is cached of it serves every backbone."""
    style = f"-{image.style}" if image.style != DEFAULT_STYLE else ""
    return FeatureSpec(
        name=f"image:{image.representation}{style}",
        input=image.as_drawn,
        model=None,
        output="image",
        shape=image.as_drawn.shape,
        dtype="uint8",
    )


def _parse(name: str) -> list[_Wanted]:
    if name == "all":
        return [each for backbone in backbones.names() for each in _parse(backbone)]
    source, _, rest = name.partition(":")
    every = _takes(source)
    given, _, view = rest.partition(":")
    taken, _, style = given.partition("-")
    if taken in every:
        chosen = [taken]
    elif not given:
        chosen = every
    elif taken == "images" and REPRESENTATIONS[0] in every:
        chosen = list(REPRESENTATIONS)
    else:
        groups = ", or images for all six" if REPRESENTATIONS[0] in every else ""
        raise UsageError(f"unknown feature '{name}': {source} takes {', '.join(every)}{groups}")
    if style and (style not in STYLES or chosen[0] not in REPRESENTATIONS):
        raise UsageError(f"unknown feature '{name}': audio images have a style, one of {', '.join(STYLES)}")
    views = VIEWS if view == "flips" else (view or "id",)
    for each in views:
        _check_view(name, chosen, each)
    return [_Wanted(source, taken, style or None, view) for taken in chosen for view in views]  # type: ignore[arg-type]


def _takes(source: str) -> list[str]:
    if source in _WITHOUT_BACKBONE:
        return list(_WITHOUT_BACKBONE[source])
    if source not in backbones.names():
        known = [*backbones.names(), *_WITHOUT_BACKBONE]
        raise UsageError(f"unknown backbone '{source}': choose from {', '.join(known)}")
    inputs = backbones.get(source).inputs
    return (["frames"] if "frames" in inputs else []) + (list(REPRESENTATIONS) if "image" in inputs else [])


def _check_view(name: str, chosen: list[str], view: str) -> None:
    if view not in VIEWS:
        raise UsageError(f"unknown view in '{name}': h, v, hv, or flips for these and the picture as it is")
    if view != "id" and not (set(chosen) <= set(REPRESENTATIONS) or (chosen == ["frames"] and view == "h")):
        raise UsageError(f"'{name}': audio images have the views h, v and hv, frames have h, and others have none")


def _spec(wanted: _Wanted, sampling: str, reader: str, style: Style, size: Size | None) -> FeatureSpec:
    if wanted.taken == "fbank":
        return _filter_bank_spec(wanted)
    if wanted.source == "image":
        image = _image(wanted.taken, style, size or DEFAULT_SIZES[style], None)
        return drawn_image(image).model_copy(update={"name": wanted.name(style), "view": wanted.view})
    backbone = backbones.get(wanted.source)
    taken: FramesInput | ImageInput
    if wanted.taken == "frames":
        taken = FramesInput(reader=_reader(reader), sampling=sampling, preprocess=backbone.preprocess)
        shape: tuple[int, ...] = (taken.shape[0], backbone.feature_dim)
    else:
        taken = _image_for(backbone, wanted.taken, style, size)
        shape = (backbone.feature_dim,)
    return FeatureSpec(
        name=wanted.name(style),
        input=taken,
        model=ModelSpec(backbone=backbone.name, revision=backbone.revision, checkpoint=backbone.checkpoint.sha256),
        output="frames" if wanted.taken == "frames" else "pooled",
        shape=shape,
        view=wanted.view,
    )


def _image_for(backbone: Backbone, representation: str, style: Style, size: Size | None) -> ImageInput:
    """A picture as a backbone takes it. The papers' pictures are normalised as they were: with ImageNet's colours,
    whatever the checkpoint was trained with."""
    side = backbone.preprocess.crop
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


def _filter_bank_spec(wanted: _Wanted) -> FeatureSpec:
    taken = FilterBankInput(
        reader=_reader(DEFAULT_READER),
        revision=filter_bank.REVISION,
        rate_hz=filter_bank.RATE_HZ,
        frames=filter_bank.FRAMES,
        bands=filter_bank.MEL_BANDS,
    )
    return FeatureSpec(
        name=wanted.name(DEFAULT_STYLE),
        input=taken,
        model=None,
        output="filter_bank",
        shape=taken.shape,
        dtype="float32",
        compute="float64",
    )


def _reader(name: str) -> ReaderSpec:
    return ReaderSpec(name=name, revision=READERS[name])
