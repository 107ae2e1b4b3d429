"""Extraction on a Dask cluster, for a user who only types commands."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import pytest
from checkout import ROOT
from distributed import Client, LocalCluster

from avfuse import features
from avfuse.features.errors import UsageError
from avfuse.features.media import write_video
from avfuse.pipeline.cli.main import avfuse
from avfuse.pipeline.cluster.dask_engine import DaskEngine
from avfuse.pipeline.cluster.identity import WorkerIdentity, cores_per_worker, incompatibility
from avfuse.pipeline.cluster.local import local_cluster

AVFUSE = str(Path(sys.executable).with_name("avfuse"))
ENVIRONMENT = {
    **os.environ,
    "AVFUSE_BACKBONES": str(ROOT / "tests" / "helpers" / "fragile_backbone.py"),
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    process = subprocess.Popen([AVFUSE, "cluster", "--port", "0"], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    yield line.split()[-1]
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of a grey each, the third white, which kills the process of the network `fragile`."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(6):
        level = 255 if number == 2 else 20 + 15 * number
        write_video(folder / f"clip{number}.avi", np.full((6, 48, 64, 3), level, np.uint8), fps=25)
    return folder


def extract(clips: Path, cache: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [AVFUSE, "extract", "--dataset", "folder", "--root", str(clips), "--name", "set", "--cache", str(cache)]
    return subprocess.run([*command, *options], env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # seven processes that import PyTorch, one after the other
def test_a_cluster_does_the_same_and_a_deadly_clip_costs_itself(address: str, clips: Path, tmp_path: Path) -> None:
    options = ["--features", "fragile:frames", "--frames", "uniform:2", "--weights", "random"]
    done = extract(clips, tmp_path / "cache", *options, "--engine", "dask", "--scheduler", address)
    assert done.returncode == 0, done.stderr
    assert "5 done" in done.stdout
    assert "clip2: worker: the cluster's workers died" in done.stdout
    table = features.load("set", "fragile:frames", tmp_path / "cache")
    np.testing.assert_allclose(table.data[:, 0, 0], [20, 35, 65, 80, 95], atol=6)
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "dask"], "--engine dask needs --scheduler"),
        (["--scheduler", "tcp://here:1"], "add --engine dask"),
        (["--engine", "dask", "--scheduler", "tcp://here:1", "--worker-resources", "GPU"], "write NAME=N"),
        (["--chunk-range", "0/4"], "write I/N with I from 1 to N"),
        (["--chunk-range", "5/4"], "write I/N with I from 1 to N"),
    ],
)
def test_options_that_do_not_go_together_are_named(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        avfuse.main(["extract", "--dataset", "demo", "--cache", str(tmp_path), *options], standalone_mode=False)


@pytest.mark.slow
def test_workers_are_chosen_by_what_they_declare(address: str) -> None:
    with Client(address) as client:
        client.wait_for_workers(2)  # one that was killed is started again
    with pytest.raises(UsageError, match="has no worker with GPU=1"):
        DaskEngine(address, "cpu", resources={"GPU": 1})
    with DaskEngine(address) as engine:
        assert engine.devices == 2


@pytest.mark.slow
def test_a_worker_that_died_is_started_again_however_long_that_takes() -> None:
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}),  # less than any start takes
        local_cluster(workers=1, host="127.0.0.1", port=0) as address,
        Client(address) as client,
    ):
        (first,) = client.scheduler_info(n_workers=-1)["workers"]
        client.submit(os._exit, 9, pure=False, workers=[first], allow_other_workers=False)
        while (workers := client.run_on_scheduler(lambda dask_scheduler: [*dask_scheduler.workers])) in ([], [first]):
            time.sleep(0.05)
        assert len(workers) == 1


@pytest.mark.slow
def test_workers_with_a_gpu_are_given_the_work_where_there_are_any() -> None:
    with local_cluster(workers=2, host="127.0.0.1", port=0, gpus=1) as address:
        command = [str(Path(AVFUSE).with_name("dask")), "worker", address, "--nthreads", "1", "--no-nanny"]
        plain = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with Client(address) as client:
            client.wait_for_workers(2)
        with DaskEngine(address) as engine, DaskEngine(address, "cpu") as anywhere:
            assert (engine.devices, anywhere.devices) == (1, 2)
        plain.terminate()
        plain.wait()


def test_no_scheduler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avfuse.pipeline.cluster.dask_engine.CONNECT_SECONDS", 1)
    with pytest.raises(UsageError, match="no Dask scheduler answers at"):
        DaskEngine("tcp://127.0.0.1:9")


@pytest.mark.slow
def test_daemonic_workers_are_named(clips: Path, tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        refused = extract(clips, tmp_path, "--engine", "dask", "--scheduler", cluster.scheduler_address)
    assert refused.returncode == 2
    assert "DASK_DISTRIBUTED__WORKER__DAEMON=False" in refused.stderr


def test_parts_of_a_queue_are_the_whole(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["extract", "--dataset", "folder", "--root", str(clips), "--name", "set", "--cache", str(tmp_path)]
    command += ["--features", "image:mfcc", "--workers", "1"]
    for part in ("1/2", "2/2"):
        avfuse.main([*command, "--chunk-range", part], standalone_mode=False)
        assert "3 without audio" in capsys.readouterr().out
    avfuse.main(command, standalone_mode=False)
    assert "nothing to extract" in capsys.readouterr().out


def test_workers_must_be_as_the_client_is() -> None:
    client = WorkerIdentity({"torch": "2", "av": "18"}, True, "here", 8)
    assert incompatibility(client, WorkerIdentity({"torch": "2", "av": "18"}, True, "there", 2)) is None
    assert "has torch 3" in str(incompatibility(client, WorkerIdentity({"torch": "3", "av": "18"}, True, "there", 2)))
    assert "does not see" in str(incompatibility(client, WorkerIdentity({"torch": "2", "av": "18"}, False, "there", 2)))


def test_cores_are_shared_among_the_workers_of_a_machine() -> None:
    def worker(host: str, cores: int) -> WorkerIdentity:
        return WorkerIdentity({}, True, host, cores)

    assert cores_per_worker([worker("a", 8), worker("a", 8), worker("b", 3)]) == 3
    assert cores_per_worker([worker("a", 1), worker("a", 1)]) == 1
