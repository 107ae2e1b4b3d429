"""Heatmaps of what heads attend to, over the inputs of the networks."""
