"""How far bfloat16 and float16 move features from float32: for every backbone, the relative error and the largest angle
of the pooled vectors of two structured pictures (clips, sounds). `lite` has its real weights, the others random ones.
"""

import torch

from avfuse.features import backbones
from avfuse.features.backbones import WeightsChoice
from avfuse.features.backbones.loading import load, noise

ITEMS = 2
PRECISIONS = ("bfloat16", "float16") if torch.cuda.is_available() else ("bfloat16",)  # CPUs crawl in float16
WEIGHTS = WeightsChoice("random", (("lite", "auto"),))


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"on {device}, relative error and 1 - cosine, the worst of {ITEMS}")
    print(f"{'':<22}" + "".join(f"{precision:>24}" for precision in PRECISIONS))
    for name in backbones.list_backbones():
        backbone = backbones.get_backbone(name)
        weights = WEIGHTS.weights_for(name, backbone.checkpoints)
        torch.manual_seed(0)
        items = noise(backbone, ITEMS)
        full = load(backbone, weights, device)(items, None).pooled.float()
        line = f"{name:<22}"
        for precision in PRECISIONS:
            half = load(backbone, weights, device, precision)(items, None).pooled.float()
            error = ((half - full).norm(dim=1) / full.norm(dim=1)).max()
            angle = 1 - torch.nn.functional.cosine_similarity(half, full).min()
            line += f"{error:>12.1e}{angle:>12.1e}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
