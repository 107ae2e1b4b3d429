"""The page of runs and tables: what it holds, how large it gets, and that nothing in it is fetched or mistaken."""

import base64
import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from looked_at import CLASSES, GONE, HARMFUL_CLIP, looked_at_set, trained
from made_up_sets import INPUTS, kitchen
from pages import ReadPage, read_page

from avfuse.features.errors import UsageError
from avfuse.features.media import Waveform
from avfuse.manifests import load_manifest, save_manifest
from avfuse.pipeline.cli.main import avfuse
from avfuse.pipeline.report.page.charts import plain
from avfuse.pipeline.report.page.colours import row_styles
from avfuse.pipeline.report.page.document import json_island
from avfuse.pipeline.report.page.media import encode_sound
from avfuse.pipeline.report.page.tables import cell
from avfuse.stages.fuse.analysis.class_gains import class_gains
from avfuse.stages.fuse.runs.run_folder import load_run

pytestmark = pytest.mark.slow  # the runs that it shows are trained first

HEADS = ["audio", "video", "average", "crossattn"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(avfuse, [str(each) for each in arguments], catch_exceptions=False, standalone_mode=False)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, media: Path) -> Path:
    """Two runs over one small data set, and one over another."""
    folder = tmp_path_factory.mktemp("work")
    manifest = looked_at_set(folder / "cache", media)
    trained(folder / "cache", manifest, folder / "runs/tones/all", HEADS)
    trained(folder / "cache", manifest, folder / "runs/tones/shuffled", ["video"], shuffle_labels=True)
    kitchen(folder / "cache")
    options = ["--fusion", "video", "--seeds", 1, "--epochs", 2, "--name", "few", "--device", "cpu"]
    inputs = ["--video", INPUTS["video"][0], "--audio", INPUTS["audio"][0]]
    places = ["--cache", folder / "cache", "--runs", folder / "runs"]
    call("fuse", "--dataset", "kitchen", *inputs, *options, *places)
    return folder


def report(workplace: Path, target: Path, *arguments: object) -> tuple[ReadPage, str]:
    said = call("report", *arguments, "-o", target, "--cache", workplace / "cache").output
    return read_page(target), said


@pytest.fixture(scope="module")
def said_and_page(workplace: Path) -> tuple[ReadPage, str]:
    return report(workplace, workplace / "page.html", workplace / "runs/tones/all")


@pytest.fixture
def page(said_and_page: tuple[ReadPage, str]) -> ReadPage:
    return said_and_page[0]


def test_one_line_says_how_large_the_page_is(said_and_page: tuple[ReadPage, str], workplace: Path) -> None:
    size = (workplace / "page.html").stat().st_size
    line = said_and_page[1].splitlines()[-1]
    assert line == f"{workplace / 'page.html'}: {size / 1e6:.1f} MB, 12 of 12 test clips with pictures and sound"
    assert size < 10e6


def test_nothing_is_fetched(page: ReadPage) -> None:
    assert [each for each in page.addresses if not each.startswith(("data:image/", "#"))] == []
    for style in page.styles:
        assert "@import" not in style
        assert all(address.startswith("data:") for address in re.findall(r"url\(\s*['\"]?([^'\")]*)", style))
    assert "default-src 'none'" in page.policy
    assert "http" not in page.policy
    sources = [each for clip in page.islands["explorer"]["media"].values() for each, _ in clip["frames"]]
    assert sources
    assert all(each.startswith("data:image/webp;base64,") for each in sources)


def test_only_the_pages_own_scripts_may_run(page: ReadPage) -> None:
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.scripts}
    assert set(re.findall(r"'sha256-([^']+)'", page.policy)) == hashes
    assert len(page.scripts) == 3
    assert "'unsafe-inline'" not in page.policy.split("style-src")[0]


def test_names_are_no_markup(page: ReadPage, workplace: Path) -> None:
    text = (workplace / "page.html").read_text()
    assert "<script>window.harm" not in text
    assert "<img src=x" not in text
    assert page.islands["page"]["targets"][0]["classes"] == list(CLASSES)
    assert HARMFUL_CLIP in {clip["id"] for clip in page.islands["explorer"]["clips"]}
    assert "--name 'heads <i>'" in page.text


def test_json_cannot_end_its_element() -> None:
    text = json_island({"</script>": ["<!--", "&amp;", float("nan"), 1.5]})
    assert "<" not in text
    assert json.loads(text) == {"</script>": ["<!--", "&amp;", None, 1.5]}
    assert plain("a <b>&amp;") == "a &lt;b>&amp;amp;"


def test_headings_are_in_order(page: ReadPage) -> None:
    assert page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))


