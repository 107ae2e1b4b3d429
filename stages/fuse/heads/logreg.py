"""Logistic regression, the usual probe of frozen features."""

from typing import Any

from sklearn.linear_model import LogisticRegression

from avfuse.stages.fuse.heads.base import register_head
from avfuse.stages.fuse.heads.linear import LinearHead, LinearOptions


@register_head(
    "logreg", modalities=("video", "audio"), summary="scikit-learn's LogisticRegression, features side by side"
)
class LinearLogistic(LinearHead):
    """scikit-learn's multinomial LogisticRegression with an L2 penalty: the softmax of logits, or with sigmoid their
    sigmoid, is its predict_proba."""

    class Options(LinearOptions):
        """Inputs, C, iterations."""

    def estimator(self, seed: int) -> Any:
        return LogisticRegression(C=self.options.c, max_iter=self.options.max_iter, random_state=seed)
