"""Stage one as a whole against the bare networks: clips of UCF101's kind from disk to committed shards, over the same
networks' forward passes on tensors that lie ready, on the same device with the same batches.

Networks have random weights (`lite` its real ones), which changes no time. Last, what it saves to decode a clip once
for all backbones. On a machine with a GPU everything runs there, in bfloat16, with all five of the papers' backbones at
once as a further figure; elsewhere on the CPU, in float32.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from bench_media import render_clip
from pairs import Figure, compare, write

from avfuse.features import backbones
from avfuse.features.backbones import WeightsChoice
from avfuse.features.backbones.loading import load
from avfuse.features.clips import Clip
from avfuse.features.requests import resolve
from avfuse.features.spec import FeatureSpec, Precision
from avfuse.stages.extract.chunk import batch_size
from avfuse.stages.extract.extractor import Extractor, Work, distinct_inputs
from avfuse.stages.extract.plan import Job
from avfuse.stages.extract.pool import DecodePool
from avfuse.threads import available_cores

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda:0" if ON_GPU else "cpu"
PRECISION: Precision = "bfloat16" if ON_GPU else "float32"
CLIPS = {"lite": 24, "timesformer": 4, "ast": 6, "vit": 2}
GPU_CLIPS = 256
FRAMES = {"lite": "uniform:26", "vit": "uniform:26"}  # with six images 32 items a clip: batches come out even
WEIGHTS = WeightsChoice("random", (("lite", "auto"),))
FIVE = ("tsn:frames", "inception_resnet_v2:images", "vit:images", "ast", "timesformer")
UCF101_CLIPS_WITH_SOUND = 6837
WORKERS = available_cores()


def main() -> None:
    torch.set_num_threads(WORKERS)
    with tempfile.TemporaryDirectory() as folder:
        write("extract", figures(Path(folder)))


def figures(folder: Path) -> Iterator[Figure]:
    clip = render_clip(folder / "clip.avi", "mpeg4")
    for name, clips in CLIPS.items():
        yield efficiency(name, clip, GPU_CLIPS if ON_GPU else clips, folder)
    yield shared_decode_saving(copies(clip, range(4)))
    if ON_GPU:
        yield from all_five(clip, GPU_CLIPS, folder)


def copies(clip: Path, numbers: Iterable[int]) -> list[Clip]:
    """The same content in files of their own."""
    paths = [clip.with_name(f"clip-{number:03}.avi") for number in numbers]
    for path in paths:
        if not path.exists():
            path.hardlink_to(clip)
    return [Clip(path.stem, path) for path in paths]


def efficiency(name: str, clip: Path, clips: int, folder: Path) -> Figure:
    """How much of the bare networks' speed is left when decoding, drawing and storing are added."""
    specs = resolve([name], FRAMES.get(name), weights=WEIGHTS, precision=PRECISION)
    with extraction(specs, clip, clips, folder / f"cache-{name}") as whole:
        return compare(f"extract_efficiency_{name}", whole, bare(name, specs, clips), speedup=True)


@contextmanager
def extraction(
    specs: Sequence[FeatureSpec], clip: Path, clips: int, cache: Path, workers: int = WORKERS
) -> Iterator[Callable[[], None]]:
    """Called: so many clips that the cache has not seen, from files to a committed chunk. Networks and decode processes
    are kept from call to call."""
    every = tuple(range(len(specs)))
    work = Work(tuple(specs), cache, "bench", (frozenset(),) * len(specs), WEIGHTS)
    first = itertools.count(step=clips)
    with Extractor(work, DEVICE, workers) as extractor:

        def run() -> None:
            start = next(first)
            chunk = [Job(each, every, (0,) * len(specs)) for each in copies(clip, range(start, start + clips))]
            seen = [each for progress in extractor.run([tuple(chunk)]) for each in progress.seen]
            if len(seen) != clips or any(each.failed for each in seen):
                raise RuntimeError(f"not all clips were extracted: {seen}")

        yield run


def bare(name: str, specs: Sequence[FeatureSpec], clips: int) -> Callable[[], None]:
    """As many items through the network, normalised and in the device's memory from the start."""
    backbone = backbones.get(name)
    network = load(backbone, WEIGHTS.of(name, backbone.checkpoints), DEVICE, PRECISION)
    items: dict[tuple[tuple[int, ...], int], int] = {}
    for spec in specs:
        each = spec.input.shape[0] if spec.input.kind == "frames" else 1
        shape = spec.input.shape[1:] if spec.input.kind == "frames" else spec.input.shape
        key = (shape, batch_size(spec.input, DEVICE))
        items[key] = items.get(key, 0) + each * clips
    work = [(ready(shape, size), count, size) for (shape, size), count in items.items()]

    def run() -> None:
        for batch, count, size in work:
            for first in range(0, count, size):
                network(batch[: min(size, count - first)], None).pooled.float().cpu()

    return run


def ready(shape: tuple[int, ...], size: int) -> torch.Tensor:
    """A batch as a network's first layer takes it: pictures channels-last."""
    batch = torch.randn(size, *shape, device=DEVICE, dtype=getattr(torch, PRECISION))
    return batch.movedim(-1, -3) if shape[-1] == 3 else batch


def shared_decode_saving(clips: Sequence[Clip]) -> Figure:
    """Decoding and drawing for all backbones at once, against once for each of them."""
    inputs = {name: distinct_inputs(resolve([name], weights=WeightsChoice("random"))) for name in backbones.names()}
    together = list(dict.fromkeys(each for alone in inputs.values() for each in alone))

    with DecodePool(WORKERS, together) as pool:

        def prepare(*wanted: Sequence[object]) -> None:
            for each in wanted:
                for done in pool.prepare((clip, each) for clip in clips):  # type: ignore[misc]
                    if done.notes:
                        raise SystemExit(f"{done.clip.clip_id}: {done.notes}")

        return compare(
            "shared_decode_saving", lambda: prepare(together), lambda: prepare(*inputs.values()), speedup=True
        )


def all_five(clip: Path, clips: int, folder: Path) -> Iterator[Figure]:
    """The papers' five backbones in one run on a GPU."""
    specs = resolve(FIVE, weights=WEIGHTS, precision=PRECISION)
    with extraction(specs, clip, clips, folder / "cache-five") as run:
        run()
        torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    rates = sorted(clips / each for each in seconds)
    yield Figure("extract_rate_all_five", rates[1], "clips/s", rates[0], rates[2], 3)
    whole = sorted(UCF101_CLIPS_WITH_SOUND / rate for rate in rates)
    yield Figure("extract_seconds_for_6837_clips", whole[1], "s", whole[0], whole[2], 3)
    peak = torch.cuda.max_memory_allocated() / 2**30
    yield Figure("extract_peak_gpu_memory", peak, "GiB", peak, peak, 1)


if __name__ == "__main__":
    main()
