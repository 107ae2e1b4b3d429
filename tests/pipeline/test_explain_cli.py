"""What `avfuse understand explain` draws, writes and refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from made_up_sets import INPUTS, kitchen
from PIL import Image

from features.cache import ChunkResult, FeatureStore, fingerprint
from features.clips import Clip
from features.errors import UsageError
from features.filter_bank import FRAMES, MEL_BANDS
from features.requests import resolve
from manifests import Manifest, Target, load_manifest, save_manifest
from pipeline.cli.main import avfuse
from pipeline.provenance import describe_run
from pipeline.report.explanations import SIDE, ClipPictures, Shown, clip_page, enlarged, overlay, segments_page
from stages.fuse.data import load_data
from stages.fuse.experiment import run_experiment
from stages.fuse.explaining import Explanation
from stages.fuse.places import Part
from stages.fuse.training import Training

CLIPS, DIM = 32, 16
HEADER, BAND, MARGIN = 56, 290, 24


def call(*arguments: object) -> Result:
    return CliRunner().invoke(avfuse, [str(each) for each in arguments], catch_exceptions=False, standalone_mode=False)


def refused(*arguments: object) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


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
    run_experiment(data, folder / "run", heads, 2, Training(epochs=4), described, progress=False)
    return folder


@pytest.fixture
def understand(workplace: Path, tmp_path: Path) -> Callable[..., Result]:
    places = ["--cache", workplace / "cache", "--device", "cpu", "-o", tmp_path / "pictures"]
    return lambda *arguments: call("understand", "explain", workplace / "run", *arguments, *places)


class TestExplain:
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
                assert picture.size == (1360, HEADER + 3 * BAND + MARGIN)
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
            assert picture.size == (1000, 600)
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

    def test_single_vectors_have_no_map_and_several_targets_are_explained_together(self, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        kitchen(cache, clips=80)
        manifest = load_manifest(cache, "kitchen")
        described = describe_run(manifest, "avfuse fuse", cache)
        data = load_data(manifest, cache, INPUTS)
        run_experiment(data, tmp_path / "run", ["mlp"], 1, Training(epochs=1, hidden="8"), described, progress=False)
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
        above, below = segments_page(bank, "noise").axes
        assert above.get_title() == "noise: filter bank, cut into 50 segments where the sound changes most"
        assert below.get_title() == "one draw: 2 of 50 segments hidden (white)"
        hidden = np.isnan(np.asarray(below.images[0].get_array().filled(np.nan))).all(axis=0)
        assert 0 < hidden.sum() < 100


class TestPage:
    def test_frames_of_cells_have_a_map_each_and_vectors_a_bar_each(self) -> None:
        (cells,) = resolve(["lite:frames:tokens"])
        vectors = resolve(["lite:mfcc", "lite:chromagram"])
        video = Part(cells.name, np.arange(25 * 49).reshape(25, 7, 7), (cells,))
        audio = [Part(spec.name, np.array(number), (spec,)) for number, spec in enumerate(vectors)]
        maps = {"video": np.full((1, 25 * 49), 1 / (25 * 49)), "audio": np.array([[0.75, 0.25]])}
        found = Explanation(
            "grad-cam", np.zeros((1, 1), np.int64), np.ones((1, 1)), {"video": [video], "audio": audio}, maps, {}
        )
        pixels = np.random.default_rng(0).integers(0, 255, (25, 224, 224, 3), dtype=np.uint8)
        pictures = ClipPictures(Clip("one", Path("one.mp4")), {cells.input: pixels})
        page = clip_page(pictures, "high", [Shown("mlp", "high", 0.9, "right", found)], 0)
        drawn = [axes for axes in page.axes if axes.images]
        assert len(drawn) == 16
        assert all(axes.images[0].get_array().shape == (112, 112, 3) for axes in drawn)
        (bars,) = [axes for axes in page.axes if len(axes.patches) == 2]
        assert [bar.get_width() for bar in bars.patches] == [1.5, 0.5]
        assert [text.get_text() for text in bars.texts] == ["lite:mfcc", "lite:chromagram"]
        words = " ".join(text.get_text() for text in page.texts)
        assert "one: high" in words
        assert "mlp: high, 90 % (right)" in words
        assert "max 1.0 times the mean" in words
