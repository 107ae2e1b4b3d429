"""Stage one takes clips from archives as from folders."""

from pathlib import Path

import pytest
from packing import PACKED, PLAIN, pack

from avfuse import features
from avfuse.features.cache import FeatureStore
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.stages.extract.run import ExtractSummary, extract

ASKED = resolve(["lite:frames", "lite:mfcc"], sampling="uniform:3")


def run(clips: list[Clip], cache: Path) -> ExtractSummary:
    return extract(clips, ASKED, cache, "set", device="cpu", progress=False, workers=2)


def rows(cache: Path) -> dict[tuple[str, str], bytes]:
    table = {}
    for spec in ASKED:
        loaded = features.load("set", spec.name, cache)
        table |= {(spec.name, clip): row.tobytes() for clip, row in zip(loaded.clip_ids, loaded.data, strict=True)}
    return table


def in_archives(folder: Path, media: Path) -> list[Clip]:
    """The same clips as `outside`, of which two lie in archives."""
    pack(folder / PLAIN, {"./video/good.avi": media / "good.avi"})
    pack(folder / PACKED, {"video/no_sound.avi": media / "no_sound.avi", "video/other.avi": media / "other.avi"})
    return [
        Clip("good", folder / PLAIN / "video" / "good.avi"),
        Clip("no_sound", folder / PACKED / "video" / "no_sound.avi"),
        Clip("other", folder / PACKED / "video" / "other.avi", 0.5, 1.5),
        Clip("silent", media / "silent.avi"),
    ]


def outside(media: Path) -> list[Clip]:
    return [
        Clip("good", media / "good.avi"),
        Clip("no_sound", media / "no_sound.avi"),
        Clip("other", media / "other.avi", 0.5, 1.5),
        Clip("silent", media / "silent.avi"),
    ]


@pytest.mark.slow
def test_features_of_archived_clips_are_those_of_files(media: Path, tmp_path: Path) -> None:
    clips = in_archives(tmp_path, media)
    summary = run(clips, tmp_path / "cache")
    assert (summary.new, summary.problems, summary.no_audio) == (4, {}, ["no_sound"])
    run(outside(media), tmp_path / "expected")
    assert rows(tmp_path / "cache") == rows(tmp_path / "expected")
    assert run(clips, tmp_path / "cache").new == 0
    assert run(outside(media), tmp_path / "cache").new == 0  # unpacked, they are the same clips
    missing = Clip("missing", tmp_path / PACKED / "video" / "missing.avi")
    problem = run([*clips, missing], tmp_path / "cache").problems["missing"][0]
    assert "'video/missing.avi' is not there in " in problem


@pytest.mark.slow
def test_another_file_under_the_same_name_is_extracted_again(media: Path, tmp_path: Path) -> None:
    clips = in_archives(tmp_path, media)
    run(clips, tmp_path / "cache")
    changed = {"video/other.avi": media / "good.avi", "video/no_sound.avi": media / "no_sound.avi"}
    pack(tmp_path / "new.tar.gz", changed).replace(tmp_path / PACKED)
    assert run(clips, tmp_path / "cache").new == 1
    assert FeatureStore(tmp_path / "cache", "set", ASKED[0]).lookup(clips).extra == 0
    assert run(clips, tmp_path / "cache").new == 0
    expected = [*outside(media)[:2], Clip("other", media / "good.avi", 0.5, 1.5), outside(media)[3]]
    run(expected, tmp_path / "expected")
    assert rows(tmp_path / "cache").keys() == rows(tmp_path / "expected").keys()
