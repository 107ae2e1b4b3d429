"""Cells of tokens."""

import numpy as np
import torch

from avfuse.features.backbones import WeightsChoice
from avfuse.features.feature_names import resolve
from avfuse.stages.fuse.data.dataset import Modality
from avfuse.stages.fuse.data.modality import FeatureLayout
from avfuse.stages.fuse.data.token_layout import feature_tokens


class TestFeatureTokens:
    def test_cells_are_the_tokens_behind_cls_with_time_first(self) -> None:
        (spec,) = resolve(["lite:fbank:tokens"])
        spec = spec.model_copy(update={"shape": (130, 16)})
        modality = Modality(
            torch.zeros(1, 130, 16), torch.ones(1, dtype=torch.bool), (), None, FeatureLayout.of("audio", [spec])
        )
        (part,) = feature_tokens(modality, (0,))
        np.testing.assert_array_equal(part.tokens, 2 + np.arange(128).reshape(4, 32))
        (spec,) = resolve(["timesformer:clip:tokens"], weights=WeightsChoice("random"))
        modality = Modality(
            torch.zeros(1, *spec.shape), torch.ones(1, dtype=torch.bool), (), None, FeatureLayout.of("video", [spec])
        )
        (part,) = feature_tokens(modality, (0,))
        assert part.tokens.shape == (8, 14, 14)
        np.testing.assert_array_equal(part.tokens[:, 0, 0], 1 + np.arange(8))

    def test_frames_of_cells_and_pictures(self) -> None:
        specs = resolve(["lite:frames:tokens"])
        length = int(np.prod(specs[0].shape[:-1]))
        modality = Modality(
            torch.zeros(1, length, 1280), torch.ones(1, dtype=torch.bool), (), None, FeatureLayout.of("video", specs)
        )
        (part,) = feature_tokens(modality, (0,))
        np.testing.assert_array_equal(part.tokens, np.arange(25 * 49).reshape(25, 7, 7))
        specs = resolve(["lite:mfcc", "lite:chromagram"])
        modality = Modality(
            torch.zeros(1, 2, 1280), torch.ones(1, dtype=torch.bool), (), None, FeatureLayout.of("audio", specs)
        )
        assert [(part.name, part.tokens.tolist()) for part in feature_tokens(modality, (0,))] == [
            ("lite:mfcc", 0),
            ("lite:chromagram", 1),
        ]
