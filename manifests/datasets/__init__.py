"""Builders, one data set a file: what its official files are called, what they mean, and which file is which clip."""
