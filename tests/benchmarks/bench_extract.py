"""Stage one as a whole against the bare networks: clips of UCF101's kind from disk to committed shards, over the same
networks' forward passes on tensors that lie ready, on the same device with the same batches.

Networks have random weights (`lite` its real ones), which changes no time. Then, what it saves to decode a clip once
for all backbones. On a machine with a GPU everything runs there, in bfloat16, with all five of the papers' backbones at
once as a further figure; elsewhere on the CPU, in float32. Of each backbone:

* extract_efficiency_NAME: how much of the bare networks' speed is left when decoding, drawing and storing are added.
* extract_clips_per_second_NAME, and bare_items_per_second_NAME of the bare networks: pictures, clips or filter banks.
* bare_share_of_TYPE_rate_NAME: the bare networks' arithmetic over what one large product would do in the time.

Environment: ONLY (of lite,timesformer,ast,vit,shared,five), DEVICE, PRECISION, CLIPS, WORKERS, PAIRS, SECONDS.
"""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch
from bench_media import render_clip
from pairs import MIN_PAIRS, MIN_SECONDS, Figure, compare, quartiles, write
from product_rates import product_rates

from avfuse.features import backbones
from avfuse.features.backbones import WeightsChoice
from avfuse.features.backbones.loading import load
from avfuse.features.clips import Clip
from avfuse.features.feature_names import resolve
from avfuse.features.spec import FeatureSpec, Precision
from avfuse.stages.extract.chunk import batch_size
from avfuse.stages.extract.extractor import ExtractionJob, Extractor, distinct_inputs
from avfuse.stages.extract.plan import ClipJob
from avfuse.stages.extract.pool import DecodePool
from avfuse.stages.fuse.training.macs import backbone_macs
from avfuse.threads import available_cores


def setting(name: str, default: object) -> str:
    return os.environ.get(name) or str(default)


