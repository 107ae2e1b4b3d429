"""What heads are trained on besides classification: from recipes, through fits and checkpoints, to what is learned."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from made_up_sets import INPUTS, kitchen
from torch import Tensor

from avfuse.features.cache import ChunkResult, FeatureStore
from avfuse.features.cache.fingerprint import MISSING
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.inputs.filter_bank import HALF_RANGE, MEAN
from avfuse.manifests import Manifest
from avfuse.pipeline.cli.main import avfuse
from avfuse.stages.fuse.data.audio_masking import AUDIO_GRIDS
from avfuse.stages.fuse.data.dataset import FusionData, load_data
from avfuse.stages.fuse.data.filter_banks import FilterBanks
from avfuse.stages.fuse.data.modality import FeatureLayout, Modality
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads import ModalityShape, head_names
from avfuse.stages.fuse.heads.dropout import GeneratorMasks, dropout_source
from avfuse.stages.fuse.losses.contrastive import audio_video_contrast, intra_modality_contrast
from avfuse.stages.fuse.losses.masked_reconstruction import MaskedReconstruction
from avfuse.stages.fuse.losses.matching import Pairs
from avfuse.stages.fuse.runs.experiment import needs_filter_banks, run_experiment
from avfuse.stages.fuse.training import auxiliary_losses as module
from avfuse.stages.fuse.training.checkpoint import Checkpoint
from avfuse.stages.fuse.training.head_trainer import HeadTrainer
from avfuse.stages.fuse.training.inputs import HeadBatch, HeadInputs
from avfuse.stages.fuse.training.overrides import TrainingOverrides
from avfuse.stages.fuse.training.trainer import train_head
from avfuse.stages.fuse.training.vectorized import train_epochs, trains_vmapped

DIM, FRAMES, FACTORS, CLASSES, CLS = 16, 5, 6, 3, 2
GRID = AUDIO_GRIDS[2]
PADDING = -MEAN / HALF_RANGE
SMALL = {"dim": 16, "heads": 2, "dropout": 0.1, "batch_size": 16, "epochs": 4}
EVERYTHING = {"avc": 0.5, "imc": 0.1, "avm": 0.1, "masked": 0.1}
ONE_BY_ONE = [
    {"avc": 0.5},
    {"avc": 0.5, "contrast_labels": True},
    {"imc": 0.5},
    {"avm": 0.5},
    {"avc": 1e-9, "avm": 0.5},
    {"masked": 0.5},
    {"masked": 0.5, "mask": "random"},
]


def make(clips: int = 48, missing: float = 0.0, seed: int = 0) -> FusionData:
    """Clips of a few factors each, which its frames, its sound's tokens and its filter bank all tell of; the class is
    the largest of the first three. Sound is the same bands all along, in every token's patch alike; a clip's length
    varies, and one clip is almost nothing."""
    chance = np.random.default_rng(seed)
    factors = chance.standard_normal((clips, FACTORS))
    waves = np.arange(GRID.patch) / GRID.patch * np.arange(1, FACTORS // 2 + 1)[:, None] * 2 * np.pi
    bands = np.tile(np.concatenate([np.sin(waves), np.cos(waves)]), GRID.rows)
    banks = 0.1 * chance.standard_normal((clips, 1024, 128), dtype=np.float32)
    banks += (factors @ bands)[:, None] / 2
    frames = chance.choice([1024, 998, 500, 200], clips)
    frames[1] = 9  # before the middle of the first column
    banks[np.arange(1024) >= frames[:, None]] = PADDING
    patches = banks.reshape(clips, GRID.columns, GRID.patch, GRID.rows, GRID.patch).transpose(0, 3, 1, 4, 2)
    mixed = chance.standard_normal((GRID.patch**2, DIM), dtype=np.float32) / GRID.patch
    cells = patches.reshape(clips, GRID.rows * GRID.columns, -1) @ mixed
    audio = np.concatenate([np.repeat(cells.mean(axis=1, keepdims=True), CLS, axis=1), cells], axis=1)
    video = np.repeat((factors @ chance.standard_normal((FACTORS, DIM)))[:, None], FRAMES, axis=1)
    video = video + 0.5 * chance.standard_normal(video.shape)
    sounds = resolve(["lite:fbank:tokens"])[0].model_copy(update={"shape": (CLS + 128, DIM)})
    pictures = resolve(["lite:frames"])[0].model_copy(update={"shape": (FRAMES, DIM)})
    present = chance.random((2, clips)) >= missing
    modalities = {
        name: Modality.of(FeatureLayout.of(name, [spec]), {spec.key: rows}, here, "cpu")
        for name, spec, rows, here in (("video", pictures, video, present[0]), ("audio", sounds, audio, present[1]))
    }
    labels = factors[:, :CLASSES].argmax(axis=1)
    splits = np.array(["train", "train", "val", "test"])[np.arange(clips) % 4]
    rows = torch.from_numpy(banks.astype(np.float16))
    rows[torch.from_numpy(~present[1])] = torch.nan
    data = FusionData.from_arrays(modalities, labels, [f"class{number}" for number in range(CLASSES)], splits)
    return replace(data, banks=FilterBanks("key", rows, torch.from_numpy(present[1])))


@pytest.fixture(name="data", scope="module")
def data_fixture() -> FusionData:
    return make()


@pytest.fixture(name="lacking", scope="module")
def lacking_fixture() -> FusionData:
    return make(missing=0.25, seed=1)


def fit_of(data: FusionData, seed: int = 0, head: str = "crossattn", **settings: Any) -> HeadTrainer:
    training = TrainingOverrides(**{**SMALL, **settings})
    recipe = training.recipe(head)
    inputs = HeadInputs.of(head, data, data.train, training.options(head), recipe)
    return HeadTrainer(inputs, data.truth, recipe, seed, filter_banks=data.banks)


def train_batch(fit: HeadTrainer, clips: int = 16) -> HeadBatch:
    return fit.inputs.evaluation_batch(fit.inputs.indices[:clips])


def losses_of(fit: HeadTrainer, batch: HeadBatch, seed: int = 7) -> dict[str, Tensor]:
    """With all that is drawn at random drawn from this seed."""
    fit.augment_rng.manual_seed(seed)
    with dropout_source(GeneratorMasks(fit.augment_rng)):
        return fit.losses(batch)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("settings", ONE_BY_ONE, ids=str)
def test_each_loss_changes_what_is_learned(data: FusionData, settings: dict[str, Any]) -> None:
    plain, fit = fit_of(data), fit_of(data, **settings)
    assert_same(plain.head.state_dict(), fit.head.state_dict())  # what an objective needs comes after the head
    train_epochs([plain])
    (losses,) = train_epochs([fit])
    name = [each for each in EVERYTHING if each in settings][-1]
    assert losses.parts[name] > 0
    weights = torch.nn.utils.parameters_to_vector
    assert (weights(plain.head.parameters()) - weights(fit.head.parameters())).abs().max() > 1e-3
    fresh = fit_of(data, **settings)
    assert fit.auxiliary is not None
    assert fresh.auxiliary is not None
    for before, after in zip(fresh.auxiliary.parameters(), fit.auxiliary.parameters(), strict=True):
        assert not torch.equal(before, after)


def test_the_parts_weighted_are_what_is_followed(data: FusionData) -> None:
    fit = fit_of(data, **EVERYTHING)
    (losses,) = train_epochs([fit])
    assert list(losses.parts) == ["ce", *EVERYTHING]
    weighted = losses.parts["ce"] + sum(weight * losses.parts[name] for name, weight in EVERYTHING.items())
    assert losses.total == pytest.approx(weighted, rel=1e-5)
    (plain,) = train_epochs([fit_of(data)])
    assert plain.parts == {}


@pytest.mark.parametrize("several", [False, True])
def test_labels_are_the_classes_of_the_first_target(data: FusionData, several: bool) -> None:
    labels = data.truth[0]
    if several:  # where a clip has more than one the first counts
        named = F.one_hot(labels, CLASSES).bool()
        named[:, -1] = True
        (target,) = data.targets
        data = replace(data, targets=Targets((replace(target, several=True, sigmoid=True),)), truth=(named,))
    fit = fit_of(data, imc=0.5, avc=0.5, contrast_labels=True)
    batch = train_batch(fit)
    losses = losses_of(fit, batch)
    fit.augment_rng.manual_seed(7)
    with dropout_source(GeneratorMasks(fit.augment_rng)):
        outputs = fit.head(batch.prepared, batch.present)
    assert fit.auxiliary is not None
    embedded, own = fit.auxiliary.embed(outputs, batch), labels[batch.index]
    torch.testing.assert_close(losses["imc"], intra_modality_contrast(embedded, own))
    torch.testing.assert_close(losses["avc"], audio_video_contrast(embedded, own))
    assert losses["avc"] != audio_video_contrast(embedded)


@pytest.mark.parametrize("mask", ["segments", "random"])
def test_all_that_is_drawn_comes_from_the_heads_own_stream(lacking: FusionData, mask: str) -> None:
    one, other = (fit_of(lacking, seed=3, modality_dropout=0.3, mask=mask, **EVERYTHING) for _ in range(2))
    torch.manual_seed(11)
    before = torch.get_rng_state()
    train_epochs([one])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(17)
    train_epochs([fit_of(lacking, seed=4, **EVERYTHING)])
    train_epochs([other])
    assert_same(one.state(), other.state())
    another = fit_of(lacking, seed=3, modality_dropout=0.3, mask=mask, **EVERYTHING)
    another.augment_rng.manual_seed(99)
    train_epochs([another])
    assert not torch.equal(another.head.classifier[1].weight, one.head.classifier[1].weight)


@pytest.mark.parametrize("settings", [EVERYTHING, {"avm": 0.5, "masked": 0.1, "mask": "random"}], ids=str)
def test_what_was_broken_off_goes_on_with_the_same_bytes(
    lacking: FusionData, tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole, broken = (fit_of(lacking, head="bottleneck", blocks=1, **settings) for _ in range(2))
    for _ in range(3):
        train_epochs([whole])
    train_epochs([broken])
    Checkpoint(tmp_path / "state", "key").save(broken.state(), {})
    saved = Checkpoint(tmp_path / "state", "key").load()
    assert saved is not None
    resumed = fit_of(lacking, seed=5, head="bottleneck", blocks=1, **settings)
    resumed.load(saved[0])
    for _ in range(2):
        train_epochs([resumed])
    assert_same(whole.state(), resumed.state())
    assert any(name.startswith("objective.") for name in whole.state())


def test_heads_with_an_objective_train_one_by_one(data: FusionData, monkeypatch: pytest.MonkeyPatch) -> None:
    training = TrainingOverrides(**SMALL)
    monkeypatch.setattr("avfuse.stages.fuse.training.vectorized.is_faster_vmapped", lambda head, device: True)
    options = training.options("crossattn")
    assert trains_vmapped("crossattn", data, options, training.recipe("crossattn"))
    assert not trains_vmapped("crossattn", data, options, training.updated({"imc": 0.1}).recipe("crossattn"))
    together, alone = ([fit_of(data, seed=seed, **EVERYTHING) for seed in (0, 1)] for _ in range(2))
    train_epochs(together)
    for one, other in zip(together, alone, strict=True):
        train_epochs([other])
        assert_same(one.state(), other.state())


# What is refused


@pytest.mark.parametrize("name", [name for name in head_names() if name not in ("crossattn", "bottleneck")])
@pytest.mark.parametrize("loss", ["avc", "avm", "masked"])
def test_heads_that_give_not_what_a_loss_needs_are_refused(data: FusionData, name: str, loss: str) -> None:
    if name == "mmt" and loss != "masked":
        return  # gives it
    training = TrainingOverrides(**{loss: 0.1})
    what = {"avc": "vector of each modality before", "avm": "vector of each modality after", "masked": "fused token"}
    with pytest.raises(UsageError) as caught:
        module.check_auxiliary_losses(
            name, data.shapes, data.targets, training.options(name), training.recipe(name), data.banks
        )
    message = str(caught.value)
    assert "\n" not in message
    if name != "mat":  # takes filter banks, and says so first
        assert f"head '{name}' gives no {what[loss]}" in message
        assert f"{loss} needs a head that does, such as crossattn or bottleneck" in message


def test_sound_in_no_known_grid_is_refused(data: FusionData, make_data: Callable[..., FusionData]) -> None:
    pooled = replace(make_data(clips_per_class=10), banks=data.banks)
    with pytest.raises(UsageError, match=r"audio tokens in a grid: AUDIO=lite:fbank:tokens"):
        fit_of(pooled, masked=0.1)
    squares = {**data.shapes, "audio": ModalityShape(196, DIM, 0, (14, 14))}
    with pytest.raises(UsageError, match=r"14x14: choose features with one of 12x101, 6x50, 4x32"):
        MaskedReconstruction(squares, {"video": 4, "audio": 4}, "segments", data.banks)


def test_masked_learning_without_banks_is_refused(data: FusionData) -> None:
    with pytest.raises(UsageError, match="needs the clips' filter banks"):
        fit_of(replace(data, banks=None), masked=0.1)
    fit_of(replace(data, banks=None), avc=0.5)


def test_a_run_is_refused_before_anything_is_trained(data: FusionData, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="head 'mlp' gives no vector"):
        run_experiment(data, tmp_path / "run", ["crossattn", "mlp"], 1, TrainingOverrides(avc=0.5), {}, progress=False)
    assert not (tmp_path / "run").exists()


def test_whether_banks_are_read_is_known_from_what_was_asked() -> None:
    heads = ["mlp", "crossattn"]
    assert not needs_filter_banks(heads, TrainingOverrides(avc=0.5), {})
    assert needs_filter_banks(heads, TrainingOverrides(masked="0.01"), {})
    assert needs_filter_banks(heads, TrainingOverrides(), {"masked": ["0", "0.01"], "lr": ["1e-3"]})
    assert not needs_filter_banks(heads, TrainingOverrides(masked="0.01"), {"masked": ["0"]})


# Matching


class Watched:
    """A fit whose head's passes, drawn pairs and pairs told apart are noted."""

    def __init__(self, fit: HeadTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        self.alike: list[Tensor] = []
        self.pairs: list[Pairs] = []
        self.told: list[tuple[Tensor, Tensor]] = []
        fit.head.register_forward_hook(lambda head, given, outputs: self.passes.append((given[0], outputs)))
        original = module.draw_pairs

        def draw_pairs(similarity: Tensor, *rest: Any) -> Pairs | None:
            self.alike.append(similarity)
            pairs = original(similarity, *rest)
            if pairs is not None:
                self.pairs.append(pairs)
            return pairs

        monkeypatch.setattr(module, "draw_pairs", draw_pairs)
        if fit.auxiliary is not None and fit.auxiliary.matching is not None:
            fit.auxiliary.matching.register_forward_hook(lambda matching, given, logits: self.told.append(given))


@pytest.mark.parametrize("negatives", [1, 2])
def test_matching_adds_a_pass_of_wrong_pairs_alone(
    data: FusionData, monkeypatch: pytest.MonkeyPatch, negatives: int
) -> None:
    fit = fit_of(data, avc=0.5, avm=0.1, negatives=negatives)
    watched, batch = Watched(fit, monkeypatch), train_batch(fit)
    losses_of(fit, batch)
    assert [len(prepared["video"]) for prepared, _ in watched.passes] == [16, 16 * negatives]
    ((pairs,), (told,)) = watched.pairs, watched.told
    assert pairs.is_match.tolist() == [True] * 16 + [False] * 16 * negatives
    (_, own), (wrong, fused) = watched.passes
    for at, name in enumerate(("video", "audio")):
        torch.testing.assert_close(told[at], torch.cat([own[f"after_{name}"], fused[f"after_{name}"]]))
        torch.testing.assert_close(wrong[name], batch.prepared[name][getattr(pairs, name)[16:]])
    assert (pairs.video[16:] != pairs.audio[16:]).all()


def test_negatives_are_hard_where_contrast_is_learned_and_else_all_alike(
    data: FusionData, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings, alike in (({"avc": 0.5}, False), ({"imc": 0.5}, True), ({}, True)):
        fit = fit_of(data, avm=0.1, **settings)
        watched = Watched(fit, monkeypatch)
        losses_of(fit, train_batch(fit))
        assert (watched.alike[0] == 0).all() == alike, settings


def test_negatives_of_another_class_are_those_of_the_labels(data: FusionData, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fit_of(data, avm=0.1, other_class_negatives=True)
    watched = Watched(fit, monkeypatch)
    batch = train_batch(fit)
    losses_of(fit, batch)
    labels, (pairs,) = data.truth[0][batch.index], watched.pairs
    wrong = ~pairs.is_match
    assert wrong.sum() == 32
    assert (labels[pairs.video[wrong]] != labels[pairs.audio[wrong]]).all()


def test_a_batch_of_one_clip_teaches_classification_alone(data: FusionData) -> None:
    fit = fit_of(data, avc=0.5, imc=0.1, avm=0.1)
    losses = losses_of(fit, train_batch(fit, clips=1))
    assert losses["avc"] == losses["imc"] == losses["avm"] == 0
    losses["total"].backward()
    assert losses["total"] == losses["ce"]


# Hiding


def hidden_passes(fit: HeadTrainer, batch: HeadBatch) -> dict[str, Tensor]:
    """What the head gives of a batch with parts hidden, always the same parts."""
    fit.head.eval()
    seen: list[dict[str, Tensor]] = []
    hook = fit.head.register_forward_hook(lambda head, given, outputs: seen.append(outputs))
    assert fit.auxiliary is not None
    fit.auxiliary.reconstruction_error(fit.head, batch, seed=3)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("mask", ["segments", "random"])
def test_what_is_hidden_is_not_seen(data: FusionData, mask: str) -> None:
    fit = fit_of(data, masked=0.1, mask=mask)
    batch = train_batch(fit)
    assert fit.auxiliary is not None
    assert fit.auxiliary.reconstruction is not None
    everyone = torch.ones(16, dtype=torch.bool)
    hidden = fit.auxiliary.reconstruction.draw(
        batch.index, {"video": everyone, "audio": everyone}, torch.Generator().manual_seed(3)
    )
    before = hidden_passes(fit, batch)
    for name, prefix in (("video", 0), ("audio", CLS)):
        for where, is_seen in ((hidden[name], False), (~hidden[name], True)):
            clip, token = where.nonzero()[0].tolist()
            changed = {key: value.clone() for key, value in batch.prepared.items()}
            changed[name][clip, prefix + token] += 3
            after = hidden_passes(fit, replace(batch, prepared=changed))
            assert torch.equal(before["tokens_video"], after["tokens_video"]) != is_seen
            assert torch.equal(before["tokens_audio"], after["tokens_audio"]) != is_seen


@pytest.mark.parametrize("mask", ["segments", "random"])
def test_neither_padding_nor_what_stands_before_a_grid_is_hidden(lacking: FusionData, mask: str) -> None:
    fit = fit_of(lacking, masked=0.1, mask=mask)
    assert fit.auxiliary is not None
    reconstruction = fit.auxiliary.reconstruction
    assert reconstruction is not None
    clips = torch.arange(48)
    present = {name: lacking.modalities[name].present for name in ("video", "audio")}
    middles = torch.arange(32) * 32 + 16
    own = (middles < reconstruction.banks.valid_frames[:, None]) & present["audio"][:, None]
    batch = fit.inputs.evaluation_batch(clips)
    times = torch.zeros(48, 128)
    for seed in range(40):
        hidden = reconstruction.draw(clips, present, torch.Generator().manual_seed(seed))
        columns = hidden["audio"].unflatten(1, (4, 32))
        assert not (columns & ~own[:, None]).any()
        torch.testing.assert_close(hidden["audio"].any(dim=1), own.any(dim=1))
        torch.testing.assert_close(hidden["video"].sum(dim=1), present["video"].long())  # one of five
        if mask == "segments":
            torch.testing.assert_close(columns.any(dim=1), columns.all(dim=1))
        given = reconstruction.hide(batch.prepared, hidden)
        torch.testing.assert_close(given["audio"][:, :CLS], batch.prepared["audio"][:, :CLS])
        assert (given["audio"][:, CLS:][hidden["audio"]] == 0).all()
        seen = ~hidden["audio"]
        torch.testing.assert_close(given["audio"][:, CLS:][seen], batch.prepared["audio"][:, CLS:][seen])
        times += hidden["audio"]
    long = reconstruction.banks.valid_frames >= 998
    assert (times[long & present["audio"]].unflatten(1, (4, 32))[:, :, :31].sum(dim=(0, 1)) > 0).all()


def test_clips_with_too_little_sound_are_counted(data: FusionData) -> None:
    fit = fit_of(data, masked=0.1)
    assert fit.auxiliary is not None
    assert fit.auxiliary.count_too_short(torch.arange(48)) == 1
    assert fit.auxiliary.count_too_short(torch.arange(2, 48)) == 0
    trained = train_head("crossattn", data, 0, TrainingOverrides(**{**SMALL, "epochs": 1}, masked=0.1))
    assert trained.too_short == 1
    assert train_head("crossattn", data, 0, TrainingOverrides(**{**SMALL, "epochs": 1}, avc=0.5)).too_short is None


def test_the_error_is_of_the_sound_and_of_the_picture(data: FusionData) -> None:
    """Equation 6 adds the two: with decoders that say nothing they are the mean squares of what is hidden."""
    fit = fit_of(data, masked=0.1)
    assert fit.auxiliary is not None
    for name, parameter in fit.auxiliary.named_parameters():
        assert name.startswith("reconstruction")
        torch.nn.init.zeros_(parameter)
    clips = torch.arange(2, 18)
    batch = fit.inputs.evaluation_batch(clips)
    errors = fit.auxiliary.reconstruction_error(fit.head, batch, seed=0)
    assert errors["video"] == pytest.approx(1, abs=1e-3)  # layer-normalised
    assert data.banks is not None
    own = zip(data.banks.rows[clips], data.banks.valid_frames[clips], strict=True)
    squares = [bank[:frames].float().square().mean() for bank, frames in own]
    assert errors["audio"] == pytest.approx(float(np.mean(squares)), rel=0.05)
    losses = losses_of(fit, batch)
    assert losses["masked"].item() == pytest.approx(errors["video"] + errors["audio"], rel=0.05)


def test_the_picture_is_aimed_at_as_it_is_cached(lacking: FusionData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as it is standardised; and of the view that was drawn, which the batch has."""
    fit = fit_of(lacking, masked=0.1)
    aims: list[Tensor] = []
    original = MaskedReconstruction.errors

    def errors(self: MaskedReconstruction, fused: Any, cached_video: Tensor, *rest: Any) -> dict[str, Tensor]:
        aims.append(cached_video)
        return original(self, fused, cached_video, *rest)

    monkeypatch.setattr(MaskedReconstruction, "errors", errors)
    batch = train_batch(fit)
    losses_of(fit, batch)
    here = lacking.modalities["video"].present[batch.index]
    torch.testing.assert_close(aims[0][here], lacking.modalities["video"].tokens[batch.index][here])


def test_what_stands_before_the_grid_of_a_picture_is_left_alone(data: FusionData) -> None:
    shapes = {"video": ModalityShape(5, 8, 1, (2, 2)), "audio": data.shapes["audio"]}
    part = MaskedReconstruction(shapes, {"video": 4, "audio": 4}, "segments", data.banks)
    torch.nn.init.zeros_(part.video.weight), torch.nn.init.zeros_(part.video.bias)
    clips, everyone = torch.arange(8), torch.ones(8, dtype=torch.bool)
    hidden = part.draw(clips, {"video": everyone, "audio": everyone}, torch.Generator().manual_seed(0))
    assert hidden["video"].shape == (8, 4)
    tokens = {"video": torch.ones(8, 5, 8), "audio": torch.ones(8, CLS + 128, DIM)}
    given = part.hide(tokens, hidden)["video"]
    assert (given[:, 0] == 1).all()
    torch.testing.assert_close(given[:, 1:, 0] == 0, hidden["video"])
    cached = torch.randn(8, 5, 8)
    cached[:, 0] = torch.nan
    fused = {"video": torch.randn(8, 5, 4), "audio": torch.randn(8, CLS + 128, 4)}
    assert part.errors(fused, cached, clips, hidden)["video"].item() == pytest.approx(1, abs=1e-3)


# Clips that lack a modality


@pytest.mark.parametrize("settings", [EVERYTHING, {**EVERYTHING, "mask": "random", "contrast_labels": True}], ids=str)
def test_what_a_clip_lacks_is_never_read(lacking: FusionData, settings: dict[str, Any]) -> None:
    results = []
    for value in (torch.nan, 5.0):
        assert lacking.banks is not None
        banks = lacking.banks.rows.clone()
        banks[~lacking.banks.present] = value
        fit = fit_of(replace(lacking, banks=replace(lacking.banks, rows=banks)), modality_dropout=0.2, **settings)
        for name, rows in fit.inputs.stored.items():
            rows[~lacking.modalities[name].present] = value
        batch = train_batch(fit, clips=24)
        assert all(mask is not None and not mask.all() for mask in batch.present.values())
        losses = losses_of(fit, batch)
        assert all(loss.isfinite() for loss in losses.values())
        losses["total"].backward()
        assert fit.auxiliary is not None
        gradients = {
            name: parameter.grad
            for part in (fit.head, fit.auxiliary)
            for name, parameter in part.named_parameters()
            if parameter.grad is not None
        }
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        results.append({**losses, **gradients})
        train_epochs([fit])
        assert all(parameter.isfinite().all() for parameter in fit.head.parameters())
    assert_same(*results)


def test_a_data_set_without_sound_still_trains(data: FusionData) -> None:
    fit = fit_of(data, without="audio", **EVERYTHING)
    (losses,) = train_epochs([fit])
    assert losses.parts["avc"] == losses.parts["avm"] == 0
    assert losses.parts["masked"] > 0.5
    assert fit.auxiliary is not None
    errors = fit.auxiliary.reconstruction_error(fit.head, train_batch(fit))
    assert errors["audio"] == 0 < errors["video"]
    assert all(parameter.isfinite().all() for parameter in fit.head.parameters())


# Numbers


@pytest.mark.parametrize("settings", [EVERYTHING, {**EVERYTHING, "mask": "random", "contrast_labels": True}], ids=str)
def test_gradients_are_those_of_finite_differences(lacking: FusionData, settings: dict[str, Any]) -> None:
    """Along a random direction of each module's weights, everything drawn alike."""
    fit = fit_of(lacking, head="bottleneck", blocks=1, **settings)
    assert fit.auxiliary is not None
    fit.head.double(), fit.auxiliary.double()
    whole = train_batch(fit, clips=12)
    batch = replace(whole, prepared={name: each.double() for name, each in whole.prepared.items()})
    losses_of(fit, batch)["total"].backward()
    source = torch.Generator().manual_seed(0)
    for part in (fit.head.project, fit.head.exchange, fit.auxiliary):
        weights = [each for each in part.parameters() if each.grad is not None]
        direction = [torch.randn(each.shape, generator=source, dtype=torch.float64) for each in weights]
        slope = sum((each.grad * step).sum() for each, step in zip(weights, direction, strict=True))
        values = []
        with torch.no_grad():
            for size in (1e-6, -1e-6):
                for each, step in zip(weights, direction, strict=True):
                    each += size * step
                values.append(losses_of(fit, batch)["total"].item())
                for each, step in zip(weights, direction, strict=True):
                    each -= size * step
        assert abs(slope) > 1e-3
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope.item(), rel=1e-4)


def test_half_precision_is_for_the_heads_passes_alone(data: FusionData) -> None:
    fit = fit_of(data, avc=0.5, precision="bfloat16")
    assert fit.auxiliary is not None
    batch = train_batch(fit)
    outputs = fit.head.eval()(batch.prepared, batch.present)
    labels = data.truth[0][batch.index]
    whole = fit.auxiliary(fit.head, batch, outputs, labels, fit.augment_rng)
    with torch.autocast("cpu", torch.bfloat16):
        half = fit.auxiliary(fit.head, batch, outputs, labels, fit.augment_rng)
    assert_same(whole, half)
    (losses,) = train_epochs([fit_of(data, precision="bfloat16", **EVERYTHING)])
    assert np.isfinite(losses.total)


# What is learned


@pytest.fixture(name="learnable", scope="module")
def learnable_fixture() -> FusionData:
    return make(clips=200, seed=2)


def trained(data: FusionData, epochs: int, **settings: Any) -> HeadTrainer:
    fit = fit_of(data, lr=5e-3, weight_decay=1e-2, epochs=epochs, **settings)
    for _ in range(epochs):
        train_epochs([fit])
    return fit


@pytest.mark.slow
def test_contrast_makes_sounds_find_pictures_they_never_saw(learnable: FusionData) -> None:
    """Of 50 held-out clips. Without it, the untrained common space over a head trained to classify."""

    def recall(weight: float) -> float:
        fit = trained(learnable, 10, avc=weight)
        assert fit.auxiliary is not None
        return fit.auxiliary.recall(fit.head, fit.inputs.evaluation_batch(learnable.test))

    reached, without = recall(0.5), recall(1e-12)
    assert without < 0.15
    assert reached > 0.4


@pytest.mark.slow
def test_hidden_sound_and_pictures_are_made_out(learnable: FusionData) -> None:
    """Of held-out clips, against decoders that nothing has taught and the mean of the training clips."""
    fresh, fit = fit_of(learnable, masked=1.0), trained(learnable, 8, masked=1.0)
    errors: list[dict[str, float]] = []
    for each in (fresh, fit):
        assert each.auxiliary is not None
        errors.append(each.auxiliary.reconstruction_error(each.head, each.inputs.evaluation_batch(learnable.test)))
    before, after = errors
    of_mean = mean_error(learnable)
    assert after["audio"] < 0.5 * min(before["audio"], of_mean)
    assert after["video"] < 0.7 * before["video"]


def mean_error(data: FusionData) -> float:
    """Of the mean filter bank of the training clips, for the sound of held-out ones."""
    assert data.banks is not None
    rows, frames = data.banks.rows.float(), data.banks.valid_frames
    mean = rows[data.train].mean(dim=0)
    own = torch.arange(1024) < frames[data.test, None]
    squares = (rows[data.test] - mean).square().mean(dim=2)
    return float(np.mean([each[here].mean() for each, here in zip(squares, own, strict=True)]))


# From the cache to a run


def with_banks(cache: Path, banked: slice = slice(None)) -> Manifest:
    """A data set with filter banks of some clips, of which every fifth has no sound, and made-up tokens."""
    manifest = kitchen(cache, clips=40, unlabelled=4)
    chance = np.random.default_rng(0)
    clips = manifest.clips()
    for name, which in (("audio:fbank", banked), ("lite:fbank:tokens", slice(None))):
        spec = resolve([name])[0]
        silent = [clip for number, clip in enumerate(clips) if number % 5 == 4]
        heard = [clip for clip in clips[which] if clip not in silent]
        result = ChunkResult(
            spec,
            done=[(clip, MISSING) for clip in heard],
            data=[chance.standard_normal(spec.shape).astype(spec.dtype) for _ in heard],
            no_audio=[(clip, MISSING) for clip in silent],
        )
        FeatureStore(cache, manifest.collection, spec).commit(result)
    return manifest


NAMED = {"video": ["imported:picture"], "audio": ["lite:fbank:tokens"]}


def test_banks_are_those_of_the_clips_that_are_used(tmp_path: Path) -> None:
    manifest = with_banks(tmp_path)
    data = load_data(manifest, tmp_path, NAMED, banks=True)
    assert data.banks is not None
    assert data.banks.present.tolist() == data.modalities["audio"].present.tolist()
    loaded = FeatureStore(tmp_path, manifest.collection, resolve(["audio:fbank"])[0]).load(data.clips)
    np.testing.assert_allclose(
        data.banks.rows[data.banks.present].numpy(), loaded.data[loaded.present], atol=2e-3, rtol=0
    )
    assert data.banks.valid_frames.tolist() == [1024 if here else 0 for here in data.banks.present]
    plain = load_data(manifest, tmp_path, NAMED)
    assert plain.banks is None
    assert plain.fingerprint != data.fingerprint


def test_banks_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    kitchen(tmp_path / "none", clips=40)
    with pytest.raises(UsageError, match=r"audio:fbank.*make extract DATASET=kitchen FEATURES=audio:fbank"):
        load_data(kitchen(tmp_path / "none", clips=40), tmp_path / "none", INPUTS, banks=True)
    some = with_banks(tmp_path / "some", slice(20))
    with pytest.raises(UsageError, match=r"audio:fbank' is not extracted for 16 clips.*FEATURES=audio:fbank"):
        load_data(some, tmp_path / "some", NAMED, banks=True)


@pytest.mark.slow
def test_a_run_reads_banks_where_it_needs_them_and_keeps_each_loss(tmp_path: Path) -> None:
    with_banks(tmp_path / "cache")
    places = ["--cache", str(tmp_path / "cache"), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    features = ["--video", "imported:picture", "--audio", "lite:fbank:tokens", "--seeds", "1", "--epochs", "2"]
    small = ["--set", "dim=16", "--set", "heads=2", "--set", "avm=0.1", "--sweep", "masked=0,0.01", "--name", "hidden"]
    arguments = ["fuse", "--dataset", "kitchen", "--fusion", "crossattn", *features, *small, *places]
    result = CliRunner().invoke(avfuse, arguments, catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "kitchen" / "hidden"
    curves = {row: pd.read_csv(folder / f"crossattn,masked={row}" / "seed-0.curve.csv") for row in ("0", "0.01")}
    assert [name for name in curves["0"] if name.startswith("train_")] == ["train_loss", "train_ce", "train_avm"]
    assert curves["0.01"]["train_masked"].gt(0).all()
    table = pd.read_csv(folder / "results.csv").set_index("masked")
    assert table["too_short"].loc[0.01] == 0
