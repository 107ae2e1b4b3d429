"""Recall, ranks and precision of made-up embeddings."""

import numpy as np
import pandas as pd
import pytest
from retrieval_cases import alone, by_name, placed, scattered

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.analysis import retrieval as module
from avfuse.stages.fuse.analysis.embeddings import (
    Embeddings,
)
from avfuse.stages.fuse.analysis.retrieval import OTHER_MODALITY, cosine_similarity, evaluate_retrieval, nearest_clips


def test_a_case_with_ties_counted_by_hand() -> None:
    """Sound 0 and 1 find pictures 0, 1 and 4 equally near, sound 2 finds its own, sound 3 finds nothing; clip 4 has no
    sound and is a candidate all the same."""
    clips = placed([0, 0, 1, 2, 5], [0, 0, 1, 3, 0], no_audio=[4])
    found = evaluate_retrieval([clips], "audio", [np.array([0, 1, 0, 1, 1])], alone(5))
    assert found.candidates == 5
    assert found.queries["clip"].tolist() == [0, 1, 2, 3]
    assert found.queries["nearer"].tolist() == [0, 0, 0, 0]
    assert found.queries["tied"].tolist() == [3, 3, 1, 5]
    assert found.queries["rank"].tolist() == [2, 2, 1, 3]
    assert by_name(found.measures) == pytest.approx(
        {
            "recall@1": (1 / 3 + 1 / 3 + 1 + 1 / 5) / 4,
            "recall@5": 1,
            "mean reciprocal rank": (11 / 18 + 11 / 18 + 1 + 137 / 300) / 4,
            "median rank": 2,
            "precision@1": (1 / 3 + 2 / 3 + 1 + 3 / 5) / 4,
            "precision@5": (2 / 5 + 3 / 5 + 2 / 5 + 3 / 5) / 4,
        }
    )
    assert by_name(found.measures, "chance") == pytest.approx(
        {
            "recall@1": 1 / 5,
            "recall@5": 1,
            "mean reciprocal rank": 137 / 300,
            "median rank": 3,
            "precision@1": 1 / 2,
            "precision@5": 1 / 2,
        }
    )


def test_the_other_way_has_other_queries_and_candidates() -> None:
    clips = placed([0, 0, 1, 2, 5], [0, 0, 1, 3, 0], no_audio=[4])
    found = evaluate_retrieval([clips], "video", [np.zeros(5, dtype=np.int64)], alone(5))
    assert found.candidates == 4
    assert found.queries["rank"].tolist() == [1.5, 1.5, 1, 2.5]
    assert by_name(found.measures)["recall@1"] == pytest.approx((1 / 2 + 1 / 2 + 1 + 1 / 4) / 4)
    assert "recall@5" not in by_name(found.measures)


@pytest.mark.parametrize("source", OTHER_MODALITY)
def test_embeddings_that_tell_nothing_come_out_at_chance(source: str) -> None:
    clips = placed([0] * 20, [0] * 20, no_video=[3])
    for labels in (np.random.default_rng(0).integers(3, size=20), np.zeros(20, dtype=np.int64)):
        measures = evaluate_retrieval([clips], source, [labels], alone(20)).measures
        assert measures["value"].tolist() == pytest.approx(measures["chance"].tolist())
        assert not measures.isna().any(axis=None)


def test_without_ties_measures_are_those_of_sorted_lists() -> None:
    clips, labels = scattered(30, seed=1), np.arange(30) % 4
    order = np.argsort(-(clips.vectors["audio"] @ clips.vectors["video"].T), axis=1)
    ranks = 1 + np.array([np.flatnonzero(row == clip)[0] for clip, row in enumerate(order)])
    found = by_name(evaluate_retrieval([clips], "audio", [labels], alone(30)).measures)
    for k in (1, 5, 10):
        assert found[f"recall@{k}"] == pytest.approx((ranks <= k).mean())
        assert found[f"precision@{k}"] == pytest.approx((labels[order[:, :k]] == labels[:, None]).mean())
    assert found["mean reciprocal rank"] == pytest.approx((1 / ranks).mean())
    assert found["median rank"] == np.median(ranks)