DEVICE = setting("DEVICE", "cuda:0" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.startswith("cuda")
PRECISION: Precision = setting("PRECISION", "bfloat16" if ON_GPU else "float32")  # type: ignore[assignment]
CLIPS = {"lite": 24, "timesformer": 4, "ast": 6, "vit": 2}
GPU_CLIPS = 256
ONLY = setting("ONLY", ",".join([*CLIPS, "shared", *(["five"] if ON_GPU else [])])).split(",")
FRAMES = {"lite": "uniform:26", "vit": "uniform:26"}  # with six images 32 items a clip: batches come out even
WEIGHTS = WeightsChoice("random", (("lite", "auto"),))
FIVE = ("tsn:frames", "inception_resnet_v2:images", "vit:images", "ast", "timesformer")
UCF101_CLIPS_WITH_SOUND = 6837
WORKERS = int(setting("WORKERS", available_cores()))
RATE_OF: dict[Precision, str] = {"bfloat16": "bf16", "float16": "bf16", "float32": "fp32"}
"""The large product that a precision is held against; float16's is as fast as bfloat16's."""

timed = partial(compare, min_pairs=int(setting("PAIRS", MIN_PAIRS)), min_seconds=float(setting("SECONDS", MIN_SECONDS)))


def main() -> None:
    torch.set_num_threads(WORKERS)
    with tempfile.TemporaryDirectory() as folder:
        write("extract", figures(Path(folder)))


def figures(folder: Path) -> Iterator[Figure]:
    clip = render_clip(folder / "clip.avi", "mpeg4")
    for name, count in CLIPS.items():
        if name in ONLY:
            yield from of_backbone(name, clip, clips(count), folder / f"cache-{name}")
    if "shared" in ONLY:
        yield shared_decode_saving(copies(clip, range(clips(4, 4))))
    if "five" in ONLY:
        yield from all_five(clip, clips(4), folder / "cache-five")


def clips(on_cpu: int, on_gpu: int = GPU_CLIPS) -> int:
    return int(setting("CLIPS", on_gpu if ON_GPU else on_cpu))


def copies(clip: Path, numbers: Iterable[int]) -> list[Clip]:
    """The same content in files of their own."""
    paths = [clip.with_name(f"clip-{number:03}.avi") for number in numbers]
    for path in paths:
        if not path.exists():
            path.hardlink_to(clip)
    return [Clip(path.stem, path) for path in paths]


class Side:
    """Work that notes how long it took, its first time aside, which nobody measures."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._seconds: list[float] = []

    def __call__(self) -> None:
        start = time.perf_counter()
        self._work()
        self._seconds.append(time.perf_counter() - start)

    def per_second(self, name: str, count: float, unit: str) -> Figure:
        return quartiles(name, [count / each for each in self._seconds[1:]], unit)


def of_backbone(name: str, clip: Path, count: int, cache: Path) -> Iterator[Figure]:
    """How much of the bare networks' speed is left when decoding, drawing and storing are added, and both speeds."""
    specs = resolve([name], FRAMES.get(name), weights=WEIGHTS, precision=PRECISION)
    items = sum(items_of(spec)[0] for spec in specs) * count
    with extraction(specs, clip, count, cache) as run:
        whole = Side(run)
        networks = Side(bare(name, specs, count))
        yield timed(f"extract_efficiency_{name}", whole, networks, speedup=True)
    yield whole.per_second(f"extract_clips_per_second_{name}", count, "clips/s")
    yield networks.per_second(f"bare_items_per_second_{name}", items, "items/s")
    if macs := backbone_macs(specs):
        rate = RATE_OF[PRECISION]
        share = count * macs / rates()[rate]
        yield networks.per_second(f"bare_share_of_{rate}_rate_{name}", share, "x")


@cache
def rates() -> dict[str, float]:
    return product_rates(torch.device(DEVICE))


@contextmanager
def extraction(
    specs: Sequence[FeatureSpec], clip: Path, count: int, cache: Path, workers: int = WORKERS
) -> Iterator[Callable[[], None]]:
    """Called: so many clips that the cache has not seen, from files to a committed chunk. Networks and decode processes
    are kept from call to call."""
    every = tuple(range(len(specs)))
    work = ExtractionJob(tuple(specs), cache, "bench", (frozenset(),) * len(specs), WEIGHTS)
    first = itertools.count(step=count)
    with Extractor(work, DEVICE, workers) as extractor:

        def run() -> None:
            start = next(first)
            chunk = tuple(ClipJob(each, every, (0,) * len(specs)) for each in copies(clip, range(start, start + count)))
            seen = [each for progress in extractor.run([chunk]) for each in progress.seen]
            failed = [each.clip_id for each in seen if each.failed]
            if failed or len(seen) != count:
                raise SystemExit(f"of {count} clips {len(seen)} were worked on, and failed: {failed}")

        yield run


def items_of(spec: FeatureSpec) -> tuple[int, tuple[int, ...]]:
    """How many items of one clip a network is given, and the shape of one."""
    shape = spec.input.shape
    return (shape[0], shape[1:]) if spec.input.kind == "frames" else (1, shape)


def bare(name: str, specs: Sequence[FeatureSpec], clips: int) -> Callable[[], None]:
    """As many items through the network, normalised and in the device's memory from the start."""
    backbone = backbones.get_backbone(name)
    network = load(backbone, WEIGHTS.weights_for(name, backbone.checkpoints), DEVICE, PRECISION)
    items: dict[tuple[tuple[int, ...], int], int] = {}
    for spec in specs:
        each, shape = items_of(spec)
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
    inputs = {
        name: distinct_inputs(resolve([name], weights=WeightsChoice("random"))) for name in backbones.list_backbones()
    }
    together = list(dict.fromkeys(each for alone in inputs.values() for each in alone))

    with DecodePool(WORKERS, together) as pool:

        def prepare(*wanted: Sequence[object]) -> None:
            for each in wanted:
                for done in pool.prepare((clip, each) for clip in clips):  # type: ignore[misc]
                    if done.notes:
                        raise SystemExit(f"{done.clip.clip_id}: {done.notes}")

        return timed("shared_decode_saving", lambda: prepare(together), lambda: prepare(*inputs.values()), speedup=True)


def all_five(clip: Path, count: int, cache: Path) -> Iterator[Figure]:
    """The papers' five backbones in one run."""
    specs = resolve(FIVE, weights=WEIGHTS, precision=PRECISION)
    with extraction(specs, clip, count, cache) as extract:
        run = Side(extract)
        run()
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            run()
    rate = run.per_second("extract_rate_all_five", count, "clips/s")
    yield rate
    whole = [UCF101_CLIPS_WITH_SOUND / each for each in (rate.value, rate.high, rate.low)]
    yield Figure("extract_seconds_for_6837_clips", whole[0], "s", whole[1], whole[2], rate.n)
    if ON_GPU:
        peak = torch.cuda.max_memory_allocated() / 2**30
        yield Figure("extract_peak_gpu_memory", peak, "GiB", peak, peak, 1)


if __name__ == "__main__":
    main()
