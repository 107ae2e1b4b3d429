"""The store of extracted features: HDF5 shards that carry their own checksums (docs/cache-format.md).

cache/<collection>/<feature-name>-<key>/shard-<clips>-<hash>.h5

    fingerprint.py   identity of a media file
    shard_writer.py  writes one shard
    shard_reader.py  reads and validates one shard
    clip_query.py    clips as columns, with the state of their media files
    store.py         all shards of a feature as one table
    claims.py        clips that running extractions have claimed
    load.py          `avfuse.load`
    streaming.py     features larger than memory, in batches
    catalog.py       contents of a cache, intact or not
    maintenance/     summary, verification and repair, removal, export, import
"""

from typing import TYPE_CHECKING

from avfuse.features.cache.clip_query import ClipQuery
from avfuse.features.cache.fingerprint import Fingerprint, fingerprint
from avfuse.features.cache.shard_reader import DamagedShard
from avfuse.features.cache.shard_writer import ChunkResult, Failure
from avfuse.features.cache.store import FeatureStore, Loaded, LookupResult, find_specs
from avfuse.moved_modules import renamed

__all__ = [
    "ChunkResult",
    "ClipQuery",
    "DamagedShard",
    "Failure",
    "FeatureStore",
    "Fingerprint",
    "Loaded",
    "LookupResult",
    "find_specs",
    "fingerprint",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"AskedClips": "ClipQuery", "Found": "LookupResult"})
