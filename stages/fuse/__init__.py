"""Stage two: train light fusion heads on cached features.

targets.py     what heads learn of a clip: one target or several, of one class a clip or any number
data.py        cached features, what is true of each clip, and masks of a data set
modality.py    one modality of it: features with their views, in memory or left on disk
streaming.py   features too large for memory, in shuffled batches
heads/         one fusion module per file: named tensors and masks in, logits out
losses/        one loss per file
masking.py     what masked learning hides; hidden.py: what it is to bring back
recipe.py      how a head is trained; training.py: what a user asks of it
prepared.py    a data set as one kind of head takes it
objective.py   what a head is trained on besides classification
fitting.py     epochs, of one head or of many in one pass
trainer.py     selection on validation, refit; checkpoint.py: where it is kept; companies.py: who trains side by side
metrics.py     what is measured on the test split; subsets.py: tail classes, participants never seen
statistics.py  how sure one can be of it
cost.py        what a head costs
experiment.py  many heads, settings and seeds, saved so that nothing is trained twice; saved.py, reloading.py: read back
sweeps.py      which values win; table.py: rows of a results table
predictions.py what a head says of each clip, its seeds taken together
contribution.py what each modality is worth (contribution_run.py: kept)
robustness.py  what becomes of a head as a modality changes at test (changes.py)
embedding.py   clips in the space of audio-video contrast; retrieval.py: search there, and what it finds
gains.py       classes that one head gets right and another does not
estimator.py   the same heads as a scikit-learn classifier
"""
