"""Training fusion heads on cached features against the loop that torch's tutorials write, and against scikit-learn.

Features are made up, with classes in them, in the shapes of MAiVAR's on UCF101: 4,893 training and 1,944 test clips of
51 classes, TSN 25 x 1024, Inception-ResNet-v2 1536 for each of six audio images. On a CPU, N being the batch size:

* fuse_speedup_flatten_batchN: one fusion head, all frames and one image side by side (27,136 - 512 - 256 - 51).
* fuse_speedup_mean_batchN: 5 seeds x 6 audio images, the mean frame and one image (2,560 - 512 - 256 - 51), given to
  `train_epochs` at once, against 30 nets one after the other.
* fuse_mean_together_over_alone_batchN: the same 30 heads side by side against one after the other, both avfuse's; how
  many times faster side by side is.
* fuse_speedup_over_sklearn_mean_batchN: 6 of these heads, one an image, against 6 of scikit-learn's MLPClassifier.
* token_step_time_over_in_memory: a bottleneck head over 393 and 1,214 tokens from shards on disk, against from memory.

The plain loop is nn.Linear, nn.ReLU, nn.Dropout, a TensorDataset of standardised and concatenated inputs on the device,
DataLoader(shuffle=True) without workers, cross-entropy, torch.optim.Adam as it comes; its loss is summed up without
waiting for the device. Both sides have the same inputs (which is checked), batches, epochs, learning rate and threads,
and nothing is validated. Inputs are prepared before the clock runs: fuse_preparation_time_over_plain_flatten compares
that by itself. At small batches an epoch has fewer clips, so that it is STEPS batches. Heads go on learning from pair
to pair, and a figure counts only where the losses of both sides fell and are on average within a quarter of each other
(scikit-learn's, which has no dropout, need only have fallen).

The other side has a process of its own, which waits while avfuse trains: how a process treats freed memory decides much
of the time here, and what avfuse asks for its own must not help the other. KEPT=1 lets the other side's process keep
large buffers as well (glibc's MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_), and adds _kept to figures' names.

With a GPU, MAiVAR's Table II as a whole: 30 audio heads, 30 flatten fusion heads and 5 video heads, 100 epochs and a
test: gpu_table2_seconds, gpu_table2_speedup over the plain loop, one net after the other, and gpu_share_of_TYPE_rate,
the arithmetic of all training steps over the time that it would take at the rate of one large product.

Environment: ONLY (of flatten,mean,sklearn,tokens,gpu), CLIPS, STEPS and EPOCHS of a measurement, BATCHES (16,128),
PAIRS, SECONDS, THREADS, KEPT, TOKEN_CLIPS, SEEDS, FRAMES; DEVICE, TABLE_EPOCHS, PRECISION (auto, float32 or bfloat16:
avfuse's on the GPU), FULL=1 to train the plain loop's whole table instead of three epochs of one net of each kind.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from fuse_data import made_up
from fuse_heads import cpu_figures
from fuse_settings import DEVICE, ONLY, THREADS, TOKENS, say
from fuse_table import table_figures
from fuse_tokens import save_tokens, token_figure
from pairs import Figure, write
from threadpoolctl import threadpool_limits

from avfuse.features.malloc import keep_large_buffers
from avfuse.stages.fuse.data.dataset import load_data


def main() -> None:
    torch.set_num_threads(THREADS)
    keep_large_buffers()  # as training does
    with threadpool_limits(THREADS), tempfile.TemporaryDirectory() as folder:
        write("fuse", with_range(figures(Path(folder))))


def figures(folder: Path) -> Iterator[Figure]:
    yield from cpu_figures()
    made_up.cache_clear()
    if "tokens" in ONLY:
        manifest = save_tokens(folder)
        inputs = {name: [feature] for name, feature in TOKENS.items()}
        yield token_figure(*(load_data(manifest, folder, inputs, memory_bytes=limit) for limit in (None, 0)))
    if "gpu" in ONLY and DEVICE != "none":
        yield from table_figures(torch.device(DEVICE))


def with_range(every: Iterable[Figure]) -> Iterator[Figure]:
    for figure in every:
        yield figure
        say(f"{figure.low:.3f} to {figure.high:.3f} between quartiles, n = {figure.n}")


if __name__ == "__main__":
    main()
