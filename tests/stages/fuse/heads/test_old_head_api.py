"""A head file written against the old head API works for one release, and says what to write instead."""

import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads import Head, ModalityShape, base, build_head, get_head

HEAD = """
import torch
from torch import nn

from avfuse.stages.fuse.draws import Dropout
from avfuse.stages.fuse.heads import Head, register_head
from avfuse.stages.fuse.heads.inputs import ModalityInput
from avfuse.stages.fuse.recipe import Recipe, Settings


class OldOptions(Settings):
    deaf: bool = False


@register_head("old_gate", modalities=("video", "audio"), summary="written for the last release")
class OldGate(Head):
    Options = OldOptions
    recipe = Recipe(epochs=2)
    takes_raw = True
    evaluation_batch = 8
    fits_at_once = False

    def __init__(self, shapes, targets, options):
        super().__init__(shapes, targets, forms=dict.fromkeys(shapes, "pooled"), as_is=("audio",))
        width = sum(self.input(name).width for name in shapes)
        self.classifier = nn.Sequential(Dropout(0.1), nn.Linear(width, targets.width))

    @classmethod
    def sees(cls, options):
        return ("video",) if options.deaf else super().sees(options)

    @classmethod
    def parents_recipe(cls, options):
        return {"lr": 0.5}

    def doors(self):
        doors = super().doors()
        assert all(isinstance(door, ModalityInput) for door in doors.values())
        return doors

    def start_from(self, parents):
        self.parents_given = list(parents)

    def fit_at_once(self, prepared, present, truth, seed):
        self.fitted = seed

    def forward(self, prepared, present):
        return {"logits": self.classifier(torch.cat(list(self.read(prepared, present).values()), dim=1))}
"""
SHAPES = {"video": ModalityShape(3, 4), "audio": ModalityShape(2, 5)}
TARGETS = Targets((LearnedTarget("label", ("clap", "jump"), False),))
NEW = [
    "used_modalities",
    "init_from_parents",
    "modality_inputs",
    "fit_without_epochs",
    "parent_recipe_overrides",
    "accepts_filter_bank",
    "evaluation_batch_size",
    "fits_without_epochs",
]


@pytest.fixture
def old_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Head]]:
    monkeypatch.setattr(base, "_HEADS", dict(base._HEADS))
    (tmp_path / "old_gate.py").write_text(HEAD)
    monkeypatch.setenv("AVFUSE_HEADS", str(tmp_path / "old_gate.py"))
    base._register_plugins.cache_clear()
    with pytest.warns(FutureWarning) as warned:
        head = get_head("old_gate")
    assert_names(warned, NEW)
    yield head
    base._register_plugins.cache_clear()


def assert_names(warned: pytest.WarningsRecorder, new_names: list[str]) -> None:
    messages = "\n".join(str(warning.message) for warning in warned)
    assert [name for name in new_names if f"is {name} now" not in messages] == []


def test_methods_and_attributes_of_old_names_are_used(old_head: type[Head]) -> None:
    assert old_head.accepts_filter_bank
    assert old_head.evaluation_batch_size == 8
    assert not old_head.fits_without_epochs
    assert old_head.used_modalities(old_head.Options.model_validate({"deaf": True})) == ("video",)
    with pytest.warns(FutureWarning, match="sees is used_modalities now"):
        assert old_head.used_modalities(old_head.Options()) == ("video", "audio")
    assert old_head.parent_recipe_overrides(old_head.Options()) == {"lr": 0.5}


@pytest.mark.usefixtures("old_head")
def test_old_arguments_and_calls_reach_the_new_ones() -> None:
    tokens = {name: torch.randn(2, *shape[:2]) for name, shape in SHAPES.items()}
    present = {name: torch.ones(2, dtype=torch.bool) for name in tokens}
    with pytest.warns(FutureWarning) as warned:
        head = build_head("old_gate", SHAPES, TARGETS)
    assert_names(warned, ["layouts=", "unstandardised=", "used_modalities"])
    assert [head.input(name).unstandardised for name in SHAPES] == [False, True]
    assert [head.input(name).layout for name in SHAPES] == ["pooled", "pooled"]
    with pytest.warns(FutureWarning) as warned:
        assert head.predict(tokens, present)["logits"].shape == (2, 2)
    assert_names(warned, ["modality_inputs", "fill_missing"])
    head.init_from_parents({"video": head})
    head.fit_without_epochs({}, {}, [], seed=7)
    assert (vars(head)["fitted"], vars(head)["parents_given"]) == (7, ["video"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("data.load_data", "data.dataset.load_data"),
        ("losses.loss_of_targets", "losses.multi_target_loss"),
        ("heads.modality_input.Form", "data.shapes.InputLayout"),
    ],
)
def test_what_a_head_imports_has_its_old_name_too(old: str, new: str) -> None:
    (old_path, old_name), (module, name) = (f"avfuse.stages.fuse.{path}".rsplit(".", 1) for path in (old, new))
    with pytest.warns(FutureWarning, match=rf"{old}' is 'avfuse.stages.fuse.{new}' now"):
        there = getattr(import_module(old_path), old_name)
    assert there is getattr(import_module(module), name)


def test_heads_of_today_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        build_head("mlp", SHAPES, TARGETS).modality_inputs()
