"""Stage two: train light fusion heads on cached features.

targets.py     what heads learn of a clip: one target or several, of one class a clip or any number
data.py        cached features, what is true of each clip, and masks of a data set, as tensors
streaming.py   features too large for memory, in shuffled batches
heads/         one fusion module per file: named tensors and masks in, logits out
losses/        one loss per file
trainer.py     epochs, selection on validation, refit
metrics.py     what is measured on the test split, and its interval
experiment.py  many heads and seeds, saved so that nothing is trained twice
table.py       rows of a results table
predictions.py what a head says of each clip, its seeds taken together
"""
