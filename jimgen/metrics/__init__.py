"""Metrics of samples and likelihoods: pure functions on arrays. Each docstring explains the meaning of the metric."""
