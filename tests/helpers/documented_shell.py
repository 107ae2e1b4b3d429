"""A shell for commands of the documentation: what is typed goes through sh, and each `avfuse` that it reaches runs in
the process of the test, which has the libraries loaded."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import clean_environment
import click
from clean_environment import MAKEFILE
from documented import ROOT
from terminal import Answer, run_here

from avfuse.features.errors import UsageError
from avfuse.pipeline.cli.main import avfuse

ONLY_PARSED = "AVFUSE_DOCS_ONLY_PARSED"
"""Where it is set, commands are held against their options and not run."""

ONLY_EXPANDED = "AVFUSE_DOCS_ONLY_EXPANDED"
"""Where it is set, make says what it would do, and nothing of that is done."""

VARIABLES = set(clean_environment.VARIABLES)
for _script in (*ROOT.glob("tests/torture/*.py"), *ROOT.glob("tests/benchmarks/*.py")):
    if "os.environ.get(" in _script.read_text():  # make hands its variables to what it starts
        VARIABLES |= set(re.findall(r"\"([A-Z_]+)\"", _script.read_text()))
TOOLS = set(re.findall(r"\$\(BIN\)/([\w-]+)", MAKEFILE)) - {"avfuse"}

INCOMPLETE = 3
"""Exit code where a command is named without all that it needs."""

_ASK = """
import json, os, socket, sys
with socket.create_connection(("127.0.0.1", int(os.environ["AVFUSE_DOCS_PORT"]))) as asked:
    asked.sendall(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}).encode())
    asked.shutdown(socket.SHUT_WR)
    answer = json.loads(asked.makefile(encoding="utf-8").read())
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""
# Recipes are expanded by make and carried out in the folder where make was called, as in a checkout.
_MAKE = """
'{ask}' make "$@" || exit
recipe=$('{make}' --no-print-directory -n "$@") || exit
[ -z "${{{only_expanded}}}" ] || exit 0
exec sh -e -c "$recipe"
"""


@dataclass
class Shell:
    """A working folder that looks like a checkout with everything installed.

    Attributes:
        folder: where commands run.
        short: options added to a command, by its name, where it does not say them itself.
        tool: says what becomes of another program of `.venv/bin`, by its words.
    """

    folder: Path
    short: Mapping[str, Mapping[str, str]]
    tool: Callable[[list[str]], Answer]
    server: socket.socket = field(init=False)

    def __enter__(self) -> Self:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    def furnish(self) -> None:
        """Links to the checkout, and programs that ask this process to do their work."""
        for name in ("Makefile", "requirements", "features", "manifests", "stages", "pipeline", "tests", "docs"):
            (self.folder / name).symlink_to(ROOT / name)
        shutil.copy2(ROOT / "pyproject.toml", self.folder)  # which may change while tests run
        programs = self.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        ask = programs / "ask.py"
        ask.write_text(_ASK)
        for name in ("avfuse", *TOOLS, "pip", "dask", "srun", "docker", "apptainer"):
            _program(programs / name, f"exec '{sys.executable}' -I -S '{ask}' {name} \"$@\"")
        _program(programs / "ask", f"exec '{sys.executable}' -I -S '{ask}' \"$@\"")
        _program(
            programs / "make",
            _MAKE.format(ask=programs / "ask", make=shutil.which("make"), only_expanded=ONLY_EXPANDED),
        )
        for extra in ("", *{f"-{name}" for name in re.findall(r"\.installed-(\w+)", MAKEFILE)}):
            (self.folder / ".venv" / f".installed{extra}").touch()

    def run(self, text: str) -> Answer:
        """What sh makes of it; the first command that fails ends it. Exported variables stay for the next."""
        programs, state = self.folder / ".venv" / "bin", self.folder / ".venv" / "exported"
        path = f"{programs}:{os.environ['PATH']}"
        state.touch()
        port = self.server.getsockname()[1]
        script = f". '{state}'\nexport AVFUSE_DOCS_PORT={port}\n{text}\nexport -p > '{state}'"
        with (
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
            subprocess.Popen(
                ["sh", "-e", "-c", script],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env={**os.environ, "PATH": path},
            ) as shell,
        ):  # fmt: skip
            while shell.poll() is None:
                self._serve()
            printed = [file.seek(0) or file.read() for file in (out, err)]
        return Answer(shell.returncode, *printed)

    def _serve(self) -> None:
        try:
            asked, _ = self.server.accept()
        except TimeoutError:
            return
        asked.settimeout(None)
        with asked, asked.makefile("rw", encoding="utf-8") as channel:
            request: dict[str, Any] = json.loads(channel.read())
            answer = self._answer(request["argv"], Path(request["cwd"]), request["env"])
            channel.write(json.dumps({"code": answer.code, "out": answer.out, "err": answer.err}))

    def _answer(self, words: list[str], folder: Path, environment: Mapping[str, str]) -> Answer:
        program, *arguments = words
        if program == "make":
            return _known_to_make(arguments)
        if program == "srun" and ONLY_PARSED in environment:
            program, *arguments = arguments
        if program == "dask" and ONLY_PARSED in environment:
            from dask.cli import cli
            from distributed.cli.dask_scheduler import main as scheduler
            from distributed.cli.dask_worker import main as worker

            cli.add_command(scheduler, "scheduler")
            cli.add_command(worker, "worker")
            return parse(cli, arguments)
        if program != "avfuse":
            return Answer(0) if ONLY_PARSED in environment else self.tool(words)
        if ONLY_PARSED in environment:
            return parse(avfuse, arguments)
        arguments = self._shortened(arguments)
        return run_here(arguments, folder, environment)

    def _shortened(self, arguments: list[str]) -> list[str]:
        for name, options in self.short.items():
            if arguments[: len(name.split())] == name.split() and "--help" not in arguments:
                return arguments + [
                    word for option, value in options.items() if option not in arguments for word in (option, value)
                ]
        return arguments


def parse(group: click.Command, arguments: list[str]) -> Answer:
    """Exit code 2 for an unknown command, option or value, `INCOMPLETE` where only an argument is missing."""
    command: click.Command = group
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
        context = click.Context(command)
        known = command.list_commands(context)
        if name not in known:
            return Answer(2, err=f"no command is called {name}: there are {', '.join(known)}")
        command = command.get_command(context, name) or command
    if isinstance(command, click.Group):
        return Answer(INCOMPLETE, err="which of its commands?")
    try:
        with redirect_stdout(io.StringIO()):
            command.make_context(command.name, arguments)
    except click.exceptions.Exit:
        return Answer(0)
    except (click.MissingParameter, click.BadOptionUsage) as error:
        return Answer(INCOMPLETE, err=error.format_message())
    except (click.ClickException, UsageError) as error:
        return Answer(2, err=error.format_message() if isinstance(error, click.ClickException) else str(error))
    return Answer(0)


def _known_to_make(arguments: list[str]) -> Answer:
    """make says nothing of a variable that no recipe reads: here it is an error."""
    given = {word.partition("=")[0] for word in arguments if "=" in word}
    unknown = ", ".join(sorted(given - VARIABLES))
    return Answer(2, err=f"the Makefile reads no variable {unknown}") if unknown else Answer(0)


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
