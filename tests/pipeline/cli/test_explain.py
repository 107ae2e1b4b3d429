"""What `avfuse understand explain` draws, writes and refuses."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from commands import call, refused
from made_up_sets import INPUTS, kitchen
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from avfuse.features.cache import ChunkResult, FeatureStore, fingerprint
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.features.inputs.filter_bank import FRAMES, MEL_BANDS
from avfuse.manifests import Manifest, Target, load_manifest, save_manifest
from avfuse.pipeline.provenance import describe_run
from avfuse.pipeline.report.explain.figure import ExplainedRow, clip_page
from avfuse.pipeline.report.explain.network_inputs import SIDE, ClipPictures, enlarged, overlay
from avfuse.pipeline.report.explain.rows import explanation_table
from avfuse.pipeline.report.figures.segments import segments_page
from avfuse.stages.fuse.analysis.attribution import Explanation
from avfuse.stages.fuse.data.dataset import load_data
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.data.token_layout import FeatureTokens
from avfuse.stages.fuse.runs.experiment import run_experiment
from avfuse.stages.fuse.training.overrides import TrainingOverrides

CLIPS, DIM = 32, 16
HEADER, BAND = 180, 294


def save_tones(cache: Path, media: Path) -> Manifest:
    """Two classes, told by the third frame and by a cell of the filter bank; every clip is the same file, but the last,
    which is gone."""
    classes = np.arange(CLIPS) % 2
    table = pd.DataFrame(
        {
            "clip_id": [f"tone/{number}" for number in range(CLIPS)],
            "path": ["good.avi"] * (CLIPS - 1) + ["gone.avi"],
            "start": np.nan,
            "end": np.nan,
            "label": np.array(["high", "low"])[classes],
            "split": np.where(np.arange(CLIPS) // 2 % 4 == 3, "test", "train"),
            "group": [f"g{number}" for number in range(CLIPS)],
        }
    )
    manifest = Manifest("tones", "tones", media, table, targets=(Target("label", ("high", "low")),))
    save_manifest(cache, manifest)
    generator = np.random.default_rng(0)
    for name, shape, cell in (("lite:frames", (25, DIM), 2), ("lite:fbank:tokens", (128, DIM), 75)):
        rows = generator.standard_normal((CLIPS, *shape)).astype(np.float32)
        rows[:, cell] += 6 * generator.standard_normal((2, DIM))[classes]
        (spec,) = resolve([name])
        spec = spec.model_copy(update={"shape": shape})
        done = [(clip, fingerprint(clip.path)) for clip in manifest.clips()]
        result = ChunkResult(spec, done=done, data=list(rows), no_audio=[])
        FeatureStore(cache, manifest.collection, spec).commit(result)
    return manifest


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Path:
    folder = tmp_path_factory.mktemp("work")
    cache = folder / "cache"
    manifest = save_tones(cache, media)
    inputs = {"video": ["lite:frames"], "audio": ["lite:fbank:tokens"]}
    data = load_data(manifest, cache, inputs)
    described = describe_run(manifest, "avfuse fuse --name heads", cache)
    heads = ["audio", "video", "crossattn"]
    run_experiment(data, folder / "run", heads, 2, TrainingOverrides(epochs=4), described, progress=False)
    return folder


@pytest.fixture
def understand(workplace: Path, tmp_path: Path) -> Callable[..., Result]:
    places = ["--cache", workplace / "cache", "--device", "cpu", "-o", tmp_path / "pictures"]
    return lambda *arguments: call("understand", "explain", workplace / "run", *arguments, *places)


class TestExplain:
    @pytest.mark.slow
    def test_a_picture_for_each_clip_and_all_numbers_are_written_and_named(
        self, understand: Callable[..., Result], tmp_path: Path
    ) -> None:
        clips = ["--clip", "tone/7", "--clip", "tone/14"]
        said = understand("--head", "video", "--head", "audio", "--head", "crossattn", *clips).output.splitlines()
        folder = tmp_path / "pictures"
        expected = [folder / "1-tone_7.png", folder / "2-tone_14.png", folder / "explanations.csv"]
        assert said == [str(path) for path in expected]
        for path in expected[:2]:
            with Image.open(path) as picture:
                assert picture.format == "PNG"
                assert picture.size == (1428, HEADER + 3 * BAND)
                assert len(np.unique(np.asarray(picture.convert("L")))) > 50
        table = pd.read_csv(expected[2])
        cells = table.groupby(["row", "clip_id", "modality"], sort=False)
        assert cells.size().to_dict() == {
            (row, clip, modality): count
            for row, modality, count in (
                ("video", "video", 25),
                ("audio", "audio", 128),
                ("crossattn", "video", 25),
                ("crossattn", "audio", 128),
            )
            for clip in ("tone/7", "tone/14")
        }
        means = cells["relevance"].mean()
        assert ((means > 0) & (means < 1 + 1e-9)).all()
        largest = table.loc[table[table["row"] == "audio"].groupby("clip_id")["relevance"].idxmax()]
        assert largest["line"].tolist() == [2, 2]
        assert largest["column"].tolist() == [11, 11]

    def test_without_clips_those_of_both_classes_are_taken(
        self, understand: Callable[..., Result], tmp_path: Path
    ) -> None:
        understand("--head", "audio", "--clips", 2, "--of", "true")
        table = pd.read_csv(tmp_path / "pictures" / "explanations.csv")
        assert sorted(table.drop_duplicates("clip_id")["class"]) == ["high", "low"]

    def test_attention_and_segments_are_drawn(self, understand: Callable[..., Result], tmp_path: Path) -> None:
        said = understand("--head", "crossattn", "--method", "attention", "--segments", "--clip", "tone/6").output
        segments = tmp_path / "pictures" / "1-tone_6-segments.png"
        assert str(segments) in said
        with Image.open(segments) as picture:
            assert picture.size == (1000, 700)
        table = pd.read_csv(tmp_path / "pictures" / "explanations.csv")
        np.testing.assert_allclose(table.groupby("modality")["relevance"].mean(), 1)

    def test_a_clip_whose_file_is_gone_still_has_its_numbers(
        self, workplace: Path, understand: Callable[..., Result], tmp_path: Path
    ) -> None:
        understand("--head", "crossattn", "--clip", f"tone/{CLIPS - 1}", "--segments")
        assert (tmp_path / "pictures" / f"1-tone_{CLIPS - 1}.png").stat().st_size > 1000
        assert not list((tmp_path / "pictures").glob("*-segments.png"))
        assert len(pd.read_csv(tmp_path / "pictures" / "explanations.csv")) == 25 + 128

    def test_what_cannot_be_is_said_in_one_line(self, workplace: Path) -> None:
        start = ["understand", "explain", workplace / "run", "--cache", workplace / "cache", "--device", "cpu"]
        assert "'tone/0' is no test clip of" in refused(*start, "--head", "audio", "--clip", "tone/0")
        assert "holds no row 'mlp'" in refused(*start, "--head", "mlp")
        assert "head 'audio' has no attention between cached tokens" in refused(
            *start, "--head", "audio", "--method", "attention"
        )
        assert not (workplace / "run" / "explanations" / "explanations.csv").exists()

    def test_a_row_without_attention_is_explained_by_grad_cam_and_says_why(
        self, understand: Callable[..., Result], tmp_path: Path
    ) -> None:
        said = understand("--head", "audio", "--head", "crossattn", "--method", "attention", "--clips", 1).output
        assert "audio is explained by Grad-CAM: head 'audio' has no attention between cached tokens" in said
        table = pd.read_csv(tmp_path / "pictures" / "explanations.csv")
        methods = table.groupby("row")["method"].unique().explode().to_dict()
        assert methods == {"audio": "grad-cam", "crossattn": "attention"}

    def test_heads_that_say_something_else_than_when_they_were_tested_are_refused(
        self, workplace: Path, tmp_path: Path
    ) -> None:
        copy = Path(shutil.copytree(workplace / "run", tmp_path / "copy"))
        (file, _) = sorted((copy / "audio").glob("*.npz"))
        with np.load(file) as saved:
            arrays = dict(saved)
        np.savez(file, **{**arrays, "logits": -arrays["logits"]})
        given = ["understand", "explain", copy, "--cache", workplace / "cache", "--device", "cpu"]
        assert "copy:audio says something else of these clips than when it was tested" in refused(
            *given, "--head", "audio"
        )

    def test_features_of_other_clips_are_not_read(
        self, understand: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []
        load = FeatureStore.load
        monkeypatch.setattr(
            FeatureStore, "load", lambda store, clips: (asked.append(len(clips)), load(store, clips))[1]
        )
        understand("--head", "crossattn", "--clips", 2)
        assert asked == [2, 2]

    def test_single_vectors_have_no_map_and_several_targets_are_explained_together(self, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        kitchen(cache, clips=80)
        manifest = load_manifest(cache, "kitchen")
        described = describe_run(manifest, "avfuse fuse", cache)
        data = load_data(manifest, cache, INPUTS)
        run_experiment(
            data, tmp_path / "run", ["mlp"], 1, TrainingOverrides(epochs=1, hidden="8"), described, progress=False
        )
        places = ["--cache", cache, "--device", "cpu", "--clips", 1]
        said = call("understand", "explain", tmp_path / "run", "--head", "mlp", *places).output
        assert "mlp has no map of audio: one vector a clip has no cells" in said
        (named,) = pd.read_csv(tmp_path / "run" / "explanations" / "explanations.csv")["class"].unique()
        assert [part[:4] for part in named.split(" + ")] == ["verb", "noun"]


class TestPictures:
    def test_maps_are_enlarged_without_moving_their_cells(self) -> None:
        cells = np.zeros((7, 7))
        cells[1, 5] = 1
        large = enlarged(cells, "image")
        assert large.shape == (SIDE, SIDE)
        row, column = np.unravel_index(large.argmax(), large.shape)
        assert (row // 32, column // 32) == (1, 5)
        assert large.max() == pytest.approx(1, abs=0.04)
        np.testing.assert_allclose(enlarged(np.full((2, 3), 0.5), "image", (10, 20)), 0.5)

    def test_low_frequencies_of_a_filter_bank_are_at_the_bottom(self) -> None:
        cells = np.zeros((4, 32))
        cells[0, 31] = 1
        row, column = np.unravel_index(enlarged(cells, "filter_bank").argmax(), (SIDE, SIDE))
        assert row > SIDE * 3 / 4
        assert column > SIDE * 31 / 32

    def test_patches_of_ast_lie_where_it_cuts_them(self) -> None:
        cells = np.zeros((12, 101))
        cells[6, 50] = 1
        large = enlarged(cells, "filter_bank", (MEL_BANDS, FRAMES))
        row, column = np.unravel_index(large.argmax(), large.shape)
        assert abs(MEL_BANDS - row - (6 * 10 + 8)) <= 1
        assert abs(column - (50 * 10 + 8)) <= 1

    def test_what_is_relevant_is_coloured_and_the_rest_stays_grey(self) -> None:
        heat = np.zeros((4, 4))
        heat[0, 0] = 2
        laid = overlay(np.full((4, 4), 200, np.uint8), heat, 2).astype(int)
        assert np.ptp(laid[0, 0]) > 100
        assert (laid[3, 3] > 120).all()
        np.testing.assert_array_equal(
            overlay(np.full((4, 4), 200, np.uint8), 0 * heat, 0), laid[3:, 3:].repeat(4, 0).repeat(4, 1)
        )

    def test_segments_of_a_filter_bank_are_counted_in_its_titles(self) -> None:
        bank = np.full((FRAMES, MEL_BANDS), 0.4670, np.float32)
        bank[:400] = np.random.default_rng(0).standard_normal((400, MEL_BANDS))
        above, change, below, _ = segments_page(bank, "noise").axes
        (cuts,) = change.collections
        assert len(cuts.get_paths()) == 49
        assert above.get_title() == "noise: filter bank, cut into 50 segments where the sound changes most"
        assert below.get_title() == "one draw: 2 of 50 segments hidden (white)"
        hidden = np.isnan(np.asarray(below.images[0].get_array().filled(np.nan))).all(axis=0)
        assert 0 < hidden.sum() < 100


class TestPage:
    def test_a_map_of_zeros_is_said_in_words_and_not_drawn(self) -> None:
        frames, bank = resolve(["lite:frames:tokens", "lite:fbank:tokens"])
        video = FeatureTokens(frames.name, np.arange(25 * 49).reshape(25, 7, 7), (frames,))
        audio = FeatureTokens(bank.name, np.arange(128).reshape(4, 32), (bank,))
        maps = {"video": np.zeros((1, 25 * 49)), "audio": np.zeros((1, 128))}
        found = Explanation(
            "grad-cam", np.zeros((1, 1), np.int64), np.ones((1, 1)), {"video": [video], "audio": [audio]}, maps, {}
        )
        noise = np.random.default_rng(0)
        inputs = {
            frames.input: noise.integers(0, 255, (25, 224, 224, 3), dtype=np.uint8),
            bank.input: noise.standard_normal((FRAMES, MEL_BANDS)).astype(np.float32),
        }
        page = clip_page(
            ClipPictures(Clip("one", Path("one.mp4")), inputs), "", [ExplainedRow("a", "b", 0.5, "", found)], 0
        )
        said = [text.get_text().replace("\n", " ") for axes in page.axes for text in axes.texts]
        assert said.count("The map is zero everywhere: no token supports this class.") == 2
        pictures = [axes.images[0].get_array() for axes in page.axes if axes.images]
        assert len(pictures) == 8 + 1
        sound = np.asarray(pictures[-1]).astype(int)
        assert np.ptp(sound, axis=2).max() == 0
        assert not any("largest" in text.get_text() for text in page.texts)

    def test_windows_are_marked_and_have_names_of_their_own(self) -> None:
        specs = tuple(resolve(["lite:frames:windows2"], sampling="uniform:3"))
        video = FeatureTokens(specs[0].name, np.arange(6), specs)
        found = Explanation(
            "grad-cam",
            np.zeros((1, 1), np.int64),
            np.ones((1, 1)),
            {"video": [video]},
            {"video": np.ones((1, 6)) / 6},
            {},
        )
        targets = Targets((LearnedTarget("label", ("high", "low")),))
        table = explanation_table(targets, "mlp", found, [{"clip_id": "one"}])
        assert table["feature"].tolist() == ["lite:frames:1of2"] * 3 + ["lite:frames:2of2"] * 3
        assert table["frame"].tolist() == [0, 1, 2, 0, 1, 2]
        page = clip_page(ClipPictures(Clip("one", Path("one.mp4")), {}), "", [ExplainedRow("a", "b", 1, "", found)], 0)
        said = [text.get_text() for axes in page.axes for text in axes.texts]
        assert [words for words in said if words.startswith("window")] == ["window 1", "window 2"]
        assert not _colour_bars(page)
        assert not any("zero for" in text.get_text() for text in page.texts)

    def test_how_many_seeds_have_no_map_is_said(self) -> None:
        """Of three heads two have no frame that supports the class."""
        (spec,) = resolve(["lite:frames"])
        video = FeatureTokens(spec.name, np.arange(25), (spec,))
        maps = {"video": np.full((1, 25), 1 / 3 / 25)}
        found = Explanation("grad-cam", np.zeros((1, 1), np.int64), np.ones((1, 1)), {"video": [video]}, maps, {}, 3)
        assert found.zeros("video", 0) == 2
        page = clip_page(ClipPictures(Clip("one", Path("one.mp4")), {}), "", [ExplainedRow("a", "b", 1, "", found)], 0)
        assert "a: b, 100 %; video map zero for 2 of 3 seeds" in [text.get_text() for text in page.texts]

    def test_frames_of_cells_have_a_map_each_and_vectors_a_bar_each(self) -> None:
        (cells,) = resolve(["lite:frames:tokens"])
        vectors = resolve(["lite:mfcc", "lite:chromagram"])
        video = FeatureTokens(cells.name, np.arange(25 * 49).reshape(25, 7, 7), (cells,))
        audio = [FeatureTokens(spec.name, np.array(number), (spec,)) for number, spec in enumerate(vectors)]
        maps = {"video": np.full((1, 25 * 49), 1 / (25 * 49)), "audio": np.array([[0.75, 0.25]])}
        found = Explanation(
            "grad-cam", np.zeros((1, 1), np.int64), np.ones((1, 1)), {"video": [video], "audio": audio}, maps, {}
        )
        pixels = np.random.default_rng(0).integers(0, 255, (25, 224, 224, 3), dtype=np.uint8)
        pictures = ClipPictures(Clip("one", Path("one.mp4")), {cells.input: pixels})
        page = clip_page(pictures, "high", [ExplainedRow("mlp", "high", 0.9, "right", found)], 0)
        drawn = [axes for axes in page.axes if axes.images]
        assert len(drawn) == 16
        assert all(axes.images[0].get_array().shape == (128, 128, 3) for axes in drawn)
        (bars,) = [axes for axes in page.axes if len(axes.patches) == 2]
        assert [bar.get_width() for bar in bars.patches] == [1.5, 0.5]
        assert [text.get_text() for text in bars.texts] == ["lite:mfcc", "lite:chromagram"]
        words = " ".join(text.get_text() for text in page.texts)
        assert "one: high" in words
        assert "mlp: high, 90 % (right)" in words
        assert "largest 1.0" in words
        assert "zero for" not in words
        assert len(_colour_bars(page)) == 1


def _colour_bars(page: Figure) -> list[Axes]:
    return [axes for axes in page.axes if "each map's largest" in [text.get_text() for text in axes.get_xticklabels()]]
