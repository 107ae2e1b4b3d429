"""The GPU in one call: its tests, then its figures, into one table and one file.

Each step is a process with a time limit of its own, the most valuable first, within a budget for all; one that fails or
runs out of time does not stop the others. build/bench/gpu.json is replaced after every step, and holds what there was
when a run is killed.

Environment: DEVICE (cuda:0; cpu for a reduced run that checks the check), BUDGET in seconds (460, on a CPU
1500), ONLY (names of steps).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pairs import OUTPUT, replace_json

ROOT = Path(__file__).resolve().parents[2]
BUDGET = 460.0
BUDGET_ON_CPU = 1500.0
"""Without a GPU to give back, a run may take as long as a busy machine makes it."""
GRACE_SECONDS = 5.0
"""Between asking a process to end and ending it."""

DESCRIBE = """
import json, os, platform, subprocess, sys
from importlib import metadata
import torch
device, found = sys.argv[1], {"device": sys.argv[1], "python": platform.python_version(), "cpus": os.cpu_count()}
for name in ("torch", "torchvision", "numpy", "timm", "transformers", "av", "librosa"):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found[name] = None
if device != "cpu":
    of = torch.cuda.get_device_properties(device)
    found |= {"name": of.name, "memory_gib": round(of.total_memory / 2**30, 1), "capability": f"{of.major}.{of.minor}"}
    found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.split("\\n")[0]
    except (OSError, subprocess.TimeoutExpired):
        found["driver"] = None
    torch.ones(2, device=device).sum().item()
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Step:
    """A process: what it is called, its command line after the interpreter, how many seconds it may take, and what is
    set in its environment. Tests write outcomes and benchmarks figures into the step's folder."""

    name: str
    command: Sequence[str]
    seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)


def tests(name: str, seconds: float, device: str) -> Step:
    which = ["-m", "gpu and not slow" if device == "cpu" else "gpu"]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *which]
    command = ["-m", "pytest", *options, f"tests/gpu/test_{name}.py"]
    return Step(f"test-{name}", command, seconds, {"AVFUSE_TEST_DEVICE": device})


def bench(name: str, only: str, seconds: float, device: str, **more: object) -> Step:
    settings = {"ONLY": only, "DEVICE": device, **{key: str(value) for key, value in more.items()}}
    return Step(f"bench-{name}-{only}", [f"tests/benchmarks/bench_{name}.py"], seconds, settings)


def steps(device: str) -> list[Step]:
    if device == "cpu":
        every = [tests(name, 400, device) for name in ("extraction", "training", "backbones")]
        few = {"CLIPS": 2, "PAIRS": 1, "SECONDS": 0, "WORKERS": 1}
        table = {"CLIPS": 128, "FRAMES": 2, "SEEDS": 1, "TABLE_EPOCHS": 4}
        return [*every, bench("extract", "lite", 600, device, **few), bench("fuse", "gpu", 600, device, **table)]
    pairs = {"PAIRS": 5, "SECONDS": 0}
    return [
        tests("extraction", 70, device),
        tests("training", 100, device),
        tests("backbones", 130, device),
        bench("extract", "lite", 60, device, **pairs),
        bench("fuse", "gpu", 90, device, TABLE_EPOCHS=20),
        bench("extract", "vit", 45, device, **pairs),
        bench("extract", "timesformer", 45, device, **pairs),
        bench("extract", "ast", 45, device, **pairs),
        bench("extract", "five", 90, device),
    ]


def main() -> int:
    device = os.environ.get("DEVICE") or "cuda:0"
    device = "cuda:0" if device == "cuda" else device
    only = (os.environ.get("ONLY") or "").split(",")
    chosen = [step for step in steps(device) if only == [""] or step.name in only]
    described = subprocess.run([sys.executable, "-c", DESCRIBE, device], capture_output=True, text=True, check=False)
    if described.returncode != 0:
        print(f"device '{device}' cannot be used here: DEVICE=cpu makes a reduced run\n{described.stderr[-2000:]}")
        return 2
    report = Report(OUTPUT / "gpu.json", json.loads(described.stdout))
    budget = float(os.environ.get("BUDGET") or (BUDGET_ON_CPU if device == "cpu" else BUDGET))
    return run_steps(chosen, report, budget, OUTPUT / "gpu")


