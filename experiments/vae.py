"""VAE: an encoder and a decoder learn a latent space by the loss reconstruction + lambda KL.

Kingma and Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114.

    python experiments/vae.py --data digits --size 16 --conditional --steps 1000
    python experiments/vae.py --data fashion_mnist --net mlp --steps 12000 --ema-half-life 140000
    python experiments/vae.py --data fashion_mnist --net conv --steps 4500 --ema-half-life 100000

On an accelerator, 64 pixels, colour:

    python experiments/vae.py --data folder:pictures/ --size 64 --likelihood learned_gaussian --latent-dim 128 \
        --width 64 --hidden 1024 --batch-size 256 --learning-rate 1e-3 --warmup-steps 1000 --steps 50000 \
        --ema-half-life 200000 --dtype bfloat16

Results on binarised Fashion-MNIST, seed 0, two CPU cores (AMD EPYC, 2026-11-23): the dense net (second command) reaches
a test -ELBO of 234.1 nats (reconstruction 218.2, KL 15.9) in 263 s, on a machine that also had other work; the
convolutional one (third command) 233.8 nats (214.8, 18.9) in 249 s. The fourth command has not run yet. "Priors of the
VAE" in docs/results.md compares the priors.
"""

from jimgen.experiment import (  # first, so that Ctrl-C works while JAX loads
    COUNT,
    DRAWING,
    ScheduledConfig,
    main,
)

# isort: split
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import flax.linen as nn
import optax

from jimgen.data.dataset import DataSpec
from jimgen.methods.likelihoods import bernoulli, gaussian
from jimgen.methods.method import Method
from jimgen.methods.priors import flow_prior, standard_prior, vamp_prior
from jimgen.methods.vae import vae
from jimgen.nets.latent_flow import VelocityMLP
from jimgen.nets.layers import num_halvings
from jimgen.nets.vae import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder


@dataclass(frozen=True, kw_only=True)
class Config(ScheduledConfig):
    net: Literal["conv", "mlp"] = "conv"
    """kind of both nets: strided convolutions, or dense layers"""
    latent_dim: int = field(default=32, metadata=COUNT)
    """dimensions of the latent z"""
    width: int = field(default=32, metadata=COUNT)
    """channels of the largest feature maps (conv); they double at every halving of the image"""
    hidden: int = field(default=512, metadata=COUNT)
    """units of the dense layers"""
    conditional: bool = False
    """give class and attributes to both nets"""
    label_drop: float = 0.1
    """probability with which training hides the labels, where there are attributes, so that they may be left open"""
    likelihood: Literal["bernoulli", "cross_entropy", "gaussian", "learned_gaussian"] = "bernoulli"
    """distribution of pixels. bernoulli binarises them anew at each step, cross_entropy keeps grey values, gaussian has
    standard deviation sigma, learned_gaussian learns it"""
    sigma: float = 0.1
    """standard deviation of pixels in [-1, 1] (gaussian): ||x - D(E(x))||^2 + lambda KL with lambda = 2 sigma^2"""
    prior: Literal["standard", "vamp", "flow"] = "standard"
    """distribution of z. vamp is a mixture of the posteriors of learned images, trained with the nets; flow is fitted
    to the latents of nets that are trained for the standard one"""
    components: int = field(default=500, metadata=COUNT)
    """learned images (vamp)"""
    kl_weight: float = 1.0
    """weight of the KL term: beta of a beta-VAE"""
    importance_samples: int = 0
    """number k of decoded samples per test image for the tighter bound IWAE-k, a test metric; 0 for the ELBO alone"""
    learning_rate: float = 2e-3
    """peak learning rate of Adam"""
    warmup_steps: int = 250
    """steps over which the learning rate rises from 0; then it falls to 0 along a cosine"""
    batch_size: int = 200
    """images a step, over all devices"""
    steps: int = 2000
    """train steps in all, those before a resume included"""
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=DRAWING)
    """precision of the computation; parameters stay float32"""


def build(config: Config, data: DataSpec) -> Method:
    num_classes = data.conditions if config.conditional else 0
    if config.conditional and not num_classes:
        raise ValueError(f"--conditional needs classes or attributes, and {data.name} has none")
    shared = {"num_classes": num_classes, "activation": nn.silu, "dtype": config.dtype}
    if config.net == "conv":
        height, width, _ = data.shape
        widths = tuple(config.width * 2**i for i in range(max(1, num_halvings(height, width))))
        encoder = ConvEncoder(config.latent_dim, widths, config.hidden, **shared)
        decoder = ConvDecoder(data.shape, tuple(reversed(widths)), config.hidden, **shared)
    else:
        encoder = MLPEncoder(config.latent_dim, (config.hidden,) * 2, **shared)
        decoder = MLPDecoder(data.shape, (config.hidden,) * 2, **shared)
    likelihoods = {
        "bernoulli": bernoulli,
        "cross_entropy": partial(bernoulli, binarise=False),
        "gaussian": partial(gaussian, config.sigma),
        "learned_gaussian": gaussian,
    }
    priors = {
        "standard": partial(standard_prior, config.latent_dim),
        "vamp": partial(vamp_prior, config.latent_dim, data.shape, config.components, num_classes),
        "flow": partial(flow_prior, config.latent_dim, VelocityMLP(dtype=config.dtype)),
    }
    return vae(
        encoder,
        decoder,
        latent_dim=config.latent_dim,
        num_classes=num_classes,
        label_drop=config.label_drop if data.attributes else 0.0,
        tx=optax.adam(config.schedule()),
        likelihood=likelihoods[config.likelihood](),
        kl_weight=config.kl_weight,
        importance_samples=config.importance_samples,
        prior=priors[config.prior](),
    )


if __name__ == "__main__":
    main(Config, build)
