"""`avfuse weights`: list, fetch and verify checkpoints of backbones."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from avfuse.features.backbones import Checkpoint


@click.group(short_help="List, fetch and verify the weights of backbones.")
def weights() -> None:
    """The published weights of every backbone.

    They are kept in the folder AVFUSE_WEIGHTS, by default a folder in your user's cache.

    \b
    Examples:
      avfuse weights list
      avfuse weights fetch vit-imagenet21k-1k
      avfuse weights verify
    """


@weights.command(name="list", short_help="Every checkpoint with its licence and source, and whether it is here.")
def list_them() -> None:
    """List every backbone's published checkpoints, the default first."""
    from avfuse.features import backbones
    from avfuse.features.backbones.weights import weights_folder

    click.echo(f"folder: {weights_folder()}")
    for name in backbones.list_backbones():
        for checkpoint in backbones.get_backbone(name).checkpoints:
            state = "here" if checkpoint.is_available else "not here"
            licence = f"{checkpoint.licence}{' (non-commercial)' if checkpoint.non_commercial else ''}"
            click.echo(f"  {name:<20} {checkpoint.name:<28} {state:<9} {licence:<32} {checkpoint.source}")


@weights.command(short_help="Download and verify checkpoints.")
@click.argument("names", nargs=-1, required=True)
def fetch(names: tuple[str, ...]) -> None:
    """Download the checkpoints NAMES of `avfuse weights list`; a backbone's name means its default one, and so do
    `timm:NAME`, `torchvision:NAME` and `hf:OWNER/NAME`."""
    from avfuse.features.backbones.weights import fetch as fetch_one

    for checkpoint in map(_checkpoint, names):
        if checkpoint.non_commercial:
            click.echo(f"{checkpoint.name} is licensed {checkpoint.licence}: not for commercial use", err=True)
        click.echo(fetch_one(checkpoint))


@weights.command(short_help="Check downloaded files against their hashes.")
@click.argument("names", nargs=-1)
def verify(names: tuple[str, ...]) -> None:
    """Hash the checkpoints NAMES, or all that are here, and compare with their published hashes."""
    from avfuse.features import backbones
    from avfuse.features.backbones.weights import find_weights

    known = [
        checkpoint
        for backbone in backbones.list_backbones()
        for checkpoint in backbones.get_backbone(backbone).checkpoints
    ]
    chosen = [_checkpoint(name) for name in names] or [checkpoint for checkpoint in known if checkpoint.is_available]
    for checkpoint in chosen:
        file = find_weights(checkpoint)
        proof = (
            f"begins {checkpoint.sha256[:12]}, as published" if checkpoint.sha256 else "no published hash to compare"
        )
        click.echo(f"{checkpoint.name:<28} {file.sha256}  ({proof})")


def _checkpoint(name: str) -> "Checkpoint":
    from avfuse.features import backbones
    from avfuse.features.errors import UsageError

    if backbones.is_adapted(name):
        return backbones.get_backbone(name).checkpoint
    for backbone in map(backbones.get_backbone, backbones.list_backbones()):
        if name == backbone.name:
            return backbone.checkpoint
        for checkpoint in backbone.checkpoints:
            if name == checkpoint.name:
                return checkpoint
    raise UsageError(f"no weights are named '{name}': see avfuse weights list")
