"""Heads restored from a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fusion_problems import halves

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.analysis.robustness import robustness
from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.data.modality import FeatureLayout
from avfuse.stages.fuse.evaluation.metrics import all_correct
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.runs.restore import job_from_result, load_head
from avfuse.stages.fuse.runs.run_folder import Run, load_run
from avfuse.stages.fuse.training.head_trainer import predict
from avfuse.stages.fuse.training.inputs import HeadInputs
from avfuse.stages.fuse.training.overrides import TrainingOverrides


@pytest.fixture(scope="module")
def data() -> FusionData:
    """One of the features has a slash in its name."""
    made = halves()
    audio = made.modalities["audio"]
    *others, last = audio.specs
    specs = [*others, last.model_copy(update={"name": "hf:owner/net:waveplot"})]
    renamed = replace(audio, specs=tuple(specs), layout=FeatureLayout.of("audio", specs))
    return replace(made, modalities={**made.modalities, "audio": renamed})


@pytest.fixture(scope="module")
def run(data: FusionData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "run"
    sweep = {"audio": ["lite:mfcc", "lite:mfcc+hf:owner/net:waveplot"], "hidden": ["16"]}
    return run_experiment(
        data, folder, ["average", "mlp"], 2, TrainingOverrides(epochs=3), {}, sweep=sweep, progress=False
    )


class TestRestoredHeads:
    def test_reloaded_heads_say_what_was_saved(self, data: FusionData, run: Run) -> None:
        assert len(run.heads) == 4
        before = torch.random.get_rng_state()
        for results in load_run(run.folder).heads.values():
            for result in results:
                job, head = job_from_result(result, data), load_head(result, data)
                fitted = torch.cat([data.train, data.validation])
                inputs = HeadInputs.of(job.head, job.data, fitted, job.options, job.recipe)
                torch.testing.assert_close(
                    predict(head, inputs, data.test).numpy(), result.logits, rtol=1e-5, atol=1e-5
                )
                assert job.seed == result.seed
                assert job.data.shapes["audio"].length == len(result.described["swept"]["audio"].split("+"))
            job, heads = job_from_result(results[0], data), [load_head(result, data) for result in results]
            right = np.stack([all_correct(run.targets, result.logits, result.truth) for result in results], axis=1)
            np.testing.assert_array_equal(robustness(job, heads).clips[0], right)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_what_does_not_belong_to_it_is_refused(self, data: FusionData, run: Run, tmp_path: Path) -> None:
        result = run.heads["mlp,audio=lite:mfcc,hidden=16"][0]
        with pytest.raises(UsageError, match="seed-0 was trained on other clips or features"):
            load_head(result, data.only({"audio": ["lite:mfcc"]}))
        elsewhere = replace(result, file=tmp_path / "seed-0.npz")
        with pytest.raises(UsageError, match=r"seed-0.safetensors is not there"):
            load_head(elsewhere, data)
        (tmp_path / "seed-0.safetensors").write_bytes(b"no weights")
        with pytest.raises(UsageError, match="is damaged"):
            load_head(elsewhere, data)
        other = run.heads["mlp,audio=lite:mfcc+hf:owner_net:waveplot,hidden=16"][0]
        with pytest.raises(UsageError, match="another version of head 'mlp'"):
            load_head(replace(result, file=other.file), data)
