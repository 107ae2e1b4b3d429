"""The comparing helper measures what it says, for as long as it says, and writes it down."""

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest


def _load(path: Path) -> ModuleType:
    """The benchmarks are scripts beside this file, in no package."""
    spec = importlib.util.spec_from_file_location("benchmark_pairs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


pairs = _load(Path(__file__).with_name("pairs.py"))


class Laboratory:
    """A clock that only work moves on, and a record of who worked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order = ""

    def clock(self) -> float:
        return self.now

    def worker(self, name: str, *seconds: float) -> "Worker":
        """Takes `seconds` in turn, the last one for good; the first is the warm-up's."""
        return Worker(self, name, list(seconds))


class Worker:
    def __init__(self, laboratory: Laboratory, name: str, seconds: list[float]) -> None:
        self.laboratory, self.name, self.seconds = laboratory, name, seconds

    def __call__(self) -> None:
        self.laboratory.order += self.name
        self.laboratory.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


@pytest.fixture
def laboratory() -> Laboratory:
    return Laboratory()


@pytest.mark.parametrize(("speedup", "ratio"), [(False, 3.0), (True, 1 / 3)])
def test_the_ratio_is_ours_over_theirs_or_for_a_speedup_the_inverse(
    laboratory: Laboratory, speedup: bool, ratio: float
) -> None:
    ours, theirs = laboratory.worker("A", 3.0), laboratory.worker("B", 1.0)

    figure = pairs.compare("f", ours, theirs, speedup=speedup, clock=laboratory.clock)

    assert (figure.value, figure.low, figure.high) == pytest.approx((ratio, ratio, ratio))


def test_each_is_warmed_up_then_they_alternate_and_swap_who_goes_first(laboratory: Laboratory) -> None:
    ours, theirs = laboratory.worker("A", 1.0), laboratory.worker("B", 1.0)

    pairs.compare("f", ours, theirs, min_pairs=4, min_seconds=0, clock=laboratory.clock)

    assert laboratory.order == "AB" + "AB" + "BA" + "AB" + "BA"


def test_the_warm_up_counts_for_nothing(laboratory: Laboratory) -> None:
    ours, theirs = laboratory.worker("A", 1000.0, 2.0), laboratory.worker("B", 1000.0, 1.0)

    figure = pairs.compare("f", ours, theirs, min_pairs=1, min_seconds=30, clock=laboratory.clock)

    assert (figure.value, figure.n) == (pytest.approx(2.0), 10)


def test_median_and_quartiles_are_of_the_ratios_within_pairs(laboratory: Laboratory) -> None:
    ours, theirs = laboratory.worker("A", 0.0, 5.0, 1.0, 4.0, 2.0, 3.0), laboratory.worker("B", 1.0)

    figure = pairs.compare("f", ours, theirs, min_pairs=5, min_seconds=0, clock=laboratory.clock)

    assert (figure.low, figure.value, figure.high) == pytest.approx((2.0, 3.0, 4.0))


def test_a_machine_that_slows_down_meanwhile_does_not_move_the_ratio(laboratory: Laboratory) -> None:
    ours, theirs = laboratory.worker("A", 1, 1, 2, 4, 8, 16), laboratory.worker("B", 2, 2, 4, 8, 16, 32)

    figure = pairs.compare("f", ours, theirs, min_pairs=5, min_seconds=0, clock=laboratory.clock)

    assert (figure.low, figure.value, figure.high) == pytest.approx((0.5, 0.5, 0.5))


def test_slow_work_is_still_paired_seven_times(laboratory: Laboratory) -> None:
    ours, theirs = laboratory.worker("A", 60.0), laboratory.worker("B", 60.0)

    assert pairs.compare("f", ours, theirs, clock=laboratory.clock).n == 7


def test_fast_work_is_still_measured_for_twenty_seconds(laboratory: Laboratory) -> None:
    ours, theirs = laboratory.worker("A", 0.5), laboratory.worker("B", 0.5)

    assert pairs.compare("f", ours, theirs, clock=laboratory.clock).n == 20


def test_real_time_is_the_default_clock() -> None:
    figure = pairs.compare("f", lambda: time.sleep(0.02), lambda: time.sleep(0.002), min_pairs=3, min_seconds=0.05)

    assert figure.value > 1
    assert figure.n >= 3


def test_no_pairs_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="min_pairs=0"):
        pairs.compare("f", lambda: None, lambda: None, min_pairs=0)


FIGURES = [
    pairs.Figure(name="decode_time", value=1.23456, unit="x", low=1.1, high=1.4, n=9),
    pairs.Figure(name="load_speedup", value=12.0, unit="x", low=11.0, high=13.0, n=7),
]


def test_figures_are_printed_one_a_line_as_name_value_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs.write("sample", iter(FIGURES), tmp_path)

    assert capsys.readouterr().out == "decode_time 1.235 x\nload_speedup 12.000 x\n"


def test_figures_are_written_as_a_list_of_records(tmp_path: Path) -> None:
    path = pairs.write("sample", FIGURES, tmp_path / "build" / "bench")

    assert path == tmp_path / "build" / "bench" / "sample.json"
    first, second = json.loads(path.read_text())
    assert first == {"name": "decode_time", "value": 1.23456, "unit": "x", "low": 1.1, "high": 1.4, "n": 9}
    assert second["name"] == "load_speedup"


def test_figures_go_to_the_repositorys_build_folder_by_default() -> None:
    assert Path(__file__).resolve().parents[2] / "build" / "bench" == pairs.OUTPUT
