"""Options shared by commands, and parsing of their values."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import click

from avfuse.features.errors import ClipError, UsageError

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path("cache"),
    envvar="AVFUSE_CACHE",
    show_default=True,
    help="Folder of manifests and features.",
)
runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    envvar="AVFUSE_RUNS",
    show_default=True,
    help="Folder of trained heads and their results.",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or mps; auto takes a GPU if there is one."
)
memory_option = click.option(
    "--memory",
    "memory_gib",
    type=click.FloatRange(min=0),
    help="GiB of memory for features; what does not fit is streamed from the cache (default: half of the machine's).",
)
video_option = click.option(
    "--video", default="lite:frames", show_default=True, help="The feature that heads take as video."
)
audio_option = click.option(
    "--audio", default="lite:images", show_default=True, help="Comma-separated features that heads take as audio."
)
seeds_option = click.option(
    "--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Number of seeds per row."
)
epochs_option = click.option(
    "--epochs", type=click.IntRange(min=1), help="Maximum number of epochs (default: the head's, or the paper's)."
)
settings_option = click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="Any setting of training or of a head, instead of its default.",
)
replace_option = click.option("--replace", is_flag=True, help="Replace a run of this name that has other settings.")
reader_option = click.option(
    "--reader",
    default="pyav",
    show_default=True,
    help="Decoder of frames: pyav, or decord, which rejects files whose frames it would get wrong.",
)
style_option = click.option(
    "--style",
    type=click.Choice(["aligned", "paper"]),
    default="aligned",
    show_default=True,
    help="Style of audio images: ours, or that of the published experiments (docs/audio-images.md).",
)


def _height_and_width(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, x, height = text.partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise UsageError(f"--size {text}: write WIDTHxHEIGHT in pixels, for example 360x360")
    return int(height), int(width)


size_option = click.option(
    "--size",
    metavar="WxH",
    callback=_height_and_width,
    help="Size of audio images in pixels (default: 224x224 aligned, 360x360 paper).",
)


def memory_bytes(device: str, gib: float | None) -> int:
    """Memory for features in bytes: --memory, by default half of the device's."""
    from avfuse.stages.device import device_memory_bytes

    return device_memory_bytes(device) // 2 if gib is None else int(gib * 2**30)


def parse_seconds(flag: str, text: str | None) -> Fraction | None:
    """Exact seconds: 0.4 is 2/5, not the nearest binary number. Raises UsageError for text that is not a number."""
    if text is None:
        return None
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"{flag} {text}: not a number of seconds") from error


@contextmanager
def clip_errors_as_usage(clip: Path) -> Iterator[None]:
    """A ClipError raised inside becomes a UsageError that names the clip's file."""
    try:
        yield
    except ClipError as error:
        raise UsageError(f"{clip}: {error}") from error


def comma_list(text: str) -> list[str]:
    """Items of a comma-separated option."""
    return [part.strip() for part in text.split(",") if part.strip()]


def unique_list(given: str, text: str) -> list[str]:
    """Items of a comma-separated option, typed as `given`. Raises UsageError for none and for duplicates."""
    items = comma_list(text)
    if not items:
        raise UsageError(f"{given}: nothing is named, name at least one")
    if duplicates := [name for name, count in Counter(items).items() if count > 1]:
        raise UsageError(f"{given}: {duplicates[0]} is named twice, once is enough")
    return items


def training_settings(settings: Iterable[str]) -> dict[str, str]:
    """Settings given by --set. Raises UsageError for shuffle_labels, which has a flag of its own."""
    values = assignments("--set", settings)
    if "shuffle_labels" in values:
        raise UsageError("--set shuffle_labels: it is a flag of its own, --shuffle-labels")
    return values


def assignments(flag: str, given: Iterable[str]) -> dict[str, str]:
    """Values of NAME=VALUE options by name. Raises UsageError for another form, and for a name given twice."""
    values: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{flag} {text}: write NAME=VALUE, for example {flag} lr=1e-4")
        if name in values:
            raise UsageError(f"{flag} {name} is given twice: once is enough")
        values[name] = value
    return values
