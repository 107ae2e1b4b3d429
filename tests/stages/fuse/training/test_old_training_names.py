"""The public names of training before the rooms: they work for one release, with a warning that says the new one."""

import importlib

import pytest


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("training", "Training", "training.overrides.TrainingOverrides"),
        ("training.overrides", "Training", "training.overrides.TrainingOverrides"),
        ("training.job", "Plan", "training.job.TrainingJob"),
        ("training.trainer", "Trained", "training.trainer.TrainedHead"),
        ("training.trainer", "train_company", "training.trainer.train_jobs"),
    ],
)
def test_an_old_name_is_the_new_one_with_a_warning(module: str, old: str, new: str) -> None:
    path, _, name = f"avfuse.stages.fuse.{new}".rpartition(".")
    with pytest.warns(FutureWarning, match=f"{old}' is '{path}.{name}' now"):
        found = getattr(importlib.import_module(f"avfuse.stages.fuse.{module}"), old)
    assert found is getattr(importlib.import_module(path), name)


def test_settings_are_added_by_the_old_name() -> None:
    from avfuse.stages.fuse.training.overrides import TrainingOverrides

    with pytest.warns(FutureWarning, match=r"TrainingOverrides\.updated"):
        assert TrainingOverrides(lr=1).plus({"epochs": 2}).settings == {"lr": 1, "epochs": 2}
