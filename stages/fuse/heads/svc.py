"""A linear support vector machine, the baseline of MAiVAR's published notebooks (arXiv 2209.04780)."""

from typing import Any

from sklearn.svm import LinearSVC

from avfuse.stages.fuse.heads.base import register_head
from avfuse.stages.fuse.heads.linear import LinearHead, LinearOptions


@register_head("svc", modalities=("video", "audio"), summary="scikit-learn's LinearSVC, features side by side")
class LinearSupportVectors(LinearHead):
    """scikit-learn's LinearSVC, each class against the others, squared hinge loss. The notebooks fit it on sound alone
    (inputs=audio).

    Logits are margins, not log-probabilities: the largest is scikit-learn's prediction, but their cross-entropy means
    little.
    """

    class Options(LinearOptions):
        """Inputs, C, iterations."""

    def estimator(self, seed: int) -> Any:
        return LinearSVC(C=self.options.c, max_iter=self.options.max_iter, random_state=seed)
