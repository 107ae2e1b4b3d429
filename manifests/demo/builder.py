"""Builder `demo`: renders the demonstration data set where it is missing and describes it."""

from pathlib import Path

import pandas as pd

from manifests.demo.render import REVISION, render_demo
from manifests.manifest import Manifest

SEED = 0


def build_demo(root: Path, name: str | None = None, jobs: int = 2) -> Manifest:
    """Render the demo clips under `root` (skipped where they are complete) and return their manifest.

    Twelve classes: six differ only in what is seen, six only in what is heard; see `manifests.demo`. Groups share a
    scene and the split is by group, as UCF101's.
    """
    root = root.resolve()
    clips = render_demo(root, seed=SEED, n_jobs=jobs)
    nowhere = float("nan")
    table = pd.DataFrame(
        [
            {
                "clip_id": Path(clip.path).stem,
                "path": str(clip.path),
                "start": nowhere,
                "end": nowhere,
                "label": clip.label,
                "split": clip.split,
                "group": clip.group,
            }
            for clip in clips
        ]
    )
    name = name or "demo"
    provenance = {"builder": "demo", "revision": REVISION, "seed": SEED}
    return Manifest(name=name, collection=name, root=root, table=table, provenance=provenance)
