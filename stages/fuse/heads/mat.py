"""The Multiscale Audio Transformer of MMT (arXiv 2401.04023) on the filter bank, trained from scratch."""

from collections.abc import Mapping

from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.base import Head, Masks, register_head
from avfuse.stages.fuse.heads.multiscale import MAT, RECIPE, MultiscaleOptions


def bank_encoder(shape: ModalityShape, options: MultiscaleOptions, whose: str) -> MAT:
    """MAT for a modality of this shape. Raises UsageError unless it is the filter bank. whose: of the message."""
    if not shape.raw:
        raise UsageError(f"{whose} takes the filter bank: AUDIO=audio:fbank")
    return MAT(shape.dim, shape.length, options.pooling, options.drop_path)


@register_head("mat", modalities=("audio",), summary="filter bank alone, MMT's multiscale transformer from scratch")
class MATOnly(Head):
    """The filter bank (B, 1024, 128), normalised as it is cached -> MAT -> Linear.

    50.98 M parameters, none of them pretrained, unlike AST's, which have seen AudioSet. Each frame of a clip without
    sound is the learned token.
    """

    class Options(MultiscaleOptions):
        """Pooling, stochastic depth."""

    recipe = RECIPE
    evaluation_batch_size = 64
    accepts_filter_bank = True

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets, options: MultiscaleOptions) -> None:
        encoder = bank_encoder(shapes["audio"], options, f"head '{self.name}'")
        super().__init__(shapes, targets, unstandardised=("audio",))
        self.encode = encoder
        self.classifier = nn.Linear(encoder.dim, targets.width)

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.encode(self.fill_missing(prepared, present)["audio"]).pooled)}
