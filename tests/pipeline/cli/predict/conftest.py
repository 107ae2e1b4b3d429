"""Two runs over extracted clips, and predictions by one of them."""

from pathlib import Path

import pytest
from predicted_clips import HOP, VIEWS, WINDOW, clips_of, write_clips

from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec
from avfuse.manifests import Manifest, save_manifest
from avfuse.pipeline.predict import predict
from avfuse.pipeline.prediction import Prediction
from avfuse.pipeline.provenance import describe_run
from avfuse.stages.extract.run import extract
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.training.overrides import TrainingOverrides


@pytest.fixture(scope="package")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over extracted clips, runs/set/all and, of views and windows, runs/set/views."""
    folder = tmp_path_factory.mktemp("work")
    manifest = Manifest("set", "set", folder / "clips", write_clips(folder / "clips"))
    cache = folder / "cache"
    save_manifest(cache, manifest)
    every = [
        *resolve(["lite:frames", "lite:mfcc", "lite:chromagram"], sampling="uniform:2"),
        *resolve(VIEWS, sampling="uniform:2"),
    ]
    specs: list[FeatureSpec] = list({spec.key: spec for spec in every}.values())
    extract(manifest.clips(), specs, cache, "set", device="cpu", workers=1, progress=False)
    for name, inputs, heads in (
        ("all", {"video": ["lite:frames"], "audio": ["lite:mfcc", "lite:chromagram"]}, ["audio", "video", "mlp"]),
        ("views", {"video": VIEWS[:2], "audio": VIEWS[2:]}, ["mlp"]),
    ):
        data = load_data(manifest, cache, inputs)
        training = TrainingOverrides(epochs=3, hidden="16")
        described = describe_run(manifest, "avfuse fuse", cache)
        run_experiment(data, folder / "runs" / "set" / name, heads, 2, training, described, progress=False)
    return folder


@pytest.fixture(scope="package")
def run(workplace: Path) -> Path:
    return workplace / "runs" / "set" / "all"


@pytest.fixture(scope="package")
def predicted(workplace: Path, run: Path) -> Prediction:
    """Of the test clips."""
    return predict([clip.path for clip in clips_of(workplace, "test")], run, "mlp", device="cpu", workers=1)


@pytest.fixture(scope="package")
def windows(workplace: Path, run: Path) -> Prediction:
    """Of the long file."""
    long = workplace / "clips" / "long.avi"
    return predict([long], run, "mlp", window=WINDOW, hop=HOP, device="cpu", workers=1)
