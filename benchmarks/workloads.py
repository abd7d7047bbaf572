"""The workloads of throughput.py, as methods."""

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import optax
from jax import Array, lax

from jimgen import noise
from jimgen.methods.flow import flow
from jimgen.methods.gan import gan
from jimgen.methods.likelihoods import bernoulli
from jimgen.methods.method import Method
from jimgen.methods.vae import vae
from jimgen.nets import sngan
from jimgen.nets.dcgan import Discriminator, Generator
from jimgen.nets.diffusion_transformer import DiffusionTransformer
from jimgen.nets.layers import Dtype, at_least_float32, normal_02
from jimgen.nets.transformer import (
    Backbone,
    Cache,
    causal_mask,
    cudnn_attention,
    einsum_attention,
    num_heads,
    xla_attention,
)
from jimgen.nets.vae import ConvDecoder, ConvEncoder
from jimgen.objectives import HINGE, cross_entropy
from jimgen.sampling import solvers as samplers
from jimgen.sampling.logits import PLAIN
from jimgen.sampling.tokens import decode_one_by_one
from jimgen.train_step import Aux, Batch, Phase, Variables

ATTENTIONS = {"einsum": einsum_attention, "xla": xla_attention, "cudnn": cudnn_attention}
EULER_STEPS = 50  # of dit's sampler


class Workload(NamedTuple):
    method: Method
    turns: int = 1  # of the loop that draws images


def build(
    name: Literal["dcgan", "sngan", "vae", "r1", "gpt", "dit"],
    dtype: Dtype = jnp.float32,
    *,
    size: int = 32,
    patch: int = 4,
    depth: int = 6,
    width: int = 256,
    attention: Literal["einsum", "xla", "cudnn"] = "einsum",
    scan: bool | None = None,
) -> Workload:
    """A workload by its name; what stands after the dtype is for transformers, `size` and `patch` for dit alone."""
    if name in ("gpt", "dit"):
        options = {"width": width, "depth": depth, "mlp": "gelu", "norm": "layer", "qk_norm": False, "scan": scan}
        options |= {"dtype": dtype, "attention": ATTENTIONS[attention]}
        return gpt(**options) if name == "gpt" else dit(size, patch, **options)
    shape = (32, 32, 1)
    if name == "vae":
        encoder, decoder = ConvEncoder(64, dtype=dtype), ConvDecoder(shape, dtype=dtype)
        likelihood = bernoulli(binarise=False)
        tx = optax.adam(1e-3)
        return Workload(vae(encoder, decoder, latent_dim=64, tx=tx, likelihood=likelihood, kl_weight=4.0))
    if name == "sngan":
        tx = optax.adam(2e-4, 0.0, 0.9)
        generator = sngan.Generator(shape, (64, 64, 64, 64), dtype=dtype)
        discriminator = sngan.Discriminator((64, 64, 64, 64), dtype=dtype)
        options = {"latent_dim": 128, "generator_tx": tx, "discriminator_tx": tx, "loss": HINGE}
        return Workload(gan(generator, discriminator, **options))
    r1 = name == "r1"
    tx = optax.adam(2e-4, 0.0, 0.99) if r1 else optax.adam(2e-4, 0.5, 0.999)
    method = gan(
        Generator(shape, dtype=dtype),
        Discriminator(batch_norm=not r1, dtype=dtype),
        latent_dim=100,
        generator_tx=tx,
        discriminator_tx=tx,
        r1=10.0 if r1 else 0.0,
    )
    return Workload(method)


def example_batch(batch_size: int, size: int) -> Batch:
    """A batch of black images with labels, for initialisation and shapes."""
    index = jnp.arange(batch_size, dtype=jnp.int32)
    return {"image": jnp.zeros((batch_size, size, size, 1)), "label": index % 10, "index": index}


class GPT(nn.Module):
    """Tokens int32 [b, t] -> logits [b, t, num_codes], each from earlier tokens; learned positions, no biases.

    Plainer than jimgen's TokenTransformer, which has places to come and rotary positions as well.
    """

    backbone: Backbone
    num_codes: int = 512
    num_tokens: int = 256

    def setup(self) -> None:
        width, dtype = self.backbone.width, self.backbone.dtype
        self.token = nn.Embed(self.num_codes + 1, width, embedding_init=normal_02)  # the last index is the start token
        self.place = self.param("place", normal_02, (self.num_tokens, width))
        self.output = nn.Dense(self.num_codes, use_bias=False, kernel_init=normal_02, dtype=dtype)

    def __call__(self, tokens: Array) -> Array:
        before = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=self.num_codes)
        y = self.backbone(self.token(before) + self.place[None], mask=causal_mask(self.num_tokens))
        return at_least_float32(self.output(y))

    def decode(self, cache: Cache, tokens: Array, i: Array) -> tuple[Array, Cache]:
        """The logits [b, num_codes] of token i alone; call it for i = 0, 1, ... in this order."""
        token = lax.dynamic_slice_in_dim(tokens, jnp.maximum(i - 1, 0), 1, axis=1)
        place = lax.dynamic_slice_in_dim(self.place, i, 1)
        x = self.token(jnp.where(i == 0, self.num_codes, token)) + place[None]
        y, cache = self.backbone.decode(x, cache)
        return at_least_float32(self.output(y))[:, 0], cache


def gpt(*, width: int, num_codes: int = 512, num_tokens: int = 256, **options: Any) -> Workload:
    """A GPT trained on random tokens, new ones at each step; it samples tokens int32 [n, num_tokens], not images."""
    net = GPT(Backbone(width, num_heads=num_heads(width, 32), **options), num_codes, num_tokens)

    def init(key: Array, batch: Batch) -> Variables:
        return {"net": net.init(key, jnp.zeros((2, num_tokens), jnp.int32))}

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        draws = noise.uniform(key, batch["index"], (num_tokens,)) * num_codes
        tokens = jnp.minimum(draws.astype(jnp.int32), num_codes - 1)
        logits: Any = net.apply(variables["net"], tokens)
        return cross_entropy(logits, tokens).mean(), Aux({})

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        def step(cache: Cache, tokens: Array, i: Array) -> Any:
            return net.apply(variables["net"], cache, tokens, i, method="decode")

        tokens = jnp.zeros((labels.shape[0], num_tokens), jnp.int32)
        cache = net.backbone.empty_cache(labels.shape[0], num_tokens)
        return decode_one_by_one(step, cache, tokens, tokens > 0, key, PLAIN)

    tx = optax.adamw(3e-4, 0.9, 0.95, weight_decay=0.1)
    method = Method(init=init, phases=(Phase("gpt", ("net",), objective, tx),), ema=(), sample=sample)
    return Workload(method, num_tokens)


class WithoutRotary(Backbone):
    """The backbone without rotary positions, as the tokens already contain positions."""

    def __call__(self, x: Array, *, positions: Array | None = None, **options: Any) -> Array:
        return super().__call__(x, **options)


def dit(size: int, patch: int, *, width: int, **options: Any) -> Workload:
    """Flow matching with a DiT on grey images of 10 classes."""
    backbone = WithoutRotary(width, num_heads=num_heads(width, 64), use_bias=True, **options)
    method = flow(
        DiffusionTransformer(patch, 10, backbone),
        image_shape=(size, size, 1),
        num_classes=10,
        tx=optax.adam(1e-4),
        sampler=samplers.euler,
        num_steps=EULER_STEPS,
    )
    return Workload(method, EULER_STEPS)
