"""Every command and every block of code in the documentation runs.

A page is one session in a folder that looks like a checkout with a small demo data set, a folder of clips, and their
features: its pieces run in order, and what one writes is there for the next. Python shares one namespace a page. The
tables below are all that is done differently from what is printed.
"""

import contextlib
import io
import json
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import documented_world as world
import numpy as np
import pytest
import yaml
from documented import ROOT, SHELL, Block, Mention, pages, pieces, without_comment
from documented_shell import INCOMPLETE, MAKEFILE, ONLY_EXPANDED, ONLY_PARSED, Answer, Shell

SHORT = {
    "extract": {"--frames": "uniform:2", "--workers": "1"},
    "fuse": {"--epochs": "1", "--seeds": "1"},
    "ablate avt-table4": {"--epochs": "1", "--seeds": "1", "--grid": "none", "--jobs": "1", "--backbones": "quick"},
    "ablate": {"--epochs": "1", "--seeds": "2", "--grid": "none", "--jobs": "1"},
    "understand contribution": {"--epochs": "1", "--seeds": "2"},
    "predict": {"--workers": "1"},
}
"""Options that a command gets where it does not name them itself; the first that fits."""

GPU, DOWNLOAD = "needs a GPU", "downloads weights"
NODE, CONTAINER, INSTALLS = "needs a Slurm cluster", "needs Docker or Apptainer", "installs packages"
NOT_RUN = {
    "make extract DATASET=clips FEATURES=vit,ast DEVICE=cuda PRECISION=bf16": GPU,
    ".venv/bin/avfuse weights fetch vit ast": DOWNLOAD,
    "make extract DATASET=clips FEATURES=tsn WEIGHTS=tsn=my/checkpoint.pth": DOWNLOAD,
    "make extract DATASET=clips FEATURES=timm:vit_small_patch16_dinov3.lvd1689m:frames": DOWNLOAD,
    "make extract DATASET=clips FEATURES=torchvision:r3d_18:clip": DOWNLOAD,
    "make extract DATASET=clips FEATURES=hf:facebook/dinov2-base:frames,hf:openai/whisper-small:sound": DOWNLOAD,
    "make extract DATASET=clips FEATURES=hf:models/my-videomae:clip": DOWNLOAD,
    "make ablate TABLE=maivar-table2 DATASET=ucf101-audio51 BACKBONES=paper": DOWNLOAD,
    "avfuse manifest folder --root clips --name actions --cache /scratch/me/cache": NODE,
    "avfuse extract --dataset actions --features lite --cache /scratch/me/cache "
    '--chunk-range "$SLURM_ARRAY_TASK_ID/8"': NODE,
    "avfuse extract --dataset actions --features vit:frames,ast --device cuda --precision bf16 "
    "--cache /scratch/me/cache": GPU,
    "avfuse fuse --dataset actions --fusion crossattn --seeds 10 --device cuda --cache /scratch/me/cache": GPU,
    'dask scheduler --host "$(hostname)" --port "$port" --no-dashboard &': NODE,
    'srun dask worker "$scheduler" --nthreads 1 &': NODE,
    "avfuse extract --dataset actions --features lite --cache /scratch/me/cache --engine dask "
    '--scheduler "$scheduler"': NODE,
    "avfuse weights fetch vit ast": DOWNLOAD,
    "make demo PYTHON=python3.13 VENV=.venv-3.13": INSTALLS,
    "make wheel": INSTALLS,
    "pip install dist/avfuse-*.whl": INSTALLS,
    "docker build --tag avfuse .": CONTAINER,
    'docker run --rm --gpus all --shm-size 8g -v "$PWD:/work" avfuse extract --dataset folder --root clips': CONTAINER,
    "apptainer build avfuse.sif avfuse.def": CONTAINER,
    "apptainer exec --nv avfuse.sif avfuse extract --dataset folder --root clips": CONTAINER,
    "make test-lowest": INSTALLS,
    "make test-newest": INSTALLS,
    "make lock": INSTALLS,
    "pip install -e '.[cluster]'": INSTALLS,
    "make cluster": "a cluster runs until it is stopped (tests/pipeline/cluster/test_cluster.py)",
    "make extract DATASET=demo ENGINE=dask SCHEDULER=tcp://127.0.0.1:8786": "needs that cluster",
    "DASK_DISTRIBUTED__WORKER__DAEMON=False dask worker tcp://HOST:8786 --nthreads 1": "needs that cluster",
    "make tables-demo": "takes many minutes",
    "avfuse cluster --gpus": GPU,
    "make compare-readers CLIPS=FOLDER": "measures",
    "make gpu-check": GPU,
    "make gpu-check DEVICE=cuda:1": GPU,
    "DEVICE=cpu make gpu-check": "measures",
    "make gpu-check PYTHON=python3 SYSTEM_TORCH=1": INSTALLS,
    "make wheels WITHOUT=there.txt": INSTALLS,
    "make wheels": INSTALLS,
}
"""What a machine for tests lacks. Such a command is held against its options instead."""

