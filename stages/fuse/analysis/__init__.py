"""What trained heads rest on: Shapley values, robustness, class gains, attribution, retrieval."""
