"""Audio features of transformers' feature extractors; transformers is imported on first use, in decode workers."""

import json
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def hf_audio_features(extractor: str, samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """Compute one clip's features: float32, in the extractor's own shape.

    Args:
        extractor: configuration as JSON, with `feature_extractor_type`.
        samples: mono (n,), no longer than the extractor's window.
        rate_hz: the extractor's sampling rate.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter")
        features = _load_extractor(extractor)(samples, sampling_rate=rate_hz, return_tensors="np")
    name = next(name for name in ("input_features", "input_values") if name in features)
    return np.asarray(features[name][0], dtype=np.float32)


@lru_cache(maxsize=4)
def _load_extractor(extractor: str) -> Any:
    import transformers

    configuration = json.loads(extractor)
    return getattr(transformers, configuration["feature_extractor_type"]).from_dict(configuration)
