"""`import avfuse` gives the public names, and the packages' old names lead to the same modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

import avfuse
from avfuse.moved_modules import MOVED


def run(code: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONSAFEPATH", None)  # set by a command that another test ran in this process
    return subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", avfuse.__all__)
def test_the_public_names_are_those_of_the_packages(name: str) -> None:
    assert getattr(avfuse, name).__module__.startswith("avfuse.")
    assert name in dir(avfuse)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = avfuse.lod


def test_importing_avfuse_imports_no_heavy_library(tmp_path: Path) -> None:
    heavy = "{'numpy', 'torch', 'pandas', 'h5py', 'av', 'librosa'}"
    assert run(f"import sys, avfuse; sys.exit(bool({heavy} & set(sys.modules)))", tmp_path).returncode == 0


def test_the_packages_are_attributes_without_being_imported_by_name(tmp_path: Path) -> None:
    code = "import avfuse; print(avfuse.features.load is avfuse.load, avfuse.__version__)"
    assert run(code, tmp_path).stdout.startswith("True 0.")


@pytest.mark.slow
def test_old_names_are_the_same_modules_and_say_so(tmp_path: Path) -> None:
    code = (
        "from features.cache import FeatureStore as old\n"
        "import features.media.clip, stages.fuse.heads, manifests, pipeline\n"
        "import avfuse.features.media.clip\n"
        "from avfuse.features.cache import FeatureStore as new\n"
        "assert old is new and features is avfuse.features and features.media.clip is avfuse.features.media.clip\n"
        "assert stages.fuse.heads.__spec__.name == stages.fuse.heads.__name__ == 'avfuse.stages.fuse.heads'\n"
    )
    result = run(code, tmp_path)
    assert result.returncode == 0, result.stderr
    for name in ("features", "stages", "manifests", "pipeline"):
        assert f"'{name}' is 'avfuse.{name}' now" in result.stderr


def test_every_old_module_path_leads_to_a_module_that_is_there() -> None:
    def exists(module: str) -> bool:
        path = ROOT / module.removeprefix("avfuse.").replace(".", "/")
        return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()

    assert not [new for new in MOVED.values() if not exists(new)]
    assert not [old for old in MOVED if exists(old)]


def test_an_old_module_path_is_the_new_module_and_says_so(tmp_path: Path) -> None:
    code = (
        "import avfuse.stages.fuse.heads.inputs as old, avfuse.stages.fuse.heads.modality_input as new\n"
        "assert old is new and new.__spec__.name == new.__name__\n"
    )
    result = run(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "is 'avfuse.stages.fuse.heads.modality_input' now" in result.stderr


def test_a_folder_called_features_in_the_working_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "__init__.py").write_text("mine = True")
    code = "import features, avfuse; print(features.mine, avfuse.load.__name__)"
    assert run(code, tmp_path).stdout.split() == ["True", "load"]


HELP = """
import click, sys
from avfuse.pipeline.cli.main import avfuse

HEAVY = {"distributed", "itables", "librosa", "matplotlib", "plotly", "sklearn", "statsmodels", "torch", "transformers"}

def imported():
    return {name.partition(".")[0] for name in sys.modules}

def show_help(command, *names):
    avfuse.main([*names, "--help"], standalone_mode=False)
    if isinstance(command, click.Group):
        for name, subcommand in command.commands.items():
            show_help(subcommand, *names, name)

manifest = avfuse.commands.pop("manifest")
show_help(avfuse)
print("IMPORTED", *imported() & (HEAVY | {"numpy", "pandas"}))
avfuse.add_command(manifest)
avfuse.main(["manifest", "--help"], standalone_mode=False)
print("IMPORTED", *imported() & HEAVY)
"""


def test_help_imports_no_heavy_library(tmp_path: Path) -> None:
    """`avfuse manifest --help` lists data sets, a user's own among them, for which it imports the builders of all."""
    result = run(HELP, tmp_path)
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if "IMPORTED" in line] == ["IMPORTED", "IMPORTED"]


def test_the_command_line_runs_as_a_module(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONSAFEPATH", None)  # set by a command that another test ran in this process
    command = [sys.executable, "-m", "avfuse", "--help"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0
    assert "Usage: " in shown.stdout
