"""`avfuse decode`: frames and sound of a clip as arrays."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from avfuse.pipeline.cli.options import clip_errors_as_usage, parse_seconds, reader_option
from avfuse.pipeline.output_paths import require_file, require_png

if TYPE_CHECKING:
    from avfuse.features.media import Media


@click.command(short_help="Write the frames and the sound of a media file as arrays (.npz).")
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The .npz file to write.")
@click.option(
    "--contact-sheet", type=click.Path(path_type=Path), help="A PNG file that shows the frames and the sound."
)
@click.option(
    "--frames",
    default="uniform:25",
    show_default=True,
    help="uniform:N, strided:NxS, rate:R, or windows such as strided:16x4@1/4 (docs/media.md).",
)
@click.option("--start", help="Start of the clip in seconds of the file's timeline (default: the file's start).")
@click.option("--end", help="End of the clip in seconds (default: the file's end).")
@click.option("--rate", "rate_hz", type=click.IntRange(min=1), help="Samples per second (default: the file's own).")
@click.option("--no-audio", is_flag=True, help="Without sound.")
@click.option("--whole-audio", is_flag=True, help="Keep sound after the last frame.")
@reader_option
def decode(
    clip: Path,
    output: Path | None,
    contact_sheet: Path | None,
    frames: str,
    start: str | None,
    end: str | None,
    rate_hz: int | None,
    no_audio: bool,
    whole_audio: bool,
    reader: str,
) -> None:
    """Decode CLIP, any media file, the way extraction does.

    The .npz file holds `frames` (T, H, W, 3) uint8, `times` (T,) in seconds, `audio` float32 mono, its `rate`, and the
    `reader`. A clip without sound has no `audio` and `rate`; a sound file has no `frames` and `times`.

    \b
    Examples:
      avfuse decode clip.mp4 -o clip.npz
      avfuse decode clip.mp4 --frames strided:8x32 --start 2 --end 7.5 -o part.npz --contact-sheet part.png
    """
    from avfuse.features.errors import UsageError
    from avfuse.features.media import MediaFile

    if output is None and contact_sheet is None:
        raise UsageError("nothing to write: name -o out.npz, or --contact-sheet out.png")
    if output is not None and output.suffix != ".npz":
        raise UsageError(f"-o {output}: the file's name ends in .npz, for example {output.with_suffix('.npz')}")
    if output is not None:
        require_file(output, "-o")
    if contact_sheet is not None:
        require_png(contact_sheet, "--contact-sheet")
    with clip_errors_as_usage(clip), MediaFile(clip, reader) as file:
        media = file.read(
            [frames],
            audio=not no_audio,
            start=parse_seconds("--start", start),
            end=parse_seconds("--end", end),
            rate_hz=rate_hz,
            whole_audio=whole_audio,
        )
    _require_something(clip, media)
    if output is not None:
        _save(output, media)
    if contact_sheet is not None:
        from avfuse.pipeline.report.figures.contact_sheet import draw

        draw(media).save(contact_sheet)
    for line in _description(media):
        click.echo(line)
    for path in (output, contact_sheet):
        if path is not None:
            click.echo(path)


def _require_something(clip: Path, media: "Media") -> None:
    """Print errors of the picture or the sound. Raises UsageError if neither was decoded."""
    from avfuse.features.errors import UsageError

    if media.frames is None and media.waveform is None:
        problems = [str(error) for error in (media.frames_error, media.waveform_error) if error is not None]
        raise UsageError(f"{clip}: {'; '.join(problems) or 'neither a video nor an audio stream'}")
    if media.frames_error is not None:
        click.echo(f"avfuse: {clip}: {media.frames_error}", err=True)
    if media.waveform_error is not None:
        click.echo(f"avfuse: {clip}: {media.waveform_error}", err=True)


def _save(output: Path, media: "Media") -> None:
    import numpy as np

    arrays: dict[str, Any] = {"reader": np.array(media.reader)}
    if media.frames is not None:
        arrays |= {"frames": media.frames.pixels, "times": media.frames.times}
    if media.waveform is not None:
        arrays |= {"audio": media.waveform.samples, "rate": np.array(media.waveform.rate_hz)}
    np.savez(output, **arrays)


def _description(media: "Media") -> list[str]:
    lines = []
    if media.frames is not None:
        count, height, width, _ = media.frames.pixels.shape
        source = "timestamps" if media.frames.time_source == "timestamps" else "index over average rate"
        lines.append(
            f"frames  {count} of {media.frames.available}, {width}x{height}, "
            f"{media.frames.times.min():.3f} to {media.frames.times.max():.3f} s ({source})"
        )
    if media.waveform is not None:
        silent = ", silent" if media.waveform.is_silent else ""
        lines.append(f"sound   {media.waveform.duration_seconds:.3f} s at {media.waveform.rate_hz} Hz{silent}")
    elif media.sound != "not asked for":
        lines.append(f"sound   {media.sound}")
    return lines + [f"note    {note}" for note in media.notes]
