"""From what a user types (`lite`, `lite:frames`, `lite:chromagram`, `lite:images`) to FeatureSpecs."""

from collections.abc import Iterable

from features import backbones
from features.audio_images.render import REPRESENTATION_REVISION, REPRESENTATIONS, SIZE
from features.backbones import Backbone
from features.errors import UsageError
from features.media.reader import DEFAULT_READER, READERS, check_reader
from features.spec import FeatureSpec, FramesInput, ImageInput, ModelSpec, ReaderSpec

DEFAULT_SAMPLING = "uniform:25"


def resolve(wanted: Iterable[str], sampling: str = DEFAULT_SAMPLING, reader: str = DEFAULT_READER) -> list[FeatureSpec]:
    """The specs of the features asked for, in order, each once.

    A name is BACKBONE or BACKBONE:INPUT. INPUT is `frames`, one of the six representations, or `images` for all six;
    a backbone alone means everything it takes; `all` means every backbone. `reader` decodes the frames.

    Raises UsageError for a name that means nothing, and for a sampling that does not give every clip as many frames.
    """
    check_reader(reader)
    specs: dict[str, FeatureSpec] = {}
    for name in wanted:
        for backbone, taken in _expand(name):
            spec = _spec(backbone, taken, sampling, reader)
            specs[spec.key] = spec
    if not specs:
        raise UsageError("no feature asked for: name one, for example --features lite")
    return list(specs.values())


def expand_names(wanted: Iterable[str]) -> list[str]:
    """Feature names with groups spelled out: `lite:images` -> `lite:waveplot`, ... A name with `@key` stays itself."""
    expanded: list[str] = []
    for name in wanted:
        if "@" in name:
            _expand(name.partition("@")[0])
            expanded.append(name)
        else:
            expanded += [f"{backbone.name}:{taken}" for backbone, taken in _expand(name)]
    return list(dict.fromkeys(expanded))


def _expand(name: str) -> list[tuple[Backbone, str]]:
    if name == "all":
        return [pair for backbone in backbones.names() for pair in _expand(backbone)]
    backbone_name, _, taken = name.partition(":")
    backbone = backbones.get(backbone_name)
    every = (["frames"] if "frames" in backbone.inputs else []) + (
        list(REPRESENTATIONS) if "image" in backbone.inputs else []
    )
    if not taken:
        return [(backbone, each) for each in every]
    if taken == "images" and "image" in backbone.inputs:
        return [(backbone, each) for each in REPRESENTATIONS]
    if taken in every:
        return [(backbone, taken)]
    raise UsageError(f"unknown feature '{name}': {backbone_name} takes {', '.join(every)}, or images for all six")


def _spec(backbone: Backbone, taken: str, sampling: str, reader: str) -> FeatureSpec:
    taken_input: FramesInput | ImageInput
    if taken == "frames":
        taken_input = FramesInput(reader=_reader(reader), sampling=sampling, preprocess=backbone.preprocess)
        shape: tuple[int, ...] = (taken_input.shape[0], backbone.feature_dim)
    else:
        height, width = SIZE
        taken_input = ImageInput(
            reader=_reader(DEFAULT_READER),  # sound is always PyAV's
            representation=taken,
            revision=REPRESENTATION_REVISION,
            height=height,
            width=width,
            # Audio images are drawn at the size the network takes: nothing is resized.
            preprocess=backbone.preprocess.model_copy(update={"resize": None, "crop": height}),
        )
        shape = (backbone.feature_dim,)
    return FeatureSpec(
        name=f"{backbone.name}:{taken}",
        input=taken_input,
        model=ModelSpec(backbone=backbone.name, revision=backbone.revision, checkpoint=backbone.checkpoint.sha256),
        output="frames" if taken == "frames" else "pooled",
        shape=shape,
    )


def _reader(name: str) -> ReaderSpec:
    return ReaderSpec(name=name, revision=READERS[name])
