"""Settings of `make bench-fuse` from the environment (see bench_fuse.py), and what it says."""

import math
import os
from functools import partial

import torch
from pairs import MIN_PAIRS, MIN_SECONDS, compare


def setting(name: str, default: object) -> str:
    return os.environ.get(name) or str(default)


ONLY = setting("ONLY", "flatten,mean,sklearn,tokens,gpu").split(",")
CLIPS = int(setting("CLIPS", 4893))
TEST_CLIPS = math.ceil(CLIPS * 1944 / 4893)
STEPS, EPOCHS = int(setting("STEPS", 16)), int(setting("EPOCHS", 1))
BATCHES = [int(size) for size in setting("BATCHES", "16,128").split(",")]
PAIRS, SECONDS = int(setting("PAIRS", MIN_PAIRS)), float(setting("SECONDS", MIN_SECONDS))
THREADS = int(setting("THREADS", 2))
KEPT = setting("KEPT", 0) != "0"
DEVICE = setting("DEVICE", "cuda" if torch.cuda.is_available() else "none")
TABLE_EPOCHS, PLAIN_EPOCHS, FULL = int(setting("TABLE_EPOCHS", 100)), 3, setting("FULL", 0) != "0"
PRECISION = setting("PRECISION", "auto")

CLASSES, FRAMES, FRAME_DIM, IMAGES, IMAGE_DIM = 51, int(setting("FRAMES", 25)), 1024, 6, 1536
SEEDS = int(setting("SEEDS", 5))
LOSS_TOLERANCE = 0.25
TOKENS = {"video": "timesformer:clip:tokens7x7", "audio": "ast:fbank:tokens"}
TOKEN_CLIPS, TOKEN_CLASSES, TOKEN_BATCH, CLIPS_PER_SHARD = int(setting("TOKEN_CLIPS", 40)), 4, 16, 16
CPU = torch.device("cpu")

timed = partial(compare, min_pairs=PAIRS, min_seconds=SECONDS)


def say(text: str) -> None:
    print(f"# {text}", flush=True)
