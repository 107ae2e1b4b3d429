"""Analysis of trained heads: Shapley values, robustness, class gains, attribution, retrieval."""
