"""Classes and confusions that change between two rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.analysis.class_gains import class_gains
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.runs.run_folder import SeedResult


def predictions(row: str, guesses: Sequence[Sequence[int]], truth: Sequence[int] | np.ndarray) -> list[SeedResult]:
    """A seed for each list of guesses."""
    known = np.asarray(truth)
    return [
        SeedResult(
            row, seed, Path(), {}, [f"clip{i}" for i in range(len(known))], (known,), np.eye(3)[each], pd.DataFrame()
        )
        for seed, each in enumerate(guesses)
    ]


class TestClassGains:
    targets = Targets((LearnedTarget("label", ("a", "b", "c")),))

    def test_classes_and_confusions_are_those_counted_by_hand(self) -> None:
        truth = [0, 0, 0, 0, 1, 1]
        before = predictions("audio", [[0, 1, 1, 2, 1, 1], [0, 1, 0, 2, 1, 0]], truth)
        after = predictions("mlp", [[0, 0, 0, 2, 0, 1]], truth)
        gains = class_gains(self.targets, before, after)
        # a: right before in shares 1, 0, .5, 0, and now 1, 1, 1, 0; b: 1, .5, and now 0, 1
        expected = pd.DataFrame(
            {
                "target": "label",
                "class": ["a", "b"],
                "clips": [4, 2],
                "before": [0.375, 0.75],
                "after": [0.75, 0.5],
                "difference": [0.375, -0.25],
                "fixed": [1.5, 0.5],
                "broken": [0.0, 1.0],
            }
        )
        pd.testing.assert_frame_equal(gains.classes, expected)
        expected = pd.DataFrame(
            {
                "target": "label",
                "true": ["a", "b"],
                "predicted": ["b", "a"],
                "clips": [4, 2],
                "before": [0.375, 0.25],
                "after": [0.0, 0.5],
                "difference": [-0.375, 0.25],
            }
        )
        pd.testing.assert_frame_equal(gains.confusions, expected, check_dtype=False)

    def test_every_target_is_looked_at_for_itself(self) -> None:
        two = Targets((LearnedTarget("verb", ("a", "b", "c")), LearnedTarget("noun", ("x", "y"))))
        truth = (np.array([0, 1]), np.array([1, 1]))

        def run(verbs: list[int], nouns: list[int]) -> list[SeedResult]:
            logits = np.concatenate([np.eye(3)[verbs], np.eye(2)[nouns]], axis=1)
            return [SeedResult("mlp", 0, Path(), {}, ["one", "other"], truth, logits, pd.DataFrame())]

        gains = class_gains(two, run([0, 0], [0, 0]), run([0, 1], [0, 1]))
        lines = gains.classes.set_index(["target", "class"])["difference"]
        assert lines.to_dict() == {("verb", "b"): 1, ("verb", "a"): 0, ("noun", "y"): 0.5}
        pairs = gains.confusions.set_index(["target", "true", "predicted"])["difference"]
        assert pairs.to_dict() == {("verb", "b", "a"): -1, ("noun", "y", "x"): -0.5}

    def test_a_clip_of_several_classes_counts_under_each(self) -> None:
        several = Targets((LearnedTarget("label", ("a", "b", "c"), several=True, sigmoid=True),))
        truth = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
        gains = class_gains(several, predictions("one", [[2, 1]], truth), predictions("other", [[0, 1]], truth))
        assert gains.classes.set_index("class")["difference"].to_dict() == {"a": 1, "b": 0.5}
        assert gains.classes.set_index("class")["clips"].to_dict() == {"a": 1, "b": 2}
        pairs = gains.confusions.set_index(["true", "predicted"])["difference"]
        assert pairs.to_dict() == {("a", "c"): -1, ("b", "c"): -0.5}

    def test_equal_rows_change_nothing(self) -> None:
        runs = predictions("mlp", [[0, 1, 2]], [0, 1, 1])
        gains = class_gains(self.targets, runs, runs)
        assert (gains.classes[["difference", "fixed", "broken"]] == 0).all(axis=None)
        assert len(gains.confusions) == 0

    def test_other_clips_are_refused(self) -> None:
        with pytest.raises(UsageError, match="'audio' and 'mlp' are not of the same test clips"):
            class_gains(self.targets, predictions("audio", [[0, 1]], [0, 1]), predictions("mlp", [[0]], [0]))
