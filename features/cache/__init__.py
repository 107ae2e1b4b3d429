"""The store of extracted features: HDF5 shards that carry their own proof (docs/cache-format.md).

cache/<collection>/<feature-name>-<key>/shard-<clips>-<hash>.h5

    fingerprint.py  whether a media file is still the same
    shard.py        writing one shard
    reading.py      reading one, suspiciously
    asked.py        clips as columns, and how their files stand
    store.py        all shards of a feature as one table
    claims.py       which clips other runs have in work
    loading.py      `avfuse.load`
    streaming.py    features larger than memory, in batches
    catalog.py      what lies in a cache, whatever state it is in
    listing.py      how every feature stands
    verify.py       proving shards, and putting right what is wrong
    rewriting.py    taking rows out of shards, which never change
    removal.py      taking features away, and rows nobody can ask for
    exporting.py    a feature as one file
    importing.py    features that were computed elsewhere
"""

from avfuse.features.cache.clip_query import AskedClips
from avfuse.features.cache.fingerprint import Fingerprint, fingerprint
from avfuse.features.cache.shard_reader import DamagedShard
from avfuse.features.cache.shard_writer import ChunkResult, Failure
from avfuse.features.cache.store import FeatureStore, Found, Loaded, find_specs

__all__ = [
    "AskedClips",
    "ChunkResult",
    "DamagedShard",
    "Failure",
    "FeatureStore",
    "Fingerprint",
    "Found",
    "Loaded",
    "find_specs",
    "fingerprint",
]
