"""Heads say of clips by themselves what they said of them as a test split."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_sets import INPUTS, kitchen, sounds

from avfuse.features.clips import Clip
from avfuse.features.errors import UsageError
from avfuse.manifests import Manifest
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.predict import FeatureSource, best_row, load_predictions, predict_clips, probabilities
from avfuse.stages.fuse.runs.restore import saved_layouts
from avfuse.stages.fuse.runs.run_folder import Run, load_run
from avfuse.stages.fuse.training.overrides import TrainingOverrides

QUICK = TrainingOverrides(epochs=3, hidden="16")
HEADS = ["audio", "video", "average", "mlp", "crossattn"]


def train(
    folder: Path, manifest: Manifest, heads: list[str], training: TrainingOverrides = QUICK, **options: object
) -> Run:
    data = load_data(manifest, folder, INPUTS)
    described = {"dataset": manifest.name, "collection": manifest.collection}
    return run_experiment(data, folder / "run", heads, 2, training, described, progress=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def kitchen_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, Run]:
    folder = tmp_path_factory.mktemp("kitchen")
    manifest = kitchen(folder, clips=120)
    return folder, manifest, train(folder, manifest, HEADS)


@pytest.fixture(scope="module")
def sounds_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, Run]:
    folder = tmp_path_factory.mktemp("sounds")
    manifest = sounds(folder, clips=80)
    return folder, manifest, train(folder, manifest, ["mlp"])


def clips_of(manifest: Manifest, ids: list[str]) -> list[Clip]:
    by_id = {clip.clip_id: clip for clip in manifest.clips()}
    return [by_id[each] for each in ids]


def check_same(folder: Path, manifest: Manifest, run: Run, row: str) -> None:
    expected = load_predictions(run.folder, row, "test")
    found = predict_clips(run, row, clips_of(manifest, expected.clip_ids), FeatureSource(folder, manifest.collection))
    assert len(found.probabilities) == len(run.targets)
    for target, values, scores in zip(run.targets, found.probabilities, expected.scores, strict=True):
        np.testing.assert_allclose(values, probabilities(target, scores), rtol=0, atol=1e-6)
    alone = predict_clips(
        run, row, clips_of(manifest, expected.clip_ids[5:6]), FeatureSource(folder, manifest.collection)
    )
    for one, values in zip(alone.probabilities, found.probabilities, strict=True):
        np.testing.assert_allclose(one[0], values[5], rtol=0, atol=1e-6)


@pytest.mark.parametrize("row", HEADS)
def test_of_test_clips_they_say_the_same_of_every_target(kitchen_run: tuple[Path, Manifest, Run], row: str) -> None:
    check_same(*kitchen_run, row)


def test_of_test_clips_they_say_the_same_with_a_sigmoid(sounds_run: tuple[Path, Manifest, Run]) -> None:
    folder, manifest, run = sounds_run
    assert run.targets[0].sigmoid
    check_same(folder, manifest, run, "mlp")


def test_rows_of_swept_features_see_these_alone(tmp_path: Path) -> None:
    manifest = kitchen(tmp_path, clips=80)
    run = train(tmp_path, manifest, ["mlp"], sweep={"audio": ["imported:sound"], "lr": ["1e-3", "1e-2"]})
    row = "mlp,audio=imported:sound,lr=1e-2"
    assert [spec.name for spec in saved_layouts(run, run.heads[row][0])["audio"].specs] == ["imported:sound"]
    check_same(tmp_path, manifest, run, row)


def test_heads_trained_without_a_modality_do_not_use_it(tmp_path: Path) -> None:
    manifest = kitchen(tmp_path, clips=80)
    run = train(tmp_path, manifest, ["mlp"], TrainingOverrides(epochs=2, hidden="16", without="audio"))
    check_same(tmp_path, manifest, run, "mlp")
    found = predict_clips(run, "mlp", manifest.clips()[:3], FeatureSource(tmp_path, "kitchen"))
    assert list(found.present) == ["video"]


def test_what_a_clip_lacks_is_said_and_the_others_are_predicted(kitchen_run: tuple[Path, Manifest, Run]) -> None:
    folder, manifest, run = kitchen_run
    known = manifest.clips()[0]
    clips = [known, Clip("nobody", Path("nowhere.mp4"))]
    found = predict_clips(run, "mlp", clips, FeatureSource(folder, "kitchen"))
    assert found.missing == [{}, {"video": "not extracted", "audio": "not extracted"}]
    assert [found.present[name].tolist() for name in ("video", "audio")] == [[True, False]] * 2
    for values in found.probabilities:
        assert values[0].sum() == pytest.approx(1)
        assert np.isnan(values[1]).all()
    nothing = predict_clips(run, "mlp", clips[1:], FeatureSource(folder, "kitchen"))
    assert all(np.isnan(values).all() for values in nothing.probabilities)


def test_many_clips_are_predicted_in_parts(
    kitchen_run: tuple[Path, Manifest, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest, run = kitchen_run
    clips = manifest.clips()[:20]
    whole = predict_clips(run, "crossattn", clips, FeatureSource(folder, "kitchen"))
    monkeypatch.setattr("avfuse.stages.fuse.runs.predict._CLIPS", 7)
    parts = predict_clips(run, "crossattn", clips, FeatureSource(folder, "kitchen"))
    for one, other in zip(whole.probabilities, parts.probabilities, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert parts.present["audio"].tolist() == whole.present["audio"].tolist()


def test_the_best_row_is_picked_by_validation_and_never_by_test(kitchen_run: tuple[Path, Manifest, Run]) -> None:
    run = kitchen_run[2]

    def scored(validation: dict[str, list[float]], test: dict[str, float]) -> Run:
        heads = {
            row: [
                replace(
                    one, described={"cost": {"validation_action_top1": value}, "metrics": {"action_top1": test[row]}}
                )
                for one, value in zip(run.heads[row], values, strict=True)
            ]
            for row, values in validation.items()
        }
        return replace(run, heads=heads)

    validation = {"audio": [0.2, 0.4], "mlp": [0.5, 0.5], "video": [0.9, 0.05]}
    assert best_row(scored(validation, {"audio": 0.9, "mlp": 0.1, "video": 0.8})) == ("mlp", 0.5)
    assert best_row(run)[0] in run.heads


def test_a_description_that_its_key_does_not_prove_is_refused(kitchen_run: tuple[Path, Manifest, Run]) -> None:
    for change in ({"dtype": "float16"}, {"colour": "red"}):
        run = load_run(kitchen_run[2].folder)
        run.described["features"]["video"][0] |= change
        with pytest.raises(UsageError, match="does not describe feature 'imported:picture' as its key") as caught:
            saved_layouts(run, run.heads["mlp"][0])
        assert "\n" not in str(caught.value)
