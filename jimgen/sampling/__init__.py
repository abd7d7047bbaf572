"""Sampling from trained nets: diffusion maths, solvers, logit filters, guidance and decoding of tokens."""
