"""Filter banks in memory, for masked reconstruction: which clips', and when they are loaded."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from made_up_sets import INPUTS, kitchen

from avfuse.features.cache import ChunkResult, FeatureStore
from avfuse.features.cache.fingerprint import MISSING
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.manifests import Manifest
from avfuse.pipeline.cli.main import avfuse
from avfuse.stages.fuse.data.dataset import load_data

NAMED = {"video": ["imported:picture"], "audio": ["lite:fbank:tokens"]}


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
