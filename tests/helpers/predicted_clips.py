"""Small clips of two classes, and `avfuse predict` called on them."""

from pathlib import Path

import commands
import numpy as np
import pandas as pd
from click.testing import Result

from avfuse.features.clips import Clip
from avfuse.features.media import write_video
from avfuse.manifests import load_manifest
from avfuse.pipeline.prediction import Prediction
from avfuse.stages.fuse.runs.predict import load_predictions, probabilities

CLASSES, GROUPS, RATE_HZ, FPS = ("low", "high"), 6, 16000, 10
VIEWS = ["lite:frames:1of2", "lite:frames:2of2", "lite:mfcc", "lite:mfcc:h"]
WINDOW, HOP, LONG_SECONDS = 1.0, 0.75, 2.8
ONE_CPU = ["--device", "cpu", "--workers", 1]
WINDOWS = [(0.0, 1.0), (0.75, 1.75), (1.5, 2.5), (1.8, 2.8)]


def pictures(seconds: float, seed: int, level: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 120, (round(seconds * FPS), 48, 64, 3))
    return (noise + level).astype(np.uint8)


def tone(seconds: float, frequency_hz: float) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def write_clips(folder: Path) -> pd.DataFrame:
    """Two classes, told apart by light and pitch; of the test clips one is silent and one has no sound. Windows of a
    longer file are unlabelled."""
    folder.mkdir()
    rows = []
    for number, label in enumerate(CLASSES):
        for group in range(GROUPS):
            name = f"{label}{group}.avi"
            sound = tone(0.6, (300, 1500)[number] + 20 * group) * (group != 5)
            options = {} if (label, group) == ("low", 4) else {"waveform": sound, "sample_rate_hz": RATE_HZ}
            write_video(folder / name, pictures(0.6, 10 * number + group, 100 * number), fps=FPS, **options)
            rows.append((name, None, None, label, "test" if group > 3 else "train", f"g{group}"))
    long = np.concatenate([tone(1.4, 300), tone(1.4, 1500)])
    both = np.concatenate([pictures(1.4, 50, 0), pictures(1.4, 51, 100)])
    write_video(folder / "long.avi", both, fps=FPS, waveform=long, sample_rate_hz=RATE_HZ)
    rows += [("long.avi", start, end, None, "unlabelled", "long") for start, end in WINDOWS]
    table = pd.DataFrame(rows, columns=["path", "start", "end", "label", "split", "group"])
    return table.assign(clip_id=[f"c{number:02}" for number in range(len(table))])


def call(*arguments: object) -> Result:
    return commands.call("predict", *arguments, *ONE_CPU)


def refused(*arguments: object) -> str:
    return commands.refused("predict", *arguments, *ONE_CPU)


def clips_of(workplace: Path, split: str) -> list[Clip]:
    manifest = load_manifest(workplace / "cache", "set")
    return [clip for clip, its in zip(manifest.clips(), manifest.table["split"], strict=True) if its == split]


def check_same(found: Prediction, folder: Path, row: str, split: str) -> None:
    expected = load_predictions(folder, row, split)
    (target,) = found.targets
    assert found.row == row
    assert found.seeds == expected.seeds
    values = np.array([clip.probabilities["label"] for clip in found.clips])
    np.testing.assert_allclose(values, probabilities(target, expected.scores[0]), rtol=0, atol=1e-6)