@dataclass
class Report:
    """What is in gpu.json, replaced as a whole after each step."""

    path: Path
    machine: Mapping[str, Any]
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    steps: list[dict[str, Any]] = field(default_factory=list)
    tests: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_json(self.path, vars(self) | {"path": self.path.name})

    @property
    def is_good(self) -> bool:
        return all(step["outcome"] == "done" for step in self.steps)

    def __str__(self) -> str:
        lines = [f"{self.date}  " + "  ".join(f"{name} {value}" for name, value in self.machine.items()), ""]
        for step in self.steps:
            lines.append(f"{step['step']:<28} {step['seconds']:>7.1f} s  {step['outcome']}")
        counts = {each: sum(test["outcome"] == each for test in self.tests) for each in ("passed", "failed", "skipped")}
        lines += ["", "tests: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items())]
        for test in self.tests:
            if test["outcome"] == "failed":
                lines += [f"FAILED {test['test']}", *(f"    {line}" for line in _last(test.get("reason", ""), 6))]
        lines.append("")
        for each in self.figures:
            spread = f"({each['low']:.3g} to {each['high']:.3g}, n = {each['n']})"
            lines.append(f"{each['name']:<44} {each['value']:>10.4g} {each['unit']:<8} {spread}")
        return "\n".join([*lines, "", str(self.path)])


def run_steps(every: Sequence[Step], report: Report, budget: float, folder: Path) -> int:
    """Run steps one after the other and print the table. Returns 0 where all went well, else 1. folder: for what
    steps print and write, a folder each."""
    end = time.monotonic() + budget
    report.write()
    for step in every:
        left = end - time.monotonic()
        begun = time.monotonic()
        outcome = run_step(step, min(step.seconds, left), folder / step.name) if left > 1 else "left out: no time left"
        seconds = time.monotonic() - begun
        report.steps.append({"step": step.name, "outcome": outcome, "seconds": round(seconds, 1)})
        report.tests += _lines(folder / step.name / "outcomes.jsonl") if left > 1 else []
        report.figures += _figures(folder / step.name) if left > 1 else []
        report.write()
        print(f"{step.name}: {outcome} ({seconds:.1f} s)", flush=True)
        if outcome != "done":
            print("\n".join(f"    {line}" for line in _last(_text(folder / step.name / "log"), 25)), flush=True)
    print(f"\n{report}", flush=True)
    return 0 if report.is_good else 1


def run_step(step: Step, seconds: float, folder: Path) -> str:
    """Returns what came of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for left_from_before in folder.glob("*.json*"):
        left_from_before.unlink()
    paths = [str(ROOT), str(ROOT / "tests" / "helpers"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("DEVICE", "ONLY")},
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "AVFUSE_TEST_OUTCOMES": str(folder / "outcomes.jsonl"),
        "BENCH_OUTPUT": str(folder),
        **step.environment,
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its decode processes end with it
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return f"stopped after {seconds:.0f} s"
        except BaseException:
            _end(process)
            raise
    return "done" if code == 0 else f"failed (exit code {code})"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _lines(path: Path) -> list[dict[str, Any]]:
    """One record a line; a last one that was cut short is left out."""
    found = []
    for line in _text(path).splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def _figures(folder: Path) -> list[dict[str, Any]]:
    return [figure for path in sorted(folder.glob("*.json")) for figure in json.loads(path.read_text())]


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _last(text: str, lines: int) -> list[str]:
    return text.strip().splitlines()[-lines:]


if __name__ == "__main__":
    sys.exit(main())
