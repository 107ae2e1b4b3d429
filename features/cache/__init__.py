"""The store of extracted features: HDF5 shards that carry their own proof.

cache/<collection>/<feature-name>-<key>/shard-<clips>-<hash>.h5
"""

from features.cache.fingerprint import Fingerprint, fingerprint
from features.cache.shard import ChunkResult, Failure
from features.cache.store import FeatureStore, Loaded, find_specs

__all__ = ["ChunkResult", "Failure", "FeatureStore", "Fingerprint", "Loaded", "find_specs", "fingerprint"]
