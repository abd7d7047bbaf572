"""Measuring generated images: what draws, extracts features, trains a classifier or reads files."""
