"""`avfuse render`: look at a clip's sound."""

from pathlib import Path

import click


@click.command(short_help="Draw the sound of a media file as the six audio images.")
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the six PNG files.")
def render(clip: Path, output: Path) -> None:
    """Draw the sound of CLIP, any media file, as the six audio images: one <representation>.png each.

    \b
    Example:
      avfuse render clip.avi -o pictures/
    """
    from PIL import Image

    from features.audio_images import render as draw
    from features.errors import UsageError
    from features.media import decode
    from pipeline.cli.options import require_folder

    media = decode(clip, frames=None)
    if not media.has_audio:
        raise UsageError(f"{clip} has no audio stream: there is nothing to draw")
    if media.waveform is None:
        raise UsageError(f"{clip}: {media.waveform_error}")
    require_folder(output, "-o")
    for name, pixels in draw(media.waveform.samples, media.waveform.rate_hz).items():
        target = output / f"{name}.png"
        Image.fromarray(pixels).save(target)
        click.echo(target)
