"""MAT-lite: the blocks of MMT's Multiscale Audio Transformer (arXiv 2401.04023) on a frozen backbone's tokens."""

from collections.abc import Mapping

from torch import Tensor, nn

from avfuse.features.errors import UsageError
from avfuse.stages.fuse.data.shapes import ModalityShape
from avfuse.stages.fuse.data.targets import Targets
from avfuse.stages.fuse.heads.base import Head, Masks, register_head
from avfuse.stages.fuse.heads.multiscale import RECIPE, MATLite, MultiscaleOptions


def grid_encoder(shape: ModalityShape, options: MultiscaleOptions, whose: str) -> MATLite:
    """MATLite for the cells of a modality of this shape, without its prefix. Raises UsageError unless they are a grid
    of frequency and time. whose: of the message."""
    if shape.grid is None or len(shape.grid) != 2:
        raise UsageError(f"{whose} takes a grid of audio tokens: AUDIO=ast:fbank:tokens or lite:fbank:tokens")
    rows, columns = shape.grid
    return MATLite(shape.dim, (rows, columns), options.pooling, options.drop_path)


@register_head("mat_lite", modalities=("audio",), summary="grid of audio tokens alone, MMT's multiscale transformer")
class MATLiteOnly(Head):
    """A grid of audio tokens, without CLS and its like -> MATLite -> Linear. Each cell of a clip without sound is the
    learned token."""

    class Options(MultiscaleOptions):
        """Pooling, stochastic depth."""

    recipe = RECIPE

    def __init__(self, shapes: Mapping[str, ModalityShape], targets: Targets, options: MultiscaleOptions) -> None:
        encoder = grid_encoder(shapes["audio"], options, f"head '{self.name}'")
        super().__init__(shapes, targets)
        self.encode = encoder
        self.classifier = nn.Linear(encoder.dim, targets.width)

    def forward(self, prepared: Mapping[str, Tensor], present: Masks) -> dict[str, Tensor]:
        cells = self.fill_missing(prepared, present)["audio"][:, self.shapes["audio"].prefix :]
        return {"logits": self.classifier(self.encode(cells).pooled)}
