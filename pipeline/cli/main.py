"""The command group. Errors of users become one line here."""

import errno
import os
import sys

import click

from avfuse.features.errors import ClipError, UsageError
from avfuse.pipeline.cli.ablate import ablate
from avfuse.pipeline.cli.cluster import cluster
from avfuse.pipeline.cli.decode import decode
from avfuse.pipeline.cli.extract import extract
from avfuse.pipeline.cli.features import features
from avfuse.pipeline.cli.fuse import fuse
from avfuse.pipeline.cli.manifest import manifest
from avfuse.pipeline.cli.predict import predict
from avfuse.pipeline.cli.render import render
from avfuse.pipeline.cli.report import report
from avfuse.pipeline.cli.retrieve import retrieve
from avfuse.pipeline.cli.runs import runs
from avfuse.pipeline.cli.understand import understand
from avfuse.pipeline.cli.weights import weights

USAGE_EXIT_CODE = 2
SECONDS_BETWEEN_LOG_LINES = "30"
"""Interval of progress lines in a file, as a batch system's log keeps each of them."""
_FULL_OR_READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="avfuse")
def avfuse() -> None:
    """Two-stage offline features for audio-video action recognition.

    \b
    Stage one renders each clip's sound as six audio images and runs frozen backbones over sound and frames, once,
    into a cache. Stage two trains small fusion heads on the cached features, in seconds.

    \b
    A first tour:
      avfuse manifest demo                          render a small labelled data set and list its clips
      avfuse extract --dataset demo                 fill the cache
      avfuse fuse --dataset demo --fusion all       train six heads, print a table, write a page
    """


for command in (
    manifest,
    extract,
    decode,
    render,
    fuse,
    predict,
    ablate,
    report,
    runs,
    understand,
    retrieve,
    weights,
    cluster,
    features,
):
    avfuse.add_command(command)


def main() -> None:
    """Run the command line. A user's mistake is one line on standard error and exit code 2. A command sets another exit
    code by raising click.exceptions.Exit, which click returns as a number."""
    os.environ["PYTHONSAFEPATH"] = "1"  # else child processes import files of the current folder, such as numpy.py
    if not sys.stderr.isatty():
        interval = os.environ.setdefault("TQDM_MININTERVAL", SECONDS_BETWEEN_LOG_LINES)
        os.environ.setdefault("TQDM_MAXINTERVAL", interval)  # tqdm writes after this interval in any case
    try:
        code = avfuse.main(standalone_mode=False)
    except (UsageError, ClipError) as error:
        _stop(str(error))
    except click.exceptions.Abort:
        click.echo("\navfuse: interrupted; committed work is kept, run the same command to resume", err=True)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(USAGE_EXIT_CODE)
    except click.ClickException as error:
        hint = f" (try {error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        _stop(error.format_message().replace("\n", " ") + hint)
    except OSError as error:
        if error.filename is None and error.errno not in _FULL_OR_READ_ONLY:
            raise
        place = f"cannot use {error.filename}" if error.filename else "cannot write"
        _stop(f"{place}: {error.strerror}; make room, or name another place with --cache, --runs or -o")
    else:
        if isinstance(code, int):
            sys.exit(code)


def _stop(message: str) -> None:
    click.echo(f"avfuse: {message}", err=True)
    sys.exit(USAGE_EXIT_CODE)
