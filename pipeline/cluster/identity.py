"""Whether a cluster's workers run the same code and see the same cache as the client."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from socket import gethostname

import xxhash

from avfuse import features, stages
from avfuse.features.cache.shard_writer import software_versions
from avfuse.threads import available_cores


@dataclass(frozen=True)
class WorkerIdentity:
    """A process: the versions of what features depend on, this code included, and where it runs."""

    versions: dict[str, str]
    """Versions by library."""
    sees_cache: bool
    host: str
    cores: int


@cache
def code_hash() -> str:
    """A hash of the source that computes features."""
    state = xxhash.xxh3_64()
    for package in (features, stages):
        root = Path(next(iter(package.__path__))).resolve()
        for path in sorted(root.rglob("*.py")):
            state.update(path.relative_to(root).as_posix().encode())
            state.update(path.read_bytes())
    return state.hexdigest()


def identity(token: Path) -> WorkerIdentity:
    """The identity of this process. token: a file that the client has just written into the cache."""
    return WorkerIdentity(
        {**software_versions(), "avfuse's code": code_hash()},
        token.is_file(),
        gethostname(),
        available_cores(),
    )


def incompatibility(client: WorkerIdentity, worker: WorkerIdentity) -> str | None:
    """Reason why a worker would not compute the client's features; None if it would."""
    for name, version in client.versions.items():
        if worker.versions.get(name) != version:
            return f"has {name} {worker.versions.get(name)}, and the client {version}"
    return None if worker.sees_cache else "does not see the client's cache folder: both need it under one path"


def cores_per_worker(workers: Iterable[WorkerIdentity]) -> int:
    """Cores that each worker has to itself on the machine where they are fewest."""
    workers = list(workers)
    per_host = Counter(worker.host for worker in workers)
    return max(1, min((worker.cores // per_host[worker.host] for worker in workers), default=1))
