"""What readers of the documentation have at hand: small media, a demo data set of 18 clips, features."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from documented_shell import Shell
from official_trees import RATE_HZ, epic_kitchens_100, pack, tone_of, ucf101, write_clip
from scipy.io import wavfile

from avfuse.manifests.demo import builder, render_demo

DEMO = {
    "groups": 3,
    "clips_per_group": 1,
    "classes": ["BouncingBall", "SpinningCube", "BallAtSea", "DrumSteady", "FluteRising", "FluteFalling"],
}
ACTIONS = ("jumping", "running", "singing", "drumming")


@contextmanager
def small_demo() -> Iterator[None]:
    """Inside, the data set `demo` has six classes of three clips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "render_demo", partial(render_demo, **DEMO))
        yield


def prepare(shell: Shell) -> None:
    """Media, the features of `lite` of the demo data set and of the clips, and what `make demo` and a table write."""
    folder = shell.folder
    shell.furnish()
    render_demo(folder / "cache/media/demo", **DEMO, n_jobs=1, progress=False)
    for kind, action in enumerate(ACTIONS):
        for name in ("a.mp4", "b.mp4", "c.avi"):
            write_clip(folder / "clips" / action / name, kind)
    for name, seconds in {"clip.mp4": 8, "a.mp4": 1, "cube.avi": 1, "long.mp4": 4, "P01_01.mp4": 16}.items():
        write_clip(folder / name, 0, seconds)
    write_clip(folder / "mute.mp4", 1, silent=True)
    for name in ("song.wav", "b.wav"):
        wavfile.write(folder / name, RATE_HZ, tone_of(1, 1))
    (folder / "broken.avi").write_text("this is not a video\n")
    write_clip(folder / "videos" / "a.mp4", 0)
    pack(folder / "vggsound_00.tar.gz", folder / "videos", "w:gz")
    for command in (
        "make demo",
        "make ablate TABLE=maivar-table2 DATASET=demo",
        "make extract DATASET=folder ROOT=clips",
    ):
        answer = shell.run(command)
        assert answer.code == 0, answer.err


def add_labels(folder: Path) -> None:
    """Two clips of one video, as a table lists them."""
    paths = sorted(path.relative_to(folder / "clips") for path in (folder / "clips").rglob("*.*"))
    rows = [{"path": path, "verb": path.parts[0], "video_id": f"{path.parts[0]}-{path.stem}"} for path in paths]
    pd.DataFrame(rows).to_csv(folder / "clips" / "labels.csv", index=False)


def add_ucf101(folder: Path) -> None:
    ucf101(folder / "DIR")


def add_epic_kitchens_100(folder: Path) -> None:
    shutil.rmtree(folder / "DIR", ignore_errors=True)
    epic_kitchens_100(folder / "DIR")


def add_ave(folder: Path) -> None:
    """Its lists, with a video for each line but one, and two events of one video."""
    root = folder / "AVE_Dataset"
    for part, count in {"train": 4, "val": 1, "test": 1}.items():
        lines = []
        for kind, label in enumerate(("Church bell", "Bark")):
            for number in range(count):
                name = f"{part}{number}_{kind}-abc"
                lines.append(f"{label}&{name}&good&0&10")
                if (part, number, kind) != ("train", 3, 1):
                    write_clip(root / "AVE" / f"{name}.mp4", kind)
        if part == "train":
            lines.append("Bark&train0_0-abc&good&3&7")
        (root / f"{part}Set.txt").write_text("\n".join([*lines, ""]))


def add_own_weights(folder: Path) -> None:
    """Of the network that docs/backbones.md adds."""
    torch.save({"scale": torch.ones(3)}, folder / "own.pth")