def test_the_page_has_every_section_in_order(page: ReadPage) -> None:
    places = [
        page.text.rindex(f"\n{title}\n")  # the first is in the list of sections
        for title in (
            "Summary", "Results", "Scores with 95 % intervals", "Learning curves",
            "Confusion matrix", "Gains by class", "Test clips", "Provenance",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    for told in ("12 test clips", "chance 33.3 %", "lite:frames", "Apache-2.0", "excluded clips"):
        assert told.lower() in page.text.lower()


def test_the_summary_claims_no_more_than_a_test_shows(page: ReadPage) -> None:
    assert "95 % interval" in page.text
    assert "the best of several scores is biased upwards" in page.text


def test_figures_have_the_numbers_of_the_run(page: ReadPage, workplace: Path) -> None:
    run = load_run(workplace / "runs/tones/all")
    (bars,) = page.islands["figures"]["scores"]["data"]
    means = [100 * np.mean([one.described["metrics"]["top1"] for one in heads]) for heads in run.heads.values()]
    assert bars["y"] == HEADS
    assert bars["x"] == pytest.approx(means)
    lines = [each for each in page.islands["figures"]["curves-loss"]["data"] if "fill" not in each]
    assert {(each["meta"]["row"], each["meta"]["part"]) for each in lines} == {
        (head, part) for head in HEADS for part in ("validation", "train")
    }
    for each in page.islands["figures"]["confusion-0"]["data"]:
        assert np.sum(each["z"], axis=1) == pytest.approx(100, abs=0.2)
        assert np.sum(each["customdata"]) == pytest.approx(12, abs=0.1)


def test_a_row_has_one_colour_in_every_figure(page: ReadPage) -> None:
    colours = {row["name"]: row["colour"] for row in page.islands["page"]["rows"]}
    (bars,) = page.islands["figures"]["scores"]["data"]
    assert dict(zip(bars["y"], bars["marker"]["color"], strict=True)) == colours
    for trace in page.islands["figures"]["curves-score"]["data"]:
        if "fill" not in trace:
            assert trace["line"]["color"] == colours[trace["meta"]["row"]]
    many = row_styles([str(number) for number in range(20)])
    assert len({(look.colour, look.dash) for look in many.values()}) == 20


def test_gains_are_those_of_every_pair(page: ReadPage, workplace: Path) -> None:
    run, told = load_run(workplace / "runs/tones/all"), page.islands["page"]["gains"]
    assert len(told["pairs"]) == 6
    expected = class_gains(run.targets, run.heads["video"], run.heads["crossattn"]).classes.set_index("class")
    for (_, name, clips), values in zip(told["classes"], told["pairs"]["1>3"], strict=True):
        row = expected.loc[name]
        assert clips == row["clips"]
        assert values == pytest.approx(row[["before", "after", "fixed", "broken"]].tolist(), abs=1e-4)
    assert HEADS[told["before"]] in ("audio", "video")
    assert HEADS[told["after"]] in ("average", "crossattn")


def test_clips_tell_what_each_row_says(page: ReadPage, workplace: Path) -> None:
    run = load_run(workplace / "runs/tones/all")
    one = run.heads["video"][0]
    clips = {clip["id"]: clip for clip in page.islands["explorer"]["clips"]}
    assert set(clips) == set(one.clip_ids)
    for at, clip_id in enumerate(one.clip_ids):
        assert clips[clip_id]["truth"] == [[int(one.truth[0][at])]]
        ((top,),) = [clips[clip_id]["top"][HEADS.index("video")]]
        assert sum(share for _, share in top) == pytest.approx(1000, abs=2)
        shares = [share for _, share in top]
        assert shares == sorted(shares, reverse=True)


def test_sound_is_mp3_that_decodes_to_the_clips_own(page: ReadPage) -> None:
    media = page.islands["explorer"]["media"][HARMFUL_CLIP]
    kind, _, content = media["sound"].partition(",")
    assert kind == "data:audio/mpeg;base64"
    with av.open(io.BytesIO(base64.b64decode(content))) as file:
        assert float(file.duration or 0) / av.time_base == pytest.approx(2, abs=0.15)
        assert file.streams.audio[0].codec_context.channels == 1


def test_without_an_encoder_of_mp3_or_aac_sound_is_wav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"pcm_s16le"})
    samples = np.sin(np.arange(24_000) / 10).astype(np.float32)
    kind, _, content = encode_sound(Waveform(samples=samples, rate_hz=24_000)).partition(",")
    assert kind == "data:audio/wav;base64"
    with av.open(io.BytesIO(base64.b64decode(content))) as file:
        decoded = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    assert np.abs(decoded / 32767 - samples).max() < 1e-4


def test_six_images_and_what_rows_looked_at(page: ReadPage) -> None:
    media = page.islands["explorer"]["media"][HARMFUL_CLIP]
    assert len(media["images"]) == 6
    assert len(media["frames"]) == 8
    panels = {
        head: [panel["kind"] for panel in media["maps"][number]["grad-cam"]["panels"]]
        for number, head in enumerate(HEADS)
    }
    assert panels == {
        "audio": ["maps"],
        "video": ["course"],
        "average": ["course", "maps"],
        "crossattn": ["course", "maps"],
    }
    assert "attention" in media["maps"][HEADS.index("video")]["attention"]["note"]
    assert media["maps"][HEADS.index("crossattn")]["attention"]["panels"]


