"""One extraction of a torture: MEDIA CACHE [SCHEDULER]. Its last line says what it did, as JSON."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.stages.extract import plan
from avfuse.stages.extract.run import extract

FEATURES = ["lite:frames", "image:mfcc", "audio:fbank"]


def main(media: str, cache: str, scheduler: str | None = None) -> None:
    plan.CHUNK_CLIPS = 16
    clips = [Clip(path.stem, path) for path in sorted(Path(media).glob("*.avi"))]
    with ExitStack() as stack:
        engine = None
        if scheduler is not None:
            from avfuse.pipeline.cluster.dask_engine import DaskEngine

            engine = stack.enter_context(DaskEngine(scheduler, "cpu", 1))
        summary = extract(
            clips,
            resolve(FEATURES, "uniform:1"),
            Path(cache),
            "torture",
            device="cpu",
            workers=3,
            engine=engine,
            progress=False,
            log=lambda line: print(line, flush=True),
        )
    extra = sum(feature.extra for feature in summary.features)
    print(json.dumps({"new": summary.new, "elsewhere": summary.elsewhere, "extra": extra}))


if __name__ == "__main__":
    main(*sys.argv[1:])
