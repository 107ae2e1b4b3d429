"""What a feature extractor of transformers makes of samples. Decode processes import it here, when they need it."""

import json
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def extracted(extractor: str, samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """One clip's features, float32, of the shape that the extractor gives.

    Args:
        extractor: its configuration as JSON, with `feature_extractor_type`.
        samples: mono (n,), at its rate, no longer than it hears.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter")
        given = _made(extractor)(samples, sampling_rate=rate_hz, return_tensors="np")
    name = next(name for name in ("input_features", "input_values") if name in given)
    return np.asarray(given[name][0], dtype=np.float32)


@lru_cache(maxsize=4)
def _made(extractor: str) -> Any:
    import transformers

    described = json.loads(extractor)
    return getattr(transformers, described["feature_extractor_type"]).from_dict(described)