def test_similarities_of_seeds_are_averaged() -> None:
    one, other = scattered(6, seed=1), scattered(6, seed=2)
    each = [cosine_similarity([clips], "video", np.arange(6)) for clips in (one, other)]
    np.testing.assert_allclose(cosine_similarity([one, other], "video", np.arange(6)), np.mean(each, axis=0), atol=2e-6)
    np.testing.assert_allclose(each[0], one.vectors["video"] @ one.vectors["audio"].T, atol=2e-6)


def test_clips_that_differ_by_rounding_are_equals() -> None:
    clips = placed([0, 1, 2], [0, 0, 2])
    clips.vectors["video"][1] *= np.float32(1 + 1e-7)
    assert clips.vectors["video"][1, 0] > 1
    assert evaluate_retrieval([clips], "audio", [np.arange(3)], alone(3)).queries["rank"].tolist() == [1.5, 2, 1]


def test_queries_a_few_at_a_time_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, labels = scattered(30, seed=1), np.arange(30) % 4
    at_once = evaluate_retrieval([clips], "audio", [labels], alone(30))
    monkeypatch.setattr(module, "_BYTES", 8 * 30 * 7)
    in_parts = evaluate_retrieval([clips], "audio", [labels], alone(30))
    pd.testing.assert_frame_equal(in_parts.queries, at_once.queries)
    pd.testing.assert_frame_equal(in_parts.measures, at_once.measures)


def test_of_one_class_are_clips_that_agree_in_every_target() -> None:
    clips = placed([0, 0, 0, 0], [0, 0, 0, 0])
    verb, noun = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    several = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0]], dtype=bool)

    def precision(*truth: np.ndarray) -> list[float]:
        return evaluate_retrieval([clips], "audio", truth, alone(4)).queries["precision@1"].tolist()

    assert precision(verb) == [0.5] * 4
    assert precision(verb, noun) == [0.25, 0.25, 0.5, 0.5]
    assert precision(several) == [0.75, 0.75, 0.5, 0.5]


def test_larger_groups_make_wider_intervals() -> None:
    clips, labels = scattered(200, seed=1), np.zeros(200, dtype=np.int64)
    audio = clips.vectors["audio"] + 0.9 * clips.vectors["video"] * (np.arange(200) // 20 % 2)[:, None]
    clips = Embeddings({**clips.vectors, "audio": audio}, clips.has)
    narrow, wide = (
        evaluate_retrieval([clips], "audio", [labels], groups).measures.set_index("measure").loc["recall@10"]
        for groups in (alone(200), alone(200) // 20)
    )
    assert narrow["value"] == wide["value"]
    assert wide["low"] < narrow["low"] < narrow["value"] < narrow["high"] < wide["high"]


def test_the_medians_interval_holds_the_median() -> None:
    """Of ranks that are as often 1, 2, ..., 99: 50."""
    generator = np.random.default_rng(0)
    spans = [module._median(generator.integers(1, 100, size=40).astype(float), 99, alone(40)) for _ in range(200)]
    assert all(span.low <= span.mean <= span.high for span in spans)
    assert 0.9 < np.mean([span.low <= 50 <= span.high for span in spans]) < 0.995
    assert module._median(np.ones(40), 99, alone(40)).high == 1
    assert module._median(np.ones(4), 99, np.zeros(4, dtype=object)).high == 99  # one group says nothing


def test_the_nearest_come_first_and_equals_in_their_order() -> None:
    clips = placed([0, 1, 2, 3], [1, 0, 0, 2], no_video=[3])
    found = nearest_clips([clips], "audio", 0, np.array([0, 1, 2, 3]))
    assert found["clip"].tolist() == [1, 2, 0]
    assert found["similarity"].tolist() == [1, 1, 0]
    assert found["rank"].tolist() == [1.5, 1.5, 3]
    assert nearest_clips([clips], "audio", 0, np.array([2, 3]))["clip"].tolist() == [2]
    with pytest.raises(UsageError, match="the query has no video feature: search --from audio"):
        nearest_clips([clips], "video", 3, np.array([0, 1]))
    with pytest.raises(UsageError, match="no clip of this split has a feature of video"):
        nearest_clips([clips], "audio", 0, np.array([3]))


def test_clips_that_are_no_pairs_cannot_be_measured() -> None:
    with pytest.raises(UsageError, match="1 of 3 clips have both sound and picture"):
        evaluate_retrieval(
            [placed([0, 1, 2], [0, 1, 2], no_audio=[0], no_video=[2])], "audio", [np.arange(3)], alone(3)
        )
