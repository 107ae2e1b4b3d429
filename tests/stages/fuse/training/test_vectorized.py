"""Which heads train side by side."""

from collections.abc import Callable

from avfuse.stages.fuse.data.dataset import FusionData
from avfuse.stages.fuse.training.job import TrainingJob
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.vectorized import group_key, job_groups


def test_companies_are_of_one_kind_and_no_larger_than_allowed() -> None:
    items, kinds = list(range(9)), ["a", "b", "a", None, "a", "b", None, "a", "a"]
    assert job_groups(items, kinds, max_size=3) == [[0, 2, 4], [1, 5], [3], [6], [7, 8]]
    assert job_groups([], []) == []


def test_heads_of_one_kind_differ_in_nothing_that_a_pass_shares(make_data: Callable[..., FusionData]) -> None:
    data = make_data(clips_per_class=8)

    def kind(head: str = "mlp", seed: int = 0, **settings: object) -> str | None:
        return group_key(TrainingJob.of(head, data, seed, TrainingOverrides(**settings)))

    assert kind() == kind(seed=1) == kind(lr=1e-2, weight_decay=0, l1=1e-5)
    others = [kind("average"), kind(hidden="32"), kind(batch_size=8), kind(without="audio")]
    assert len({kind(), *others}) == 5


def test_heads_that_are_no_faster_together_are_alone(make_data: Callable[..., FusionData]) -> None:
    data = make_data(clips_per_class=8)
    assert (
        group_key(TrainingJob.of("crossattn", data, 0, TrainingOverrides())) is None
    )  # attention has no batched form on a CPU
    assert group_key(TrainingJob.of("bottleneck", data, 0, TrainingOverrides(avc=0.5))) is None
