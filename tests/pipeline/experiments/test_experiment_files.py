"""Experiment files say what the papers print, and every row of them can be built from what its roles stand for."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import ROOT

from avfuse.features.backbones import WeightsChoice
from avfuse.features.feature_names import resolve
from avfuse.pipeline.experiments.roles import is_substitute
from avfuse.pipeline.experiments.schema import (
    DATA_SETS,
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
PAPERS = Path(os.environ.get("AVFUSE_PAPERS", ROOT.parent / "shared" / "papers"))
"""Texts of the papers are used in addition where they are."""

TITLES = {
    "MAiVAR": "MAiVAR: Multimodal Audio-Image and Video Action Recognizer",
    "MAiVAR-T": "MAiVAR-T: Multimodal Audio-image and Video Action Recognizer",
    "AVT": "Efficient Selective Audio Masked Multimodal Bottleneck Transformer",
    "MMT": "Efficient Multiscale Multimodal Bottleneck Transformer",
    "alpha-transformer": "Is Spatial-Temporal-Audio Attention All You Need",
}
"""How each paper's text begins, by what ExperimentTable.paper begins with."""

TOP1_TOP5 = {
    ("kinetics_sounds", "top1"): "Kinetics-Sounds Top-1",
    ("kinetics_sounds", "top5"): "Kinetics-Sounds Top-5",
    ("vggsound", "top1"): "VGGSound Top-1",
    ("vggsound", "top5"): "VGGSound Top-5",
}
EPIC = {
    ("epic_kitchens_100", "verb_top1"): "Verb",
    ("epic_kitchens_100", "noun_top1"): "Noun",
    ("epic_kitchens_100", "action_top1"): "Action",
}
OF_CLASSES = {
    "people marching": "March",
    "waterfall burbling": "Waterfall",
    "playing tennis": "Tennis",
    "people belly laughing": "Laugh",
    "car engine starting": "Engi.",
}


@dataclass(frozen=True)
class Printed:
    """A table in a paper's text, whose cells stand between tabs. header: how its first line begins. name: what its
    lines are called, of their cells. row, column: of which a row of the file has its numbers, formats of the row; where
    `columns` has the data set and the measure, that column."""

    header: str
    name: str = "{0}"
    row: str = "{0.label}"
    column: str = ""
    columns: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def place(self, row: TableRow, data: str, measure: str) -> tuple[str, str]:
        column = self.columns[data, measure] if self.columns else self.column.format(row)
        return self.row.format(row), column


PRINTED = {
    "maivar-table1": Printed("Method", column="Accuracy (%)"),
    "maivar-table2": Printed("Representation", column="{0.section}"),
    "avt-table1": Printed(
        "\tMarch", columns={("vggsound", f"class:{name}"): column for name, column in OF_CLASSES.items()}
    ),
    "avt-table2": Printed("Models\tModalities\tKinetics-Sounds", name="{0} ({1})", columns=TOP1_TOP5),
    "avt-table3": Printed(
        "Models\tModalities\tVerb",
        name="{0} ({1})",
        columns={**EPIC, ("epic_kitchens_100", "gmacs"): "FLOPs (G)"},
    ),
    "avt-table4": Printed(
        "Models\tKinetics-Sounds",
        columns={**TOP1_TOP5, **{key: f"Epic-Kitchens-100 {column}" for key, column in EPIC.items()}},
    ),
    "avt-table5": Printed("Models\tBaseline", row="{0.section}", column="{0.label}"),
    "alpha-table1": Printed(
        "Experiment Number",
        name="{1} {2}",
        columns={("vggsound", "top1"): "Test Accuracy", ("vggsound", "nll"): "Loss"},
    ),
}
IN_PROSE = {
    ("maivar-table2", "video"): r"TABLE II: .*video-only accuracy is ([\d.]+)%",
    ("maivar-t", "maivar-t"): r"Primary result: ([\d.]+)% accuracy on UCF101",
}
"""Numbers that stand in a sentence, by table and row."""

WITH_NUMBERS = {*PRINTED, *(name for name, _ in IN_PROSE)}

SPELT_OUT = {"Uniform.": "Uniformer"}


@cache
def text_of(paper: str) -> str:
    title = TITLES[paper.partition(" ")[0]]
    if not PAPERS.is_dir():
        pytest.skip(f"no texts of papers at {PAPERS} (set AVFUSE_PAPERS)")
    found = [text for path in sorted(PAPERS.glob("*.txt")) if title in (text := path.read_text())[:300]]
    assert len(found) == 1, f"{len(found)} texts in {PAPERS} are '{title}'"
    return found[0]


def plain(text: str) -> str:
    """Without mark-up, numbers of references and line breaks."""
    text = re.sub(r"</?\w+>|\[\d+\]|[$*]", "", text).replace(r"\times", "×")
    return re.sub(r" ?× ?", "×", re.sub(r"\s+", " ", text)).strip()


def number(cell: str) -> float | None:
    found = re.match(r"\d+(\.\d+)?", plain(cell))
    return float(found[0]) if found else None


