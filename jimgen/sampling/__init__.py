"""From a trained net to images: diffusion maths, solvers, logits and guidance."""
