"""A data set's features, truth and masks as tensors. Knows nothing of heads."""