def test_of_a_clip_whose_file_is_gone_the_page_shows_the_rest(page: ReadPage) -> None:
    media = page.islands["explorer"]["media"][GONE]
    assert any("not found" in note for note in media["notes"])
    assert media["frames"] == []
    assert media["sound"] is None
    assert list(media["images"]) == ["mfcc"]  # from the cache
    assert len(media["maps"]) == len(HEADS)


def test_fewer_clips_are_shown_where_they_would_be_too_large(workplace: Path, tmp_path: Path) -> None:
    whole, _ = report(workplace, tmp_path / "whole.html", workplace / "runs/tones/all", "--limit", 20)
    assert (tmp_path / "whole.html").stat().st_size > 6e6
    page, said = report(workplace, tmp_path / "small.html", workplace / "runs/tones/all", "--limit", 6)
    assert (tmp_path / "small.html").stat().st_size <= 6e6
    shown = len(page.islands["explorer"]["media"])
    assert 0 < shown < len(whole.islands["explorer"]["media"]) == 12
    assert f"{shown} of 12 test clips with pictures" in said
    assert f"of {shown} of 12 clips, to keep the page below" in " ".join(page.text.split())
    assert len(page.islands["explorer"]["clips"]) == 12


def test_clips_sound_and_maps_can_be_left_out(workplace: Path, tmp_path: Path) -> None:
    options = ["--clips", 2, "--no-sound", "--no-maps"]
    page, _ = report(workplace, tmp_path / "page.html", workplace / "runs/tones/all", *options)
    media = page.islands["explorer"]["media"].values()
    assert len(media) == 2
    assert all(each["sound"] is None and "maps" not in each for each in media)


def test_several_runs_are_on_one_page_and_a_control_run_is_marked(workplace: Path, tmp_path: Path) -> None:
    runs = [workplace / "runs/tones/all", f"{workplace / 'runs/tones/shuffled'}:video"]
    page, _ = report(workplace, tmp_path / "page.html", *runs)
    names = [row["name"] for row in page.islands["page"]["rows"]]
    assert names == ["audio", "all: video", "average", "crossattn", "shuffled: video"]
    assert "Shuffled labels" in page.text
    assert len({row["colour"] for row in page.islands["page"]["rows"]}) == 5


def test_a_row_alone_is_a_page_beside_the_run(workplace: Path) -> None:
    said = call("report", f"{workplace / 'runs/tones/all'}:video", "--cache", workplace / "cache", "--no-maps").output
    assert str(workplace / "runs/tones/report.html") in said
    page = read_page(workplace / "runs/tones/report.html")
    assert [row["name"] for row in page.islands["page"]["rows"]] == ["video"]
    assert page.islands["page"]["gains"] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["runs/tones/all", "runs/kitchen/few"], "compare runs of one data set"),
        (["runs/tones/all", "runs/tones/all"], "named twice"),
        (["runs/tones/nothing"], "is no run"),
        (["runs/tones"], "holds no run"),
        (["runs/tones/all:mlp"], "holds no row 'mlp'"),
    ],
)
def test_what_cannot_be_shown_is_one_line(workplace: Path, given: list[str], said: str, tmp_path: Path) -> None:
    places = [workplace / each for each in given]
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        report(workplace, tmp_path / "page.html", *places)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()


def test_untrained_weights_are_warned_of_above_all(workplace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "untrained"
    shutil.copytree(workplace / "runs/tones/all", folder)
    described = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**described, "untrained": ["lite:frames"]}))
    page, _ = report(workplace, tmp_path / "page.html", folder, "--no-maps", "--clips", 0)
    warned = page.text.index("Untrained weights in lite:frames")
    assert warned < page.text.index("\nSummary\n")


def test_a_clip_that_the_manifest_has_no_more_is_still_listed(workplace: Path, tmp_path: Path) -> None:
    manifest = load_manifest(workplace / "cache", "tones")
    fewer = replace(manifest, table=manifest.table[manifest.table["clip_id"] != HARMFUL_CLIP])
    save_manifest(tmp_path / "cache", fewer)
    target = tmp_path / "page.html"
    call("report", workplace / "runs/tones/all", "-o", target, "--cache", tmp_path / "cache", "--no-maps")
    explorer = read_page(target).islands["explorer"]
    assert HARMFUL_CLIP in {clip["id"] for clip in explorer["clips"]}
    assert HARMFUL_CLIP not in explorer["media"]
    assert len(explorer["media"]) == 11


@pytest.mark.parametrize(
    ("text", "shown", "order"),
    [
        ("46.6", "46.6", "46.6"),
        ("33.2 - 60.5", "33.2 – 60.5", "33.2"),
        ("4,068,364", "4,068,364", "4068364"),
        ("-1.5 (-3.0 to +0.1)", "−1.5 (−3.0 to +0.1)", "-1.5"),
        ("-", "–", "-1e99"),
        ("lr=1e-3", "lr=1e-3", ""),
    ],
)
def test_cells_are_sorted_by_their_first_number(text: str, shown: str, order: str) -> None:
    found = cell(text)
    assert (found.text, found.order) == (shown, order)
