"""Builder `demo`: renders the demonstration data set where it is missing and describes it."""

from pathlib import Path

import pandas as pd

from avfuse.manifests.annotations import Annotations
from avfuse.manifests.demo.render import REVISION, render_demo
from avfuse.manifests.description import DatasetDescription
from avfuse.threads import available_cores

SEED = 0


def describe_demo(root: Path, annotations: Annotations, jobs: int | None = None) -> DatasetDescription:
    """Render the demo clips under `root` (skipped where they are complete) and list them.

    Twelve classes: six differ only in what is seen, six only in what is heard; see `avfuse.manifests.demo`. Groups
    share a scene and the split is by group, as UCF101's.
    """
    root = root.resolve()
    clips = render_demo(root, seed=SEED, n_jobs=jobs or available_cores())
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
    provenance = {"builder": "demo", "revision": REVISION, "seed": SEED}
    return DatasetDescription(name="demo", table=table, provenance=provenance)
