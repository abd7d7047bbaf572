"""Metrics of samples and likelihoods: pure functions on arrays; what a figure means stands in each docstring."""
