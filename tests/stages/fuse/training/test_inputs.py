"""Views are drawn and averaged, modalities dropped, and what is streamed is what lies in memory."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_sets import INPUTS, kitchen

from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality, StreamedModality
from avfuse.stages.fuse.training.head_trainer import HeadTrainer, predict
from avfuse.stages.fuse.training.inputs import HeadBatch, HeadInputs
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_head

IMAGES = ["lite:mfcc", "lite:mfcc:h", "lite:chromagram", "lite:chromagram:h"]
CLIPS, DIM = 40, 1280


def numbered(specs: Sequence[str], data: FusionData) -> FusionData:
    """Audio whose values say which feature of `specs` they are of."""
    found = resolve(specs)
    layout = FeatureLayout.of("audio", found)
    count = len(data.table)
    rows = {spec.key: np.full((count, *spec.shape), number, np.float32) for number, spec in enumerate(found)}
    modality = Modality.of(layout, rows, np.ones(count, dtype=bool), "cpu")
    return replace(data, modalities={**data.modalities, "audio": modality})


def inputs_of(data: FusionData, head: str = "audio", **settings: object) -> HeadInputs:
    training = TrainingOverrides(**settings)
    inputs = HeadInputs.of(head, data, data.train, training.options(head), training.recipe(head))
    for modality_input in inputs.template.modality_inputs().values():  # values stay what they are
        modality_input.mean.zero_(), modality_input.deviation.fill_(1)
    again = {name: modality for name, modality in data.modalities.items() if name in inputs.views}
    for name, modality in again.items():
        modality_input = inputs.template.modality_inputs()[name]
        whole = modality.tokens[:, None] if modality.views is None else modality.views
        stored = modality_input.standardise(whole, modality.present)
        inputs.stored[name] = stored if inputs.views[name].count > 1 else modality_input.to_layout(stored[:, 0])  # type: ignore[index]
    return inputs


def draw(inputs: HeadInputs, clips: int, seed: int = 0, **settings: object) -> HeadBatch:
    recipe = TrainingOverrides(**settings).recipe(inputs.template.name)
    return inputs.training_batch(torch.arange(clips), recipe, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def data(make_data: Callable[..., FusionData]) -> FusionData:
    return make_data(clips_per_class=20, missing=0.0)


def test_every_image_of_a_clip_draws_its_view_for_itself(data: FusionData) -> None:
    inputs = inputs_of(numbered(IMAGES, data))
    images = draw(inputs, 100).prepared["audio"].reshape(100, 2, DIM)
    assert (images == images[:, :, :1]).all()
    chosen = images[:, :, 0].int().tolist()
    assert {tuple(each) for each in chosen} == {(0, 2), (0, 3), (1, 2), (1, 3)}
    assert draw(inputs, 100, seed=1).prepared["audio"].tolist() != draw(inputs, 100).prepared["audio"].tolist()


def test_at_test_pictures_are_as_they_are(data: FusionData) -> None:
    (_, passes) = next(iter(inputs_of(numbered(IMAGES, data)).evaluation_batches(torch.arange(4))))
    (batch,) = passes
    assert batch.prepared["audio"].reshape(4, 2, DIM)[:, :, 0].tolist() == [[0, 2]] * 4


def test_without_views_training_sees_what_tests_see(data: FusionData) -> None:
    inputs = inputs_of(numbered(IMAGES, data), views=False)
    assert draw(inputs, 20, views=False).prepared["audio"].reshape(20, 2, DIM)[:, :, 0].unique(dim=0).tolist() == [
        [0, 2]
    ]


def test_frames_of_a_clip_are_drawn_from_one_window_and_windows_are_averaged_at_test(data: FusionData) -> None:
    windows = ["lite:frames:1of3", "lite:frames:2of3", "lite:frames:3of3"]
    found = resolve(windows, sampling="uniform:4")
    layout = FeatureLayout.of("video", found)
    count = len(data.table)
    rows = {spec.key: np.full((count, *spec.shape), number, np.float32) for number, spec in enumerate(found)}
    modality = Modality.of(layout, rows, np.ones(count, dtype=bool), "cpu")
    inputs = inputs_of(replace(data, modalities={"video": modality}), "video", video="flatten")
    frames = draw(inputs, 60).prepared["video"].reshape(60, 4, DIM)[:, :, 0]
    assert (frames == frames[:, :1]).all()
    assert len(frames[:, 0].unique()) == 3
    (_, passes) = next(iter(inputs.evaluation_batches(torch.arange(2))))
    assert [batch.prepared["video"][0, 0].item() for batch in passes] == [0, 1, 2]
    head = inputs.template
    expected = torch.stack([head(batch.prepared, batch.present)["logits"] for batch in passes]).mean(dim=0)
    torch.testing.assert_close(predict(head, inputs, torch.arange(2)), expected.detach())


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (["lite:mfcc", "lite:mfcc:h", "lite:chromagram"], "different views: h, id of lite:mfcc, id of lite:chromagram"),
        (["lite:mfcc:h", "lite:mfcc:v"], "without the picture as it is"),
    ],
)
def test_views_that_do_not_fit_together_are_refused(features: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        FeatureLayout.of("audio", resolve(features))


def test_fewer_features_are_the_same_clips(data: FusionData) -> None:
    fewer = numbered(IMAGES, data).only({"audio": ["lite:chromagram"]})
    assert fewer.shapes["audio"].length == 1
    assert fewer.modalities["audio"].views[0, :, 0, 0].tolist() == [2, 3]
    assert [spec.name for spec in fewer.modalities["audio"].specs] == IMAGES[2:]
    with pytest.raises(UsageError, match=r"'lite:waveplot' is not among those loaded: lite:mfcc, lite:chromagram"):
        numbered(IMAGES, data).only({"audio": ["lite:waveplot"]})


def test_modality_dropout_takes_one_modality_of_clips_that_have_both(make_data: Callable[..., FusionData]) -> None:
    data = make_data(clips_per_class=200, missing=0.1)
    training = TrainingOverrides(modality_dropout=0.4)
    inputs = HeadInputs.of("mlp", data, data.train, training.options("mlp"), training.recipe("mlp"))
    count = len(data.table)
    batch = draw(inputs, count, modality_dropout=0.4)
    before = {name: modality.present for name, modality in data.modalities.items()}
    both = before["video"] & before["audio"]
    for name, mask in batch.present.items():
        assert mask is not None
        assert not (mask & ~before[name]).any()
        lost = (both & ~mask).sum() / both.sum()
        assert 0.15 < lost < 0.25
    assert (batch.present["video"] | batch.present["audio"])[both].all()
    assert (batch.present["video"] == before["video"])[~both].all()


@pytest.mark.slow
def test_a_head_trained_with_modality_dropout_works_on_either(make_data: Callable[..., FusionData]) -> None:
    """Of six classes the picture tells two apart and the sound three: with one of them 1/3 or 1/2 can be right."""
    data = make_data(clips_per_class=80, missing=0.0, noise=0.3)
    truth = data.truth[0][data.test].numpy()
    for head in ("mlp", "bottleneck"):
        trained = train_head(head, data, 0, TrainingOverrides(epochs=15, modality_dropout=0.4))
        reached = {name: (logits.argmax(axis=1) == truth).mean() for name, logits in trained.without.items()}
        assert (trained.logits.argmax(axis=1) == truth).mean() > 0.9
        assert reached["audio"] > 0.25, reached
        assert reached["video"] > 0.4, reached


def test_without_a_modality_it_is_never_seen(data: FusionData) -> None:
    training = TrainingOverrides(epochs=3, without="video")
    seen = train_head("mlp", data, 0, training).logits
    video = data.modalities["video"]
    noise = Modality(torch.randn_like(video.tokens), video.present)
    other = replace(data, modalities={**data.modalities, "video": noise})
    np.testing.assert_array_equal(train_head("mlp", other, 0, training).logits, seen)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int | None], FusionData]:
    """The same made-up kitchen, with some clips that lack a modality, in memory or streamed."""
    cache = tmp_path_factory.mktemp("streamed")
    manifest = kitchen(cache)

    def load(memory_bytes: int | None) -> FusionData:
        return load_data(manifest, cache, INPUTS, memory_bytes=memory_bytes)

    return load


def streamed_inputs(data: FusionData, head: str = "crossattn", **settings: object) -> HeadInputs:
    training = TrainingOverrides(**settings)
    return HeadInputs.of(head, data, data.train, training.options(head), training.recipe(head))


def epoch(trainer: HeadTrainer) -> list[HeadBatch]:
    return list(trainer.augmented_batches(trainer.shuffled_batches()))


def test_the_largest_modality_is_streamed_first(on_disk: Callable[[int | None], FusionData]) -> None:
    in_memory = on_disk(None)
    audio_bytes = in_memory.modalities["audio"].tokens.numel() * 4
    assert not in_memory.streamed
    assert list(on_disk(2 * audio_bytes).streamed) == ["video"]
    assert set(on_disk(0).streamed) == {"video", "audio"}


@pytest.mark.parametrize("budget", ["nothing", "audio"])
def test_streamed_predictions_are_those_of_features_in_memory(
    on_disk: Callable[[int | None], FusionData], budget: str
) -> None:
    whole = on_disk(None)
    streamed = on_disk(0 if budget == "nothing" else 2 * whole.modalities["audio"].tokens.numel() * 4)
    inputs = [streamed_inputs(each) for each in (whole, streamed)]
    for name, modality_input in inputs[0].template.modality_inputs().items():
        torch.testing.assert_close(inputs[1].template.modality_inputs()[name].mean, modality_input.mean)
        torch.testing.assert_close(inputs[1].template.modality_inputs()[name].deviation, modality_input.deviation)
    torch.manual_seed(0)
    head = inputs[0].new_head()
    shuffled = torch.randperm(len(whole.table))[:100]
    torch.testing.assert_close(predict(head, inputs[1], shuffled), predict(head, inputs[0], shuffled))


def test_every_clip_comes_once_an_epoch_in_another_order(on_disk: Callable[[int | None], FusionData]) -> None:
    data = on_disk(0)
    training = TrainingOverrides(batch_size=16)
    trainer = HeadTrainer(streamed_inputs(data), data.truth, training.recipe("crossattn"), seed=3)
    epochs = [torch.cat([batch.index for batch in epoch(trainer)]) for _ in range(2)]
    for order in epochs:
        assert sorted(order.tolist()) == sorted(data.train.tolist())
    assert epochs[0].tolist() != epochs[1].tolist()


def test_clips_that_lack_what_is_streamed_come_all_the_same(tmp_path: Path) -> None:
    manifest = kitchen(tmp_path)
    data = load_data(manifest, tmp_path, INPUTS, memory_bytes=0)
    video = data.modalities["video"]
    assert isinstance(video, StreamedModality)
    few = video.present.clone()
    few[data.train[::3]] = False
    alone = replace(data, modalities={"video": StreamedModality(few, video.layout, video.stores)})
    inputs = streamed_inputs(alone, "video")
    trainer = HeadTrainer(inputs, data.truth, TrainingOverrides(batch_size=16).recipe("video"), seed=0)
    assert sorted(torch.cat([batch.index for batch in epoch(trainer)]).tolist()) == sorted(data.train.tolist())
    assert predict(inputs.template, inputs, data.train).isfinite().all()


def test_training_on_streamed_features_learns_and_repeats_itself(on_disk: Callable[[int | None], FusionData]) -> None:
    data = on_disk(0)
    first, second = (train_head("mlp", data, 0, TrainingOverrides(epochs=12)) for _ in range(2))
    np.testing.assert_array_equal(first.logits, second.logits)
    right = [
        part.argmax(axis=1) == truth[data.test].numpy()
        for part, truth in zip(data.targets.split(first.logits), data.truth, strict=True)
    ]
    assert np.logical_and(*right).mean() > 0.7


def test_balanced_batches_need_features_in_memory(on_disk: Callable[[int | None], FusionData]) -> None:
    data = on_disk(0)
    trainer = HeadTrainer(
        streamed_inputs(data), data.truth, TrainingOverrides(balanced="2x4").recipe("crossattn"), seed=0
    )
    with pytest.raises(UsageError, match="need all features in memory: raise --memory"):
        epoch(trainer)
