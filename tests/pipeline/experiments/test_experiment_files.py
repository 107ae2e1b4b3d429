"""Every row of the experiment files can be built from its roles and trained with its settings."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from avfuse.features.backbones import WeightsChoice
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.pipeline.experiments.roles import is_substitute
from avfuse.pipeline.experiments.schema import (
    ExperimentTable,
    TableRow,
    backbones_names,
    load_backbones,
    load_table,
    table_names,
)
from avfuse.stages.fuse.config import Recipe, Settings
from avfuse.stages.fuse.data.filter_banks import FilterBanks
from avfuse.stages.fuse.data.modality import FeatureLayout
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.heads import ModalityShape, build_head
from avfuse.stages.fuse.training.auxiliary_losses import AuxiliaryLosses, auxiliary_weights
from avfuse.stages.fuse.training.overrides import TrainingOverrides, accepts_setting

LARGE = {"avt-table4", "mmt"}


@cache
def shape_of(map_name: str, modality: str, roles: tuple[str, ...]) -> ModalityShape:
    """Of what roles stand for, with random weights: these need no files."""
    specs = []
    for role in roles:
        names, _, sampling = load_backbones(map_name).roles[role].partition(" ")
        specs += resolve(names.split(","), sampling=sampling or None, weights=WeightsChoice("random"))
    return FeatureLayout.of(modality, specs).shape


def training_of(table: ExperimentTable, row: TableRow) -> TrainingOverrides:
    """The table's settings that the row's head knows, and all of the row's."""
    general = {name: value for name, value in table.settings.items() if accepts_setting(row.head, name)}
    return TrainingOverrides(**{**general, **row.settings})


@cache
def gives(name: str, shapes: tuple[ModalityShape, ...], options: Settings, recipe: Recipe) -> bool:
    """Whether a head gives logits of three classes for two clips, or with further losses all that these need."""
    targets = Targets((LearnedTarget("label", ("a", "b", "c")),))
    by_name = dict(zip(("video", "audio"), shapes, strict=True))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        head = build_head(name, by_name, targets, options).eval()
        if auxiliary_weights(recipe):
            banks = FilterBanks("", torch.zeros(1, 1024, 128), torch.ones(1, dtype=torch.bool))
            return AuxiliaryLosses(head, recipe, banks).weights == auxiliary_weights(recipe)
        clips = {
            each: door.to_layout(torch.zeros(2, *by_name[each][:2])) for each, door in head.modality_inputs().items()
        }
        return head(clips, dict.fromkeys(clips))["logits"].shape == (2, 3)


def its_roles(row: TableRow) -> set[str]:
    return {*row.video, *row.audio}


def large_networks_are_slow() -> list[Any]:
    """Every table with every map; heads as large as published are built once among the fast ones."""
    return [
        pytest.param(name, map_name, marks=pytest.mark.slow if name in LARGE and map_name != "quick" else ())
        for name in table_names()
        for map_name in backbones_names()
    ]


@pytest.mark.parametrize(("name", "map_name"), large_networks_are_slow())
def test_every_row_whose_roles_are_mapped_can_be_built_and_trained_as_it_says(name: str, map_name: str) -> None:
    table, mapped = load_table(name), load_backbones(map_name).roles.keys()
    rows = [row for row in table.trained if its_roles(row) <= mapped]
    assert rows
    for row in rows:
        shapes = tuple(shape_of(map_name, each, getattr(row, each)) for each in ("video", "audio"))
        training = training_of(table, row)
        assert gives(row.head, shapes, training.options(row.head), training.recipe(row.head)), row.id


@pytest.mark.parametrize("name", table_names())
def test_settings_are_known(name: str) -> None:
    table = load_table(name)
    for row in table.trained:
        TrainingOverrides(**row.settings).check([row.head])
    idle = [
        setting for setting in table.settings if not any(accepts_setting(row.head, setting) for row in table.trained)
    ]
    assert not idle


@pytest.mark.parametrize("name", table_names())
def test_rows_are_compared_with_rows_that_are_trained_and_differ(name: str) -> None:
    table = load_table(name)
    trained = {row.id: row for row in table.trained}
    assert all(row.baseline in {None, *trained.keys() - {row.id}} for row in table.rows)
    described = [
        repr((row.head, row.video, row.audio, sorted(table.settings_of(row).items()))) for row in table.trained
    ]
    assert len(set(described)) == len(described)


def test_the_papers_map_has_every_role_and_no_map_has_one_that_no_table_names() -> None:
    named = set().union(*(its_roles(row) for name in table_names() for row in load_table(name).trained))
    assert load_backbones("paper").roles.keys() == named
    assert load_backbones("lite").roles.keys() < named
    for name in backbones_names():
        assert load_backbones(name).marks.keys() <= load_backbones(name).roles.keys()


