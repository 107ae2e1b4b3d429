"""Accuracy and other metrics, confidence intervals, and subsets that benchmarks report."""