TOOLS = {
    "python -m pytest": "the tests themselves",
    "python -m sphinx": "test_site.py builds the site",
    "python tests/benchmarks/": "measures for minutes",
    "python tests/torture/torture.py": "kills extractions for an hour",
    "ruff": "make lint",
    "mypy": "make lint",
    "lint-imports": "make lint",
}
"""Beginnings of what Makefile's recipes start besides avfuse, none of which is started here, and why."""

REFUSED = {
    "make extract DATASET=ucf101": "needs its media",
    "avfuse manifest vggsound --no-probe": "needs its media",
}
"""Commands that the text says end with a mistake of the user, and what is said then."""

STAND_INS = {
    "docs/supported.md": {"COMMAND": "fuse"},
    "CONTRIBUTING.md": {"NAME": "media"},
    "docs/datasets.md": {"NAME": "epic_kitchens_100"},
    "docs/retrieval.md": {"CLIP_ID": "jumping/a"},
}
"""Words that stand for one of the reader's own."""

PRINTS = {
    "make manifest DATASET=ave ROOT=AVE_Dataset": (
        "the lists have 9 train clips, the published ones 3,339",
        "left out, not found: 1 clips",
    ),
}
"""What is printed where a command runs that shows more than that it runs."""

NO_COMMANDS = {"avfuse shard <format> <hash of the second line> <hash of the tables>": "the first line of a shard"}

ALL_CLIPS = "make fuse DATASET=clips FUSION=video,mlp NAME=all"
FIRST = {
    ".venv/bin/avfuse predict clip.mp4 song.wav --run runs/clips/all": ALL_CLIPS,
}
"""What the reader of a command has typed before, where the page does not say so. `make demo` and MAiVAR's Table II
everybody has, and a folder of clips with their features."""

SAVED = {
    "docs/add-a-head.md": "gated.py",
    "docs/add-a-dataset.md": "ave.py",
    "docs/add-a-backbone.md": "my_backbone.py",
    "docs/add-an-audio-image.md": "rms.py",
}
"""Pages whose Python is saved as the file that they name."""

PREPARED = {
    "make extract DATASET=folder ROOT=clips LABEL_COLUMN=verb GROUP_COLUMN=video_id": world.add_labels,
    "make manifest DATASET=ucf101 ROOT=DIR SUBSET=audio51": world.add_ucf101,
    "make manifest DATASET=epic_kitchens_100 ROOT=DIR": world.add_epic_kitchens_100,
    "make manifest DATASET=ave ROOT=AVE_Dataset": world.add_ave,
    "AVFUSE_BACKBONES=my_backbone.py make extract DATASET=clips FEATURES=mean_colours:frames": world.add_own_weights,
}
"""What a command's reader has put in place."""


def some_features() -> dict[str, object]:
    """12 clips of two classes, as wide as docs/fusion.md says."""
    generator = np.random.default_rng(0)
    y = np.arange(12) % 2
    X = generator.standard_normal((12, 25 * 1024 + 6 * 1536)).astype(np.float32) + y[:, None]
    return {"X": X, "y": y, "videos": np.arange(12), "X_new": X[:2]}


