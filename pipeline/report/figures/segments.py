"""Plot of the filter bank segments that masked learning hides."""

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from avfuse.features.inputs.filter_bank import MEL_BANDS
from avfuse.stages.fuse.data.audio_masking import (
    SEGMENTS,
    count_valid_frames,
    draw_segment_mask,
    segment_boundaries,
    spectral_change,
    stack_boundaries,
)

_COLOURS = "cividis"
_CHANGE, _CUT = "#00336f", "#9aa5b1"
_SECONDS_PER_FRAME = 0.01


def segments_page(bank: NDArray[np.float32], name: str, seed: int = 0) -> Figure:
    """A filter bank (1024, 128), how much it changes with the points where that cuts it, and one draw of the segments
    that MASegm hides along all bands (AVT's Figure 4 b)."""
    valid = int(count_valid_frames(torch.from_numpy(bank)[None]))
    boundaries = stack_boundaries([segment_boundaries(bank, valid)])
    masked = draw_segment_mask(boundaries, torch.Generator().manual_seed(seed))[0].numpy()
    edges = boundaries[0].numpy()
    count = int((np.diff(edges) > 0).sum())
    figure = Figure(figsize=(10, 7), dpi=100, layout="constrained")
    above, between, below = figure.subplots(3, 1, sharex=True, height_ratios=(5, 2, 5))
    own = bank[:valid].T
    hidden = np.repeat(masked, np.diff(edges)[:SEGMENTS]) if valid else np.zeros(0, dtype=bool)
    cuts = edges[1:count] * _SECONDS_PER_FRAME
    for axes, values in ((above, own), (below, np.where(hidden, np.nan, own))):
        image = axes.imshow(
            values,
            origin="lower",
            aspect="auto",
            cmap=_COLOURS,
            extent=(0, valid * _SECONDS_PER_FRAME, 0, MEL_BANDS),
            vmin=own.min(),
            vmax=own.max(),
        )
        axes.vlines(cuts, 0, MEL_BANDS, colors="white", linewidth=0.8, alpha=0.7)
        axes.set(ylabel="mel band", facecolor="white")
    change = spectral_change(bank, valid)
    between.plot((np.arange(valid) + 0.5) * _SECONDS_PER_FRAME, change, color=_CHANGE, linewidth=1)
    usual = 1.5 * float(np.quantile(change, 0.95)) if valid else 0.0
    between.set(ylabel="change", ylim=(0, usual or 1))
    between.vlines(cuts, 0, 1, colors=_CUT, linewidth=0.8, transform=between.get_xaxis_transform())
    between.spines[["top", "right"]].set_visible(False)
    above.set_title(f"{name}: filter bank, cut into {count} segments where the sound changes most", fontsize=11)
    below.set_title(f"one draw: {int(masked.sum())} of {count} segments hidden (white)", fontsize=11)
    below.set_xlabel("seconds")
    figure.colorbar(image, ax=[above, below], label="log energy, normalised", pad=0.01, fraction=0.03)
    return figure
