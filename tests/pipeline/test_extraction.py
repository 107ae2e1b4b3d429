"""What an extraction prints at its end, and of the licences of weights."""

from pathlib import Path

from avfuse.features.backbones import WeightsChoice
from avfuse.features.feature_names import resolve
from avfuse.pipeline.extraction import licence_notices, summary_lines
from avfuse.stages.extract.run import ExtractSummary, FeatureSummary

SPECS = resolve(["lite:frames", "lite:mfcc"], sampling="uniform:2")


def summary(**fields: object) -> ExtractSummary:
    features = [FeatureSummary(spec, Path(spec.folder), done=2, failed=1) for spec in SPECS]
    return ExtractSummary(features=features, **{"new": 3, **fields})  # type: ignore[arg-type]


def test_clips_with_the_same_warning_share_a_line() -> None:
    repeats = ("uniform:2 needs 2 frames, the clip has 1 frame: they repeat",)
    lines = list(summary_lines(summary(notes={"a": repeats, "b": ("cut short",), "c": repeats}), 3))
    start = lines.index("used with warnings (3):")
    assert lines[start + 1 :] == [f"  a and 1 other: {repeats[0]}", "  b: cut short"]


def test_failed_clips_are_listed_with_their_reasons() -> None:
    lines = list(summary_lines(summary(problems={"a": ["open: file is empty", "worker: died"]}), 3))
    assert lines[-2:] == ["could not be used (1):", "  a: open: file is empty; worker: died"]


def test_cached_and_retried_clips_are_counted() -> None:
    assert next(summary_lines(summary(retried=1), 3)) == "3 of 3 clips processed (1 had failed before)"
    assert next(summary_lines(summary(), 5)) == "3 of 5 clips processed, the others were in the cache"
    assert next(summary_lines(summary(new=0), 5)) == "nothing to extract: all 5 clips are in the cache"


def test_weights_for_commercial_use_need_no_notice() -> None:
    assert licence_notices(SPECS, WeightsChoice.parse("auto")) == []