GIVEN: Mapping[str, Callable[[], Mapping[str, object]]] = {"docs/fusion.md": some_features}
"""Names that Python on a page takes from its reader."""

ARGUMENTS = {"docs/cache-format.md": "cache/demo/lite.mfcc-*/shard-*.h5"}
"""Files that a program on a page is called with, as a pattern."""

SHOWN = {"text", "bibtex", "toml", "{include}", "{toctree}", "{eval-rst}"}
"""Languages of blocks that are there to be read."""


@cache
def typed_in_blocks() -> frozenset[str]:
    blocks = [piece for page in pages() for piece in pieces(page) if isinstance(piece, Block)]
    shell = [block for block in blocks if block.is_transcript or block.language in SHELL]
    return frozenset(without_comment(line) for block in shell for line in block.commands())


def only_parsed(command: str, typed: str) -> str:
    """Shell lines that hold a command against its options; of one that installs, make only says what it would do."""
    switches = [ONLY_PARSED, ONLY_EXPANDED] if NOT_RUN.get(command) == INSTALLS else [ONLY_PARSED]
    return "\n".join([*(f"export {name}=1" for name in switches), typed, f"unset {' '.join(switches)}"])


@dataclass
class Session:
    """A page, read from its beginning by somebody who types what it says."""

    page: str
    shell: Shell
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    headings: list[list[str]] = field(default_factory=list)
    done: set[str] = field(default_factory=lambda: {*typed_in_blocks()})

    def take(self, piece: Block | Mention) -> str | None:
        """What is wrong with a piece of the page, if anything."""
        if isinstance(piece, Mention):
            return self._mention(piece.text)
        if piece.is_transcript or piece.language in SHELL:
            return self._type(piece.commands())
        if piece.language in ("python", "py", "{code-cell}"):
            return self._python(piece)
        if piece.language == "":
            return self._printed(piece)
        if piece.language in ("json", "yaml"):
            {"json": json.loads, "yaml": yaml.safe_load}[piece.language](piece.text)
        elif piece.language not in SHOWN:
            return f"nobody knows how to run {piece.language}"
        return None

    def _type(self, lines: Sequence[str]) -> str | None:
        script = []
        for line in lines:
            command = without_comment(line)
            if trouble := self._before(command):
                return trouble
            typed = self._with_stand_ins(line)
            script.append(only_parsed(command, typed) if command in NOT_RUN else typed)
        answer = self._run("\n".join(script))
        expected = [text for command in map(without_comment, lines) for text in PRINTS.get(command, ())]
        missing = [text for text in expected if text not in answer.out]
        return self._wrong(answer) or (f"not printed: {missing}" if missing else None)

    def _before(self, command: str) -> str | None:
        if command in PREPARED:
            PREPARED[command](self.shell.folder)
        return self._wrong(self._run(FIRST[command])) if command in FIRST else None

    def _mention(self, text: str) -> str | None:
        """The bare name of a target, of a command or of its option has to be one; what lacks nothing runs, unless a
        block runs it anyway."""
        command = re.split(r"\.\.\.|[|<\[]", text)[0]
        if text in NO_COMMANDS or text in self.done:
            return None
        self.done.add(text)
        typed = self._with_stand_ins(command)
        if text in REFUSED:
            answer = self._run(typed)
            return None if answer.code == 2 and REFUSED[text] in answer.err else f"not refused: {answer}"
        answer = self._run(only_parsed(text, typed))
        if answer.code == INCOMPLETE and (" -" not in command or command.split()[-1].startswith("--")):
            return None
        if text in NOT_RUN or text != command or re.fullmatch(r"make \S+", text):
            return self._wrong(answer)
        return self._wrong(answer) or self._before(text) or self._wrong(self._run(typed))

    def _python(self, block: Block) -> str | None:
        code = "".join(line for line in block.text.splitlines(True) if not line.startswith(":"))
        if self.page in SAVED:
            (self.shell.folder / SAVED[self.page]).write_text(code)
            return None
        files = sorted(map(str, self.shell.folder.glob(ARGUMENTS[self.page]))) if self.page in ARGUMENTS else []
        if self.page in GIVEN:
            self.names |= GIVEN[self.page]()
        with (
            contextlib.chdir(self.shell.folder),
            contextlib.redirect_stdout(io.StringIO()) as out,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sys, "argv", ["-", *files])
            try:
                exec(compile("\n" * block.line + code, self.page, "exec"), self.names)
            except Exception:  # noqa: BLE001 - whatever goes wrong is told with the page's other faults
                return traceback.format_exc()
        self._remember(out.getvalue())
        return None

    def _printed(self, block: Block) -> str | None:
        unknown = [each for each in block.headings() if each not in self.headings]
        return f"no command before it prints a table of these columns: {unknown}" if unknown else None

    def _with_stand_ins(self, text: str) -> str:
        for word, meant in STAND_INS.get(self.page, {}).items():
            text = re.sub(rf"\b{word}\b(?!=)", meant, text)  # a variable of make keeps its name
        return text

    def _run(self, text: str) -> Answer:
        answer = self.shell.run(text)
        self._remember(answer.out)
        return answer

    def _remember(self, printed: str) -> None:
        self.headings += Block(self.page, 0, "", printed).headings()

    def _wrong(self, answer: Answer) -> str | None:
        return None if answer.code == 0 else f"exit code {answer.code}: {answer.err[-3000:]}"