def test_the_papers_map_names_what_is_not_the_papers_own() -> None:
    paper, lite = load_backbones("paper"), load_backbones("lite")
    assert isinstance(paper.substitute, tuple)
    assert set(paper.substitute) <= paper.roles.keys()
    told = {role for role, mark in paper.marks.items() if re.search("in place of|the paper's is|frozen", mark)}
    assert told <= set(paper.substitute)
    marked = {name: {row.id for row in load_table(name).trained if is_substitute(paper, row)} for name in table_names()}
    assert not marked["maivar-table1"] | marked["maivar-table2"] | marked["maivar-init"]
    for name in ("maivar-t", "avt-table2", "mmt", "alpha-table1"):
        assert marked[name] == {row.id for row in load_table(name).trained}, name
    assert all(is_substitute(lite, row) for name in table_names() for row in load_table(name).trained)


def test_lite_stands_for_all_but_what_compares_networks_and_mat_from_scratch() -> None:
    left_out = load_backbones("paper").roles.keys() - load_backbones("lite").roles.keys()
    networks = {"inception_resnet_v2", "resnet18", "resnet101", "efficientnet_b0", "mvit", "timesformer"}
    assert {role.partition(".")[0] for role in left_out} == {*networks, "filter_bank"}


def test_lite_has_one_sampling_of_plain_frames() -> None:
    """Another one would make the name `lite:frames` mean two features of a cache."""
    features = [text.partition(" ") for text in load_backbones("lite").roles.values()]
    assert {sampling for names, _, sampling in features if "lite:frames" in names.split(",")} == {""}


def test_windows_are_views_of_as_many_tokens_as_one_of_them_has() -> None:
    assert shape_of("lite", "video", ("clip.32",)) == ModalityShape(32, 1280)
    assert shape_of("paper", "video", ("clip.32",)) == ModalityShape(16 * 7 * 7, 1024, grid=(16, 7, 7))
    assert shape_of("paper", "audio", ("fbank_tokens",)) == ModalityShape(2 + 12 * 101, 768, 2, (12, 101))


ROWS = {  # rows, and how many of them are trained
    "alpha-table1": (24, 24),
    "avt-table1": (3, 3),
    "avt-table2": (12, 5),
    "avt-table3": (22, 5),
    "avt-table4": (23, 23),
    "avt-table5": (6, 6),
    "maivar-fig4": (5 * 6, 5 * 6),
    "maivar-fig6": (7, 7),
    "maivar-init": (8, 8),
    "maivar-style": (1 + 6 * 2 * 2, 1 + 6 * 2 * 2),
    "maivar-t": (16, 16),
    "maivar-table1": (9, 4),
    "maivar-table2": (1 + 6 * 3, 1 + 6 * 3),
    "mmt": (17, 17),
}


def test_tables_have_so_many_rows() -> None:
    assert {name: (len(load_table(name).rows), len(load_table(name).trained)) for name in table_names()} == ROWS


def test_papers_recipes_are_in_the_rows() -> None:
    def recipe(name: str, row_id: str) -> dict[str, object]:
        table = load_table(name)
        row = next(row for row in table.rows if row.id == row_id)
        training = training_of(table, row)
        return {**training.recipe(row.head).model_dump(), **training.options(row.head).model_dump()}

    fusion = {
        "lr": 1e-4,
        "weight_decay": 0,
        "batch_size": 128,
        "init": "video",
        "audio_block": "zero",
        "video": "flatten",
    }
    avt = {"lr": 1e-4, "avc": 0.5, "avm": 0.1, "masked": 0.01, "shared": 4, "blocks": 4, "dim": 768}
    cases = {
        ("maivar-table2", "mfcc-audio"): {"lr": 3e-4, "weight_decay": 0, "batch_size": 16},
        ("maivar-table2", "mfcc-fusion"): fusion,
        ("avt-table4", "masegm-16"): {**avt, "mask": "segments", "batch_size": 40},
        ("avt-table4", "mav-32"): {**avt, "mask": "random", "batch_size": 32},
        ("avt-table3", "avt"): {**avt, "epochs": 100, "patience": 100},
        ("avt-table5", "mbt-mav"): {"update": "parallel_mean", "masked": 0.01, "avc": 0, "avm": 0},
        ("mmt", "mmt"): {"avc": 0.5, "contrast_labels": True, "imc": 0.1, "balanced": "8x4", "encoder": "mat_lite"},
        ("alpha-table1", "ast-neg"): {"lr": 1e-4, "batch_size": 8, "epochs": 25, "alpha": 0.75, "side": "audio"},
    }
    for (name, row_id), expected in cases.items():
        found = recipe(name, row_id)
        assert {key: found[key] for key in expected} == expected, (name, row_id)


def test_a_map_may_change_another(tmp_path: Path) -> None:
    quick, lite = load_backbones("quick"), load_backbones("lite")
    assert quick.roles["clip.16"] == "lite:frames:windows2 uniform:4"
    assert quick.roles["frames"] == lite.roles["frames"]
    assert (quick.name, quick.settings, quick.substitute) == (
        "quick",
        {**lite.settings, "dim": 32, "heads": 2, "blocks": 2},
        True,
    )
    (tmp_path / "mine.yaml").write_text("{name: mine, summary: Mine., base: quick, roles: {}}")
    with pytest.raises(UsageError, match=r"has the base quick, which has a base itself: name lite"):
        load_backbones(str(tmp_path / "mine.yaml"))
