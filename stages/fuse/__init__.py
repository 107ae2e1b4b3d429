"""Stage two: train light fusion heads on cached features.

config.py      Recipe, how a head is trained, and Settings, a head's options
streaming.py   features too large for memory, as PyTorch batches
data/          a data set as tensors: features, targets, splits, filter banks and their masks
losses/        classification, contrastive, matching, masked reconstruction, L1
evaluation/    measures, confidence intervals and tests, subsets of the test split
heads/         the head API and one fusion module per file
training/      from a job to a trained head: epochs, many heads in one pass, choice of the epoch, refit, cost
runs/          many jobs as a run folder; saved heads read back, predictions, rows of a results table
analysis/      Shapley values, robustness, class gains, Grad-CAM and attention rollout, retrieval
estimator.py   the same heads as a scikit-learn classifier

Modules import from those above them alone; import-linter holds it. data/ knows no heads.
"""
