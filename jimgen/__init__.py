"""jimgen: image generation in JAX. GANs, VAEs and Transformers as pure functions over immutable pytrees."""

__version__ = "0.1.0"
