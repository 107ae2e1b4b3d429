"""`avfuse render`: audio images of a clip."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from avfuse.pipeline.cli.options import clip_errors_as_usage, parse_seconds, size_option, style_option
from avfuse.pipeline.output_paths import require_folder, require_png

if TYPE_CHECKING:
    from avfuse.features.audio_images import Style

_STRIP_FRAMES = "uniform:8"


@click.command(short_help="Draw the sound of a media file as audio images.")
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the PNG files.")
@click.option(
    "--contact-sheet",
    type=click.Path(path_type=Path),
    help="One PNG file with all, named, over the clip's frames.",
)
@click.option("--start", help="Start of the clip in seconds of the file's timeline (default: the file's start).")
@click.option("--end", help="End of the clip in seconds (default: the file's end).")
@style_option
@size_option
def render(
    clip: Path,
    output: Path | None,
    contact_sheet: Path | None,
    start: str | None,
    end: str | None,
    style: "Style",
    size: tuple[int, int] | None,
) -> None:
    """Draw the sound of CLIP, any media file, as audio images: one <representation>.png each.

    \b
    Examples:
      avfuse render clip.avi -o pictures/
      avfuse render song.flac --style paper --size 1400x500 -o pictures/ --contact-sheet pictures/all.png
    """
    from PIL import Image

    from avfuse.features.audio_images import render as draw
    from avfuse.features.errors import UsageError
    from avfuse.features.media import decode

    if output is None and contact_sheet is None:
        raise UsageError("nothing to write: name -o FOLDER, or --contact-sheet out.png")
    if contact_sheet is not None:
        require_png(contact_sheet, "--contact-sheet")
    frames = _STRIP_FRAMES if contact_sheet is not None else None
    with clip_errors_as_usage(clip):
        media = decode(clip, frames=frames, start=parse_seconds("--start", start), end=parse_seconds("--end", end))
        if not media.has_audio:
            raise UsageError(f"{clip} has no audio stream: there is nothing to draw")
        if media.waveform is None:
            raise UsageError(f"{clip}: {media.waveform_error}")
        pictures = draw(media.waveform.samples, media.waveform.rate_hz, style=style, size=size)
    if output is not None:
        require_folder(output, "-o")
        for name, pixels in pictures.items():
            target = output / f"{name}.png"
            Image.fromarray(pixels).save(target)
            click.echo(target)
    if contact_sheet is not None:
        from avfuse.pipeline.report.figures.contact_sheet import draw_images

        draw_images(pictures, media).save(contact_sheet)
        click.echo(contact_sheet)
