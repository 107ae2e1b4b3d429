"""Builders, one per data set: the names and formats of its official files, and which media file is which clip."""
