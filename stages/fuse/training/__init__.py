"""Training of heads: jobs, epochs of one head or of many in one pass, the choice of the epoch and the refit."""
