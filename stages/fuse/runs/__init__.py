"""Trained heads on disk: the folder of a run, experiments that fill it, and reading them back."""
