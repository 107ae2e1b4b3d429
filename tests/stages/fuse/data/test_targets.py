"""Several targets, targets of several classes, and clips that are only predicted on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_sets import INPUTS, kitchen, sounds

from avfuse.features.errors import UsageError
from avfuse.manifests import Manifest, Target
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.data.targets import LearnedTarget, Targets
from avfuse.stages.fuse.evaluation.metrics import evaluate
from avfuse.stages.fuse.heads import ModalityShape, build_head
from avfuse.stages.fuse.heads.base import STANDARD
from avfuse.stages.fuse.losses import multi_target_loss
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import shuffled_truth, train_head

QUICK = TrainingOverrides(epochs=6, lr=3e-3)
JOINT = ("average", "mlp", "crossattn", "bottleneck")
TWO = Targets((LearnedTarget("verb", ("a", "b", "c")), LearnedTarget("noun", ("x", "y"))))


def measured(name: str, data: FusionData, training: TrainingOverrides = QUICK, seed: int = 0) -> dict[str, float]:
    trained = train_head(name, data, seed, training)
    return evaluate(data.targets, trained.logits, [each[data.test].numpy() for each in data.truth])


@pytest.fixture(scope="module")
def kitchen_data(tmp_path_factory: pytest.TempPathFactory) -> FusionData:
    cache = tmp_path_factory.mktemp("kitchen")
    return load_data(kitchen(cache), cache, INPUTS)


def test_classes_are_the_manifests_and_not_those_that_occur(kitchen_data: FusionData) -> None:
    assert [len(target.classes) for target in kitchen_data.targets] == [4, 5]
    verb, noun = kitchen_data.truth
    assert verb.max() == 2
    assert noun.max() == 3
    labels = kitchen_data.table["label"][kitchen_data.test.numpy()]
    told = [f"verb{v} noun{n}" for v, n in zip(verb[kitchen_data.test], noun[kitchen_data.test], strict=True)]
    assert labels.tolist() == told
    trained = train_head("mlp", kitchen_data, 0, TrainingOverrides(epochs=1))
    assert trained.logits.shape == (len(kitchen_data.test), 9)
    assert np.isfinite(trained.logits).all()


def changed(manifest: Manifest, change: Callable[..., None]) -> Manifest:
    table = manifest.table.copy()
    change(table)
    return replace(manifest, table=table)


def test_a_clip_lacking_a_target_is_left_out_and_an_unlabelled_one_kept(tmp_path: Path) -> None:
    manifest = kitchen(tmp_path, clips=80, unlabelled=10)

    def change(table) -> None:  # type: ignore[no-untyped-def]
        table.loc[table["clip_id"] == "P01_0", "noun"] = None
        table.loc[table["clip_id"] == "P01_79", ["verb", "noun"]] = ["verb0", "noun0"]

    data = load_data(changed(manifest, change), tmp_path, INPUTS)
    assert data.excluded == {"P01_0": "no label"}
    assert data.table["clip_id"].iloc[data.unlabelled.numpy()].tolist() == [f"P01_{n}" for n in range(70, 80)]
    assert all((each[data.unlabelled] == -1).all() for each in data.truth)  # what a table says of them is not looked at
    split = torch.cat([data.train, data.validation, data.test, data.unlabelled])
    assert sorted(split.tolist()) == list(range(79))


def test_unlabelled_clips_without_features_are_named(tmp_path: Path) -> None:
    manifest = kitchen(tmp_path, clips=80, unlabelled=10)

    def change(table) -> None:  # type: ignore[no-untyped-def]
        table.loc[79, "clip_id"] = "P01_unseen"

    data = load_data(changed(manifest, change), tmp_path, INPUTS)
    assert data.unpredicted == ("P01_unseen",)
    assert "not extracted" in data.excluded["P01_unseen"]


def test_validation_keeps_the_proportions_of_targets_where_clips_have_no_label(tmp_path: Path) -> None:
    manifest = kitchen(tmp_path, clips=400)

    def change(table) -> None:  # type: ignore[no-untyped-def]
        table["label"] = None

    data = load_data(changed(manifest, change), tmp_path, INPUTS)
    for truth in data.truth:
        shares = [torch.bincount(truth[part], minlength=3) / len(part) for part in (data.train, data.validation)]
        torch.testing.assert_close(*shares, atol=0.06, rtol=0)


@pytest.mark.slow
def test_joint_heads_tell_verbs_by_the_picture_and_nouns_by_the_sound(kitchen_data: FusionData) -> None:
    for name in JOINT:
        reached = measured(name, kitchen_data)
        assert min(reached["verb_top1"], reached["noun_top1"]) > 0.9, (name, reached)
        assert reached["action_top1"] > 0.85, (name, reached)
    deaf, blind = measured("video", kitchen_data), measured("audio", kitchen_data)
    assert deaf["verb_top1"] > 0.9 > 0.5 > deaf["noun_top1"]
    assert blind["noun_top1"] > 0.9 > 0.55 > blind["verb_top1"]


@pytest.mark.parametrize("name", ["average", "mlp"])
def test_with_shuffled_targets_actions_fall_to_chance(kitchen_data: FusionData, name: str) -> None:
    reached = np.mean(
        [
            measured(name, kitchen_data, TrainingOverrides(**QUICK.settings, shuffle_labels=True), s)["action_top1"]
            for s in (0, 1)
        ]
    )
    chance = 1 / 12
    assert abs(reached - chance) < 4 * (chance * (1 - chance) / len(kitchen_data.test)) ** 0.5


def test_shuffling_keeps_the_targets_of_a_clip_together(kitchen_data: FusionData) -> None:
    fitted = torch.cat([kitchen_data.train, kitchen_data.validation])
    shuffled = torch.stack(shuffled_truth(kitchen_data, 0))
    original = torch.stack(kitchen_data.truth)
    assert not torch.equal(shuffled[:, fitted], original[:, fitted])
    assert sorted(shuffled[:, fitted].T.tolist()) == sorted(original[:, fitted].T.tolist())
    torch.testing.assert_close(shuffled[:, kitchen_data.test], original[:, kitchen_data.test])


def test_the_epoch_is_the_best_in_all_targets_at_once(kitchen_data: FusionData) -> None:
    trained = train_head("audio", kitchen_data, 0, QUICK)
    assert kitchen_data.targets.selection == "action_top1"
    scores = [epoch.validation_score for epoch in trained.curve]
    assert scores[trained.best_epoch - 1] == max(scores) < 0.6  # nouns alone would be over 0.9


@pytest.mark.parametrize("name", [*STANDARD, "svc"])
def test_unlabelled_clips_have_no_say(tmp_path: Path, name: str) -> None:
    manifest = kitchen(tmp_path, clips=120, unlabelled=30)
    without = replace(manifest, table=manifest.table[manifest.table["split"] != "unlabelled"])
    training = TrainingOverrides(epochs=2)
    with_them = train_head(name, load_data(manifest, tmp_path, INPUTS), 0, training)
    alone = train_head(name, load_data(without, tmp_path, INPUTS), 0, training)
    for key, tensor in with_them.head.state_dict().items():
        assert tensor.numpy().tobytes() == alone.head.state_dict()[key].numpy().tobytes(), key
    assert with_them.logits.tobytes() == alone.logits.tobytes()
    assert with_them.unlabelled_logits.shape == (30, 9)
    assert alone.unlabelled_logits.shape == (0, 9)


def test_unlabelled_clips_are_predicted_as_well_as_others(tmp_path: Path) -> None:
    known = kitchen(tmp_path, unlabelled=0)
    hidden = np.arange(len(known)) >= 240
    table = known.table.copy()
    table.loc[hidden, ["label", "verb", "noun"]] = None
    table.loc[hidden, "split"] = "unlabelled"
    data = load_data(replace(known, table=table), tmp_path, INPUTS)
    logits = train_head("mlp", data, 0, QUICK).unlabelled_logits
    verb, noun = (part.argmax(axis=1) for part in data.targets.split(logits))
    told = [f"verb{v} noun{n}" for v, n in zip(verb, noun, strict=True)]
    assert np.mean([a == b for a, b in zip(told, known.table["label"][hidden], strict=True)]) > 0.85


def test_the_loss_is_the_mean_over_targets() -> None:
    logits = torch.randn(7, 5)
    truth = [torch.randint(3, (7,)), torch.randint(2, (7,))]
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits[:, :3], truth[0]) + cross_entropy(logits[:, 3:], truth[1])) / 2
    torch.testing.assert_close(multi_target_loss(TWO, logits, truth), expected)


def test_late_fusion_averages_each_target_for_itself() -> None:
    shapes = {"video": ModalityShape(2, 4), "audio": ModalityShape(1, 4)}
    several = LearnedTarget("sounds", ("p", "q"), several=True, sigmoid=True)
    targets = Targets((*TWO, several))
    torch.manual_seed(0)
    head = build_head("average", shapes, targets).eval()
    tokens = {name: torch.randn(3, shape.length, shape.dim) * 3 for name, shape in shapes.items()}
    present = {name: torch.ones(3, dtype=torch.bool) for name in shapes}
    present["audio"][0] = False
    outputs = head.predict(tokens, present)
    video, audio, both = (targets.split(outputs[name]) for name in ("video", "audio", "logits"))
    for number, probability in enumerate((lambda x: x.softmax(1), lambda x: x.softmax(1), torch.sigmoid)):
        expected = (probability(video[number]) + probability(audio[number])) / 2
        expected[0] = probability(video[number])[0]
        torch.testing.assert_close(probability(both[number]), expected)


def test_a_set_of_several_classes_a_clip_is_learned_class_by_class(tmp_path: Path) -> None:
    data = load_data(sounds(tmp_path), tmp_path, INPUTS)
    assert data.targets[0].sigmoid
    assert data.targets.selection == "map"
    prevalence = data.truth[0][data.test].float().mean().item()
    for name in ("average", "mlp", "crossattn"):
        assert measured(name, data)["map"] > 0.85 > 3 * prevalence, name
    control = [
        measured("mlp", data, TrainingOverrides(**QUICK.settings, shuffle_labels=True), seed)["map"] for seed in (0, 1)
    ]
    assert np.mean(control) < prevalence + 0.12


def test_one_class_in_training_and_several_in_test(tmp_path: Path) -> None:
    """As VGGSounder is to VGGSound."""
    data = load_data(sounds(tmp_path, several_in_train=False), tmp_path, INPUTS)
    assert not data.targets[0].sigmoid
    assert data.targets.selection == "hit1"
    chance = data.truth[0][data.test].float().mean().item()
    reached = measured("mlp", data)
    assert reached["hit1"] > 0.85 > 2 * chance
    assert reached["subset"] < 0.5  # one class is predicted, and most clips have more


def test_a_class_of_a_target_of_several_is_enough_and_none_is_too_few(tmp_path: Path) -> None:
    manifest = sounds(tmp_path, clips=80)

    def change(table) -> None:  # type: ignore[no-untyped-def]
        table.loc[0, "labels"] = None

    data = load_data(changed(manifest, change), tmp_path, INPUTS)
    assert data.excluded == {"s0": "no label"}
    assert data.truth[0].any(dim=1).all()


def test_other_targets_are_other_data(tmp_path: Path) -> None:
    manifest = kitchen(tmp_path, clips=80)
    verbs_only = replace(manifest, targets=manifest.targets[:1], table=manifest.table.drop(columns="noun"))
    more = Target("verb", (*manifest.targets[0].classes, "verb9"))
    more_classes = replace(manifest, targets=(more, manifest.targets[1]))
    marks = {load_data(each, tmp_path, INPUTS).fingerprint for each in (manifest, verbs_only, more_classes)}
    assert len(marks) == 3


def test_a_target_cannot_take_the_name_of_all_together() -> None:
    with pytest.raises(UsageError, match="cannot be called 'all'"):
        Targets((LearnedTarget("all", ("a",)), LearnedTarget("noun", ("x",))))