@cache
def printed_numbers(name: str) -> dict[tuple[str, str], float]:
    """Every number of a printed table by row and column."""
    if name not in PRINTED:
        return {}
    printed, text = PRINTED[name], text_of(load_table(name).paper)
    start = re.search(rf"^{re.escape(printed.header)}", text, re.MULTILINE)
    assert start is not None, f"no table begins with '{printed.header}'"
    lines = [line.split("\t") for line in re.match(r"(?:.*\t.*\n)+", text[start.start() :])[0].splitlines()]
    first = next(row for row, cells in enumerate(lines) if any(number(cell) for cell in cells[1:]))
    columns = _columns(lines[:first])
    numbers = {}
    for cells in lines[first:]:
        name = printed.name.format(*map(plain, cells))
        for column, cell in list(zip(columns, cells, strict=True))[1:]:
            if (value := number(cell)) is not None:
                numbers[SPELT_OUT.get(name, name), column] = value
    return numbers


def _columns(header: list[list[str]]) -> list[str]:
    """Of one line, or of two of which the first names groups of columns."""
    upper, *lower = header
    if not lower:
        return [plain(cell) for cell in upper]
    groups = [plain(next((cell for cell in reversed(upper[: at + 1]) if cell), "")) for at in range(len(upper))]
    return [f"{group} {plain(cell)}".strip() for group, cell in zip(groups, lower[0], strict=True)]


def published(table: ExperimentTable) -> Iterator[tuple[TableRow, str, str, float]]:
    for row in table.rows:
        for data, measures in row.published.items():
            for measure, value in measures.items():
                yield row, data, measure, value


def disagreements(table: ExperimentTable) -> list[str]:
    """Where a file and the paper's text are not of one mind."""
    numbers, said, wrong = printed_numbers(table.name), set(), []
    for row, data, measure, value in published(table):
        if (table.name, row.id) in IN_PROSE:
            found = re.search(IN_PROSE[table.name, row.id], text_of(table.paper))
            stands = float(found[1]) if found else None
        else:
            place = PRINTED[table.name].place(row, data, measure)
            said.add(place)
            stands = numbers.get(place)
        if value != stands:
            wrong.append(f"{row.id}: {measure} on {data} is {value}, the paper prints {stands}")
    return wrong + [f"{' / '.join(place)} is printed, and not in the file" for place in sorted(numbers.keys() - said)]


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


@pytest.mark.parametrize("name", table_names())
def test_published_numbers_are_of_the_data_sets_and_measures_of_their_table(name: str) -> None:
    table = load_table(name)
    shown = {*table.measures, *(f"class:{each}" for each in table.classes)}
    assert set(table.data) <= set(DATA_SETS)
    for row, data, measure, _ in published(table):
        assert data in table.data, row.id
        assert measure in shown, row.id


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


@pytest.mark.parametrize(
    ("name", "row", "data", "measure", "value"),
    [
        ("maivar-table1", "maivar-ch", "ucf101", "top1", 87.91),
        ("maivar-table2", "mfcc-scaled-audio", "ucf101", "top1", 17.43),
        ("maivar-table2", "mfcc-scaled-fusion", "ucf101", "top1", 86.11),
        ("maivar-table2", "video", "ucf101", "top1", 75.67),
        ("maivar-t", "maivar-t", "ucf101", "top1", 91.2),
        ("avt-table1", "audio", "vggsound", "class:people belly laughing", 30.2),
        ("avt-table2", "mbt", "vggsound", "top5", 85.6),
        ("avt-table3", "avt", "epic_kitchens_100", "gmacs", 269),
        ("avt-table4", "masegm-16", "epic_kitchens_100", "action_top1", 47.2),
        ("avt-table4", "avc-32", "kinetics_sounds", "top5", 99.5),
        ("avt-table5", "avt-masegm", "vggsound", "top1", 57.1),
        ("alpha-table1", "timesformer-pos", "vggsound", "nll", 6.98),
    ],
)
def test_published_numbers_that_were_copied_by_hand(name: str, row: str, data: str, measure: str, value: float) -> None:
    rows = {each.id: each for each in load_table(name).rows}
    assert rows[row].published[data][measure] == value


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


def test_tables_that_no_paper_prints_have_no_published_numbers() -> None:
    assert {name for name in table_names() if any(published(load_table(name)))} == WITH_NUMBERS


@pytest.mark.parametrize("name", sorted(WITH_NUMBERS))
def test_published_numbers_are_those_that_the_paper_prints_in_that_place(name: str) -> None:
    assert disagreements(load_table(name)) == []


@pytest.mark.parametrize("name", sorted(WITH_NUMBERS))
def test_a_number_that_is_changed_is_noticed(name: str) -> None:
    table = load_table(name)
    for row, data, measure, value in published(table):
        changed = row.model_copy(
            update={"published": {**row.published, data: {**row.published[data], measure: round(value + 0.1, 2)}}}
        )
        rows = tuple(changed if each.id == row.id else each for each in table.rows)
        found = disagreements(table.model_copy(update={"rows": rows}))
        assert len(found) == 1
        assert found[0].startswith(f"{row.id}: {measure} on {data}")


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_a_number_that_is_left_out_is_noticed(name: str) -> None:
    table = load_table(name)
    last = table.rows[-1] if table.rows[-1].published else next(row for row in table.rows if row.published)
    rows = tuple(row.model_copy(update={"published": {}}) if row.id == last.id else row for row in table.rows)
    in_prose = (name, last.id) in IN_PROSE
    assert bool(disagreements(table.model_copy(update={"rows": rows}))) is not in_prose


@pytest.mark.parametrize("name", table_names())
def test_what_notes_quote_stands_in_the_paper(name: str) -> None:
    table = load_table(name)
    text = plain(text_of(table.paper))
    quotes = re.findall(r'"([^"]+)"', "\n".join([*table.notes, *(row.note for row in table.rows)]))
    assert [quote for quote in quotes if plain(quote) not in text] == []
