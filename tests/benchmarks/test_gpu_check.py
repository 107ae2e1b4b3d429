"""A step that fails or hangs does not stop the others, and what there is is on disk after each."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def _load(name: str) -> ModuleType:
    """The benchmarks are scripts beside this file, in no package."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sys.path.insert(0, str(HERE))
gpu_check = _load("gpu_check")
sys.path.remove(str(HERE))

FIGURE = {"name": "speed", "value": 2.0, "unit": "x", "low": 1.5, "high": 2.5, "n": 7}
MEASURES = f"""
    import json, os, pathlib
    folder = pathlib.Path(os.environ["BENCH_OUTPUT"])
    (folder / "sample.json").write_text(json.dumps([{FIGURE!r}]))
"""
TESTS = """
    import json, os
    with open(os.environ["AVFUSE_TEST_OUTCOMES"], "a") as file:
        for outcome in ("passed", "failed"):
            file.write(json.dumps({"test": "test_" + outcome, "outcome": outcome, "reason": "off by 3"}) + chr(10))
        file.write('{"test": "cut sh')
    raise SystemExit(1)
"""
HANGS = """
    import subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("child", child.pid, flush=True)
    time.sleep(600)
"""


def step(name: str, code: str, seconds: float = 60.0) -> object:
    return gpu_check.Step(name, ["-c", textwrap.dedent(code)], seconds)


def run(folder: Path, *steps: object, budget: float = 120.0) -> tuple[int, dict[str, list[dict[str, object]]]]:
    report = gpu_check.Report(folder / "gpu.json", {"device": "none"})
    code = gpu_check.run_steps(steps, report, budget, folder / "steps")
    return code, json.loads((folder / "gpu.json").read_text())


def test_outcomes_and_figures_are_gathered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, kept = run(tmp_path, step("tests", TESTS), step("bench", MEASURES))
    assert code == 1
    assert [each["outcome"] for each in kept["steps"]] == ["failed (exit code 1)", "done"]
    assert [each["outcome"] for each in kept["tests"]] == ["passed", "failed"]
    assert kept["figures"] == [FIGURE]
    shown = capsys.readouterr().out
    assert "tests: 1 passed, 1 failed, 0 skipped" in shown
    assert "off by 3" in shown
    assert "speed" in shown


def test_all_done_is_success(tmp_path: Path) -> None:
    assert run(tmp_path, step("bench", MEASURES))[0] == 0


@pytest.mark.slow
def test_the_tests_themselves_write_their_outcomes(tmp_path: Path) -> None:
    whole = gpu_check.tests("backbones", 300.0, "cpu")
    quick = replace(whole, command=[*whole.command, "-k", "pictures_are_normalised"])
    code, kept = run(tmp_path, quick, budget=300.0)
    assert code == 0
    assert [each["outcome"] for each in kept["tests"]] == ["passed"]


@pytest.mark.slow
def test_a_step_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    code, kept = run(tmp_path, step("hangs", HANGS, seconds=10.0), step("bench", MEASURES))
    assert code == 1
    assert [each["outcome"] for each in kept["steps"]] == ["stopped after 10 s", "done"]
    child = int((tmp_path / "steps" / "hangs" / "log").read_text().split()[1])
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the child goes on"
        time.sleep(0.1)


def test_what_the_budget_does_not_cover_is_left_out(tmp_path: Path) -> None:
    _, kept = run(tmp_path, step("bench", MEASURES), budget=0.0)
    assert kept["steps"][0]["outcome"] == "left out: no time left"
    assert kept["figures"] == []


def test_a_run_that_is_killed_keeps_what_it_had(tmp_path: Path) -> None:
    code = f"""
        import sys
        sys.path.insert(0, {str(HERE)!r})
        import gpu_check, pathlib
        folder = pathlib.Path({str(tmp_path)!r})
        steps = [gpu_check.Step("bench", ["-c", {textwrap.dedent(MEASURES)!r}], 60.0)]
        steps += [gpu_check.Step("hangs", ["-c", "import time; time.sleep(60)"], 60.0)]
        gpu_check.run_steps(steps, gpu_check.Report(folder / "gpu.json", {{}}), 120.0, folder / "steps")
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], start_new_session=True)
    while not ((tmp_path / "gpu.json").exists() and json.loads((tmp_path / "gpu.json").read_text())["figures"]):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)  # ends the step that it waits for as well
    assert process.wait() != 0
    assert json.loads((tmp_path / "gpu.json").read_text())["figures"] == [FIGURE]


def test_every_step_is_there_and_the_limits_are_near_eight_minutes() -> None:
    for device in ("cpu", "cuda:0"):
        for each in gpu_check.steps(device):
            script = next(part for part in each.command if part.endswith(".py"))
            assert (gpu_check.ROOT / script).is_file()
    assert gpu_check.BUDGET <= 8 * 60
    assert os.path.isabs(gpu_check.OUTPUT)