def not_started(words: list[str]) -> Answer:
    """Programs besides avfuse: the known ones are there, and are left alone."""
    text = " ".join(words)
    for word in words:
        if word.endswith(".py") and not (ROOT / word).is_file():
            return Answer(2, err=f"there is no {word}")
    return Answer(0) if text.startswith(tuple(TOOLS)) else Answer(2, err=f"nobody says why not to start: {text}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The shell, and beside its folder a copy of what is in it at the beginning of each page."""
    base = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch, world.small_demo():
        patch.setenv("AVFUSE_WEIGHTS", str(base / "weights"))
        patch.setenv("SLURM_ARRAY_TASK_ID", "3")
        (base / "checkout").mkdir()
        with Shell(base / "checkout", SHORT, not_started) as shell:
            world.prepare(shell)
            shutil.copytree(base / "checkout", base / "kept", symlinks=True)
            yield shell


@pytest.fixture
def shell(prepared: Shell) -> Shell:
    shutil.rmtree(prepared.folder)
    shutil.copytree(prepared.folder.parent / "kept", prepared.folder, symlinks=True)
    return prepared


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", pages())
def test_what_a_page_says_works(page: str, shell: Shell) -> None:
    session = Session(page, shell)
    wrong = []
    for piece in pieces(page):
        started = time.perf_counter()
        if trouble := session.take(piece):
            wrong.append(f"{page}:{piece.line}: {piece.text.strip()}\n{trouble}")
        print(f"{time.perf_counter() - started:6.1f} s  {page}:{piece.line}")
    assert not wrong, "\n\n".join(wrong)


def test_the_tables_above_name_nothing_that_is_gone() -> None:
    every = [piece for page in pages() for piece in pieces(page)]
    typed = {piece.text for piece in every if isinstance(piece, Mention)} | typed_in_blocks()
    tables: list[Mapping[str, object]] = [NOT_RUN, REFUSED, PRINTS, NO_COMMANDS, FIRST, PREPARED]
    assert not {command for table in tables for command in table} - typed
    assert not (SAVED.keys() | STAND_INS.keys() | GIVEN.keys() | ARGUMENTS.keys()) - set(pages())
    for page, words in STAND_INS.items():
        assert not [word for word in words if not any(re.search(rf"\b{word}\b", p.text) for p in pieces(page))]
    for page, name in SAVED.items():
        assert f"`{name}`" in (ROOT / page).read_text(), page
    for name in TOOLS:
        assert f"$(BIN)/{name}" in MAKEFILE, name
