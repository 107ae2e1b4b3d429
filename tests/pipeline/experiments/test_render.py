"""Cells of a table of results."""

import numpy as np

from avfuse.pipeline.experiments import render
from avfuse.stages.fuse.evaluation.statistics import paired_test


def test_heads_that_judge_every_clip_alike_have_no_interval_of_certainty() -> None:
    same = np.ones((2, 6), dtype=bool)
    groups = np.array(list("aabbcc"), dtype=object)
    assert render._difference(paired_test(same, same, groups)) == "0.0 (none is judged otherwise)"
    other = same.copy()
    other[:, 0] = False
    assert render._difference(paired_test(other, same, groups)).startswith("-16.7 (")
