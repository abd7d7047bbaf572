"""Loss functions: pure maths on arrays, without networks, keys or state.

Conventions that every function here follows:

- The first axis of an array is the batch. A loss returns one number per example, `[b]`; the caller takes the mean.
- Data and latent dimensions are *summed* and logarithms are natural: likelihoods and divergences are nats per image.
- Arithmetic runs in float32, or in float64 for float64 arrays. Integers, booleans and 16-bit floats are first converted
  to float32, so that differences of uint8 do not wrap around and sums stay accurate.
- Probabilities stay in log space: values and gradients are finite at logits of +-200.
- Log variances may have any value. Terms are exact for exponents below 60. Above, e^x is replaced by its tangent at 60,
  so that values and gradients stay finite and gradients keep their sign (`_exp_then_linear`).
- Shapes that would broadcast by mistake, such as [b, 1] with [b], raise ValueError; so do weights that are not scalars.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.nn import log_sigmoid, logsumexp, relu, sigmoid, softplus
from jax.scipy.special import entr

from jimgen.parallel import device_axis, mean_over_devices
from jimgen.precision import at_least_float32

Scalar = Array | float


def _of_one_shape(**arrays: Array) -> list[Array]:
    """Converts the arrays to float32 or higher; raises ValueError if their shapes differ."""
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"expected equal shapes, got {listed}")
    return [at_least_float32(array) for array in arrays.values()]


def _require_scalar(**numbers: Scalar) -> None:
    for name, number in numbers.items():
        if jnp.shape(number) != ():
            raise ValueError(f"expected {name} a scalar, got {list(jnp.shape(number))}")


def _one_an_example(**arrays: Array) -> list[Array]:
    """Does the same as `_of_one_shape`, and requires the shape [b]."""
    found = _of_one_shape(**arrays)
    if found[0].ndim != 1:
        raise ValueError(f"expected {', '.join(arrays)} [b], one number an example, got {list(found[0].shape)}")
    return found


def _sum_per_example(values: Array) -> Array:
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def _sum_where(values: Array, where: Array | None) -> Array:
    """Sums the elements of each example for which `where`, of the same shape, is True; None for all."""
    if where is not None:
        if jnp.shape(where) != values.shape:
            raise ValueError(f"expected where {list(values.shape)}, got {list(jnp.shape(where))}")
        values = jnp.where(where, values, 0.0)
    return _sum_per_example(values)


# Adversarial losses. x is a real image, G(z) a generated image and D(.) the discriminator's *logit*. The probability
# that an image is real is sigmoid(D), so -log sigmoid(D) = softplus(-D) and -log(1 - sigmoid(D)) = softplus(D).


class AdversarialLoss(NamedTuple):
    """The losses of the discriminator and the generator, each `(real_logits, fake_logits) -> losses`.

    Both functions take both arrays, so that a method can use any pair. Under jit, unused logits are never computed.

    Args:
        real_logits, fake_logits: float [b], D(x) and D(G(z)), any range; float [b, h, w] for patch discriminators.
    Returns: The losses, in the shape of the logits. Each function documents its unit.
    Raises:
        ValueError: if the two shapes differ.
    """

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array, Array], Array]


def minimax_discriminator(real_logits: Array, fake_logits: Array) -> Array:
    """-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z)))): [b] nats, >= 0.

    At the optimum D = log p_data / p_G its expectation is log 4 - 2 JSD(p_data, p_G).

    References:
        Goodfellow et al., Generative Adversarial Networks, arXiv:1406.2661, equation 1.
    """
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return softplus(-real_logits) + softplus(fake_logits)


def minimax_generator(real_logits: Array, fake_logits: Array) -> Array:
    """log(1 - sigmoid(D(G(z)))): [b] nats, <= 0.

    The original game. The gradient -sigmoid(D) saturates: it vanishes where D rejects the fakes with confidence.
    References as for `minimax_discriminator`.
    """
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return -softplus(fake_logits)


def non_saturating_discriminator(real_logits: Array, fake_logits: Array) -> Array:
    """-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z)))): [b] nats, >= 0. The same as `minimax_discriminator`."""
    return minimax_discriminator(real_logits, fake_logits)


def non_saturating_generator(real_logits: Array, fake_logits: Array) -> Array:
    """-log sigmoid(D(G(z))): [b] nats, >= 0.

    It has the fixed point of `minimax_generator`, but its gradient is largest for the worst fakes (same paper,
    section 3).
    """
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return softplus(-fake_logits)


def hinge_discriminator(real_logits: Array, fake_logits: Array) -> Array:
    """relu(1 - D(x)) + relu(1 + D(G(z))): [b] in units of the logits, >= 0.

    References:
        Lim and Ye, Geometric GAN, arXiv:1705.02894; Miyato et al., Spectral Normalization, arXiv:1802.05957.
    """
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return relu(1 - real_logits) + relu(1 + fake_logits)


def hinge_generator(real_logits: Array, fake_logits: Array) -> Array:
    """-D(G(z)): [b] in units of the logits, unbounded. References as for `hinge_discriminator`."""
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return -fake_logits


def least_squares_discriminator(real_logits: Array, fake_logits: Array) -> Array:
    """(D(x) - 1)^2 / 2 + D(G(z))^2 / 2: [b] in squared units of D, >= 0. D is a score here: 1 for real, 0 for fake.

    References:
        Mao et al., Least Squares GAN, arXiv:1611.04076, equation 2 with a = 0 and b = c = 1.
    """
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return (jnp.square(real_logits - 1) + jnp.square(fake_logits)) / 2


def least_squares_generator(real_logits: Array, fake_logits: Array) -> Array:
    """(D(G(z)) - 1)^2 / 2: [b] in squared units of D, >= 0. References as for `least_squares_discriminator`."""
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return jnp.square(fake_logits - 1) / 2


def wasserstein_discriminator(real_logits: Array, fake_logits: Array) -> Array:
    """D(G(z)) - D(x): [b] in units of D. It is unbounded unless D is Lipschitz, so use it with `wgan_gp`.

    References:
        Arjovsky et al., Wasserstein GAN, arXiv:1701.07875. The authors maximise its negative and clip weights.
    """
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return fake_logits - real_logits


def wasserstein_generator(real_logits: Array, fake_logits: Array) -> Array:
    """-D(G(z)): [b] in units of D, unbounded. References as for `wasserstein_discriminator`."""
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return -fake_logits


def relativistic_discriminator(real_logits: Array, fake_logits: Array) -> Array:
    """-log sigmoid(D(x) - D(G(z))): [b] nats, >= 0. Real i is paired with fake i (RpGAN).

    With class labels, both images of a pair must have the same class: generate with the labels of the real batch. Only
    the difference matters, so D may drift by a constant and sign(D(x)) alone is no measure of overfitting.

    References:
        Jolicoeur-Martineau, The relativistic discriminator, arXiv:1807.00734; Huang et al., The GAN is dead;
    long live the GAN! A Modern GAN Baseline (R3GAN), arXiv:2501.05441.
    """
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return softplus(fake_logits - real_logits)


def relativistic_generator(real_logits: Array, fake_logits: Array) -> Array:
    """-log sigmoid(D(G(z)) - D(x)): [b] nats, >= 0. `relativistic_discriminator` with the roles exchanged."""
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return softplus(real_logits - fake_logits)


def relativistic_average_discriminator(real_logits: Array, fake_logits: Array) -> Array:
    """[-log sigmoid(D(x) - mean D(G(z))) - log(1 - sigmoid(D(G(z)) - mean D(x)))] / 2: [b] nats, >= 0.

    The means are over the global batch in every mode, or over a microbatch when gradients are accumulated.

    References:
        Jolicoeur-Martineau, arXiv:1807.00734 (RaSGAN). We add the factor 1/2 to keep the scale of the paired loss.
    """
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    real_mean, fake_mean = mean_over_devices((jnp.mean(real_logits), jnp.mean(fake_logits)))
    return (softplus(fake_mean - real_logits) + softplus(fake_logits - real_mean)) / 2


def relativistic_average_generator(real_logits: Array, fake_logits: Array) -> Array:
    """`relativistic_average_discriminator` with the roles of real and fake exchanged: [b] nats, >= 0."""
    real_logits, fake_logits = _of_one_shape(real_logits=real_logits, fake_logits=fake_logits)
    return relativistic_average_discriminator(fake_logits, real_logits)


MINIMAX = AdversarialLoss(minimax_discriminator, minimax_generator)
NON_SATURATING = AdversarialLoss(non_saturating_discriminator, non_saturating_generator)
HINGE = AdversarialLoss(hinge_discriminator, hinge_generator)
LEAST_SQUARES = AdversarialLoss(least_squares_discriminator, least_squares_generator)
WASSERSTEIN = AdversarialLoss(wasserstein_discriminator, wasserstein_generator)
RELATIVISTIC = AdversarialLoss(relativistic_discriminator, relativistic_generator)
RELATIVISTIC_AVERAGE = AdversarialLoss(relativistic_average_discriminator, relativistic_average_generator)


# Gradient penalties on the discriminator.


def squared_gradient_norm(
    discriminator: Callable[[Array], Any], images: Array, has_aux: bool = False
) -> tuple[Any, ...]:
    """D(x) and ||grad_x D(x)||^2, summed over pixels, by one forward and one backward pass.

    The result is differentiable with respect to everything the discriminator closes over. If it augments its input, the
    gradient is with respect to the image before augmentation. If it couples the examples (BatchNorm, minibatch standard
    deviation), the gradient is that of the sum of the logits.

    Args:
        discriminator: maps images [b, ...] to logits [b] or, with `has_aux`, to logits and anything else.
        images: float [b, ...].
        has_aux: whether it returns a pair.
    Returns: The logits [b], and the squared norms [b], >= 0, in (logit / pixel unit)^2; with `has_aux` the rest, too.
    Raises:
        ValueError: if the logits are not [b].
    """
    logits, pull_back, *aux = jax.vjp(discriminator, images, has_aux=has_aux)
    if logits.shape != images.shape[:1]:
        raise ValueError(f"expected logits {list(images.shape[:1])}, one per image, got {list(logits.shape)}")
    (gradient,) = pull_back(jnp.ones_like(logits))
    return logits, _sum_per_example(jnp.square(gradient)), *aux


def zero_centred_penalty(squared_norm: Array, gamma: Scalar) -> Array:
    """gamma / 2 ||grad_x D(x)||^2: [b], >= 0. R1 for real images x, R2 for generated ones.

    Args:
        squared_norm: float [b], >= 0, from `squared_gradient_norm`.
        gamma: scalar, >= 0.
    Raises:
        ValueError: if squared_norm is not [b], or gamma is not a scalar.
    References:
        Mescheder et al., Which Training Methods for GANs do actually Converge?, arXiv:1801.04406.
    """
    (squared_norm,) = _one_an_example(squared_norm=squared_norm)
    _require_scalar(gamma=gamma)
    return gamma / 2 * squared_norm


def interpolate_pairs(real: Array, fake: Array, alpha: Array) -> Array:
    """alpha real + (1 - alpha) fake: [b, ...], a point on the line between the images of each pair, for `wgan_gp`.

    Args:
        real, fake: float [b, ...].
        alpha: float [b] in [0, 1], uniform in the paper.
    Raises:
        ValueError: if the shapes of the images differ, or alpha is not [b].
    References:
        Gulrajani et al., Improved Training of Wasserstein GANs, arXiv:1704.00028, section 4.
    """
    real, fake = _of_one_shape(real=real, fake=fake)
    if jnp.shape(alpha) != real.shape[:1]:
        raise ValueError(f"expected alpha {list(real.shape[:1])}, one per pair, got {list(jnp.shape(alpha))}")
    alpha = at_least_float32(alpha).reshape(alpha.shape + (1,) * (real.ndim - 1))
    return alpha * real + (1 - alpha) * fake


def wgan_gp(squared_norm: Array, weight: Scalar = 10.0) -> Array:
    """weight (||grad_x D(x)|| - 1)^2, at points between real and fake images: [b], >= 0.

    The norm has no derivative where the gradient is zero; this function takes it as zero there.

    Args:
        squared_norm: float [b], >= 0, from `squared_gradient_norm` at `interpolate_pairs`.
        weight: scalar, >= 0.
    Raises:
        ValueError: if squared_norm is not [b], or weight is not a scalar.
    References:
        Gulrajani et al., Improved Training of Wasserstein GANs, arXiv:1704.00028, equation 3.
    """
    (squared_norm,) = _one_an_example(squared_norm=squared_norm)
    _require_scalar(weight=weight)
    return weight * jnp.square(_norm(squared_norm) - 1)


def _norm(squared_norm: Array) -> Array:
    """The square root, with derivative zero at zero."""
    # sqrt must not be given zeros, even in the branch that where() discards: inf * 0 is NaN in the backward pass.
    positive = squared_norm > jnp.finfo(squared_norm.dtype).tiny
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared_norm, 1)), 0)


def finite_difference_penalty(logits: Array, moved_logits: Array, step: Scalar = 0.01) -> Array:
    """[(D(x + s e) - D(x)) / s]^2 ~ (e . grad_x D(x))^2, e ~ N(0, I): an estimate of ||grad_x D||^2 without gradients.

    Its mean over e is the squared norm, as s goes to 0; pass it to `zero_centred_penalty` for approximate R1 or R2.
    A small s costs digits: in float32, differences of logits of size L are exact to 1e-7 L.

    Args:
        logits, moved_logits: float [b], D(x) and D(x + s e).
        step: scalar, s > 0.
    Returns: [b], >= 0, in (logit / pixel unit)^2.
    Raises:
        ValueError: if the logits are not both [b], or step is not a scalar.
    References:
        Lin et al., Diffusion Adversarial Post-Training for One-Step Video Generation, arXiv:2501.08316.
    """
    logits, moved_logits = _one_an_example(logits=logits, moved_logits=moved_logits)
    _require_scalar(step=step)
    return jnp.square((moved_logits - logits) / step)


# Regularisers of both nets.


def running_mean(mean: Scalar, values: Array, decay: Scalar = 0.99) -> Array:
    """decay mean + (1 - decay) E[values]: [], without gradient; E is over the global batch in every mode.

    It follows the lengths of `path_length` and the logits of `lecam`. The caller keeps it in the state.

    Args:
        mean, decay: scalars.
        values: float [b].
    Raises:
        ValueError: if values is not [b], or mean or decay is not a scalar.
    """
    (values,) = _one_an_example(values=values)
    _require_scalar(mean=mean, decay=decay)
    return lax.stop_gradient(decay * mean + (1 - decay) * mean_over_devices(jnp.mean(values)))


def path_lengths(generate: Callable[[Array], Array], w: Array, noise: Array) -> tuple[Array, Array]:
    """The images G(w), and the lengths ||J^T y|| of `path_length`, by one forward and one backward pass.

    Args:
        generate: maps w to images [b, h, w, c], each example by itself.
        w: float [b, d], or [b, layers, d] if each layer has its own: the squared lengths are averaged over layers.
        noise: float [b, h, w, c], standard normal; y = noise / sqrt(h w), so that lengths do not grow with the size.
    Returns: The images, and the lengths float [b], >= 0; the derivative of a length of zero is taken as zero.
    Raises:
        ValueError: if the noise has another shape than the images.
    References:
        Karras et al., Analyzing and Improving the Image Quality of StyleGAN, arXiv:1912.04958, section 3.2.
    """
    images, pull_back = jax.vjp(generate, w)
    if jnp.shape(noise) != images.shape:
        raise ValueError(f"expected noise {list(images.shape)}, as the images, got {list(jnp.shape(noise))}")
    (gradient,) = pull_back((noise / math.sqrt(images.shape[1] * images.shape[2])).astype(images.dtype))
    squared = jnp.sum(jnp.square(at_least_float32(gradient)), axis=-1)
    return images, _norm(squared.reshape(squared.shape[0], -1).mean(axis=1))


def path_length(lengths: Array, mean: Scalar, weight: Scalar = 2.0) -> Array:
    """weight (length - mean)^2: a step in w should change the image by the same amount everywhere: [b], >= 0.

    Args:
        lengths: float [b], from `path_lengths`.
        mean: scalar, their `running_mean`, updated by these lengths.
        weight: scalar, >= 0.
    Raises:
        ValueError: if lengths is not [b], or mean or weight is not a scalar.
    References:
        Karras et al., arXiv:1912.04958, equation 4.
    """
    (lengths,) = _one_an_example(lengths=lengths)
    _require_scalar(mean=mean, weight=weight)
    return weight * jnp.square(lengths - mean)


def lecam(real_logits: Array, fake_logits: Array, real_mean: Scalar, fake_mean: Scalar, weight: Scalar = 0.3) -> Array:
    """weight [relu(D(x) - a_F)^2 + relu(a_R - D(G(z)))^2], with a_R, a_F means of earlier logits: [b], >= 0.

    It keeps the logits of real and of fake images close, for few training images. A relativistic discriminator may
    drift by a constant, so that means of logits say nothing there.

    Args:
        real_logits, fake_logits: float [b].
        real_mean, fake_mean: scalars a_R and a_F, each the `running_mean` of such logits.
        weight: scalar, >= 0.
    Raises:
        ValueError: if the logits are not both [b], or another argument is not a scalar.
    References:
        Tseng et al., Regularizing Generative Adversarial Networks under Limited Data, arXiv:2104.03310.
    """
    real_logits, fake_logits = _one_an_example(real_logits=real_logits, fake_logits=fake_logits)
    _require_scalar(real_mean=real_mean, fake_mean=fake_mean, weight=weight)
    return weight * (jnp.square(relu(real_logits - fake_mean)) + jnp.square(relu(real_mean - fake_logits)))


def consistency(outputs: Array, moved_outputs: Array, weight: Scalar = 10.0) -> Array:
    """weight (f(x) - f(T x))^2, averaged over the axes of an example: [b], in squared units of f.

    CR: D at real images x and at augmented ones, weight 10. bCR: the same at generated images as well, 10 and 10. zCR:
    D at G(z) and at G(z + dz), weight 20, and G itself at z and z + dz, weight -.5, so that images differ; dz is normal
    with standard deviation .05.

    Args:
        outputs, moved_outputs: float [b, ...]: logits, or images.
        weight: scalar.
    Raises:
        ValueError: if the shapes differ, or weight is not a scalar.
    References:
        Zhang et al., Consistency Regularization for GANs, arXiv:1910.12027; Zhao et al., Improved Consistency
        Regularization for GANs, arXiv:2002.04724.
    """
    outputs, moved_outputs = _of_one_shape(outputs=outputs, moved_outputs=moved_outputs)
    _require_scalar(weight=weight)
    return weight * jnp.square(outputs - moved_outputs).mean(tuple(range(1, outputs.ndim)))


def feature_matching(real_features: Array, fake_features: Array) -> Array:
    """mean_k |E phi_k(G(z)) - E phi_k(x)|: [], >= 0, between the means of the discriminator's features phi.

    The means are over the global batch in every mode, or over a microbatch when gradients are accumulated.

    Args:
        real_features, fake_features: float [b, ...].
    Raises:
        ValueError: if the shapes differ.
    References:
        Salimans et al., Improved Techniques for Training GANs, arXiv:1606.03498, section 3.1. They square the
        difference.
    """
    real_features, fake_features = _of_one_shape(real_features=real_features, fake_features=fake_features)
    return jnp.abs(mean_over_devices(jnp.mean(fake_features - real_features, axis=0))).mean()


def top_k_weights(fake_logits: Array, k: Scalar) -> Array:
    """b / k for the k largest logits of the batch, 0 for others: [b], without gradient.

    Their product with the generator's losses has the mean of the losses of the k best images. b and k count the global
    batch in every mode, or a microbatch when gradients are accumulated. Of equal logits, the first come first.

    Args:
        fake_logits: float [b].
        k: scalar, 1 to b; it may fall during training.
    Raises:
        ValueError: if fake_logits is not [b], or k is not a scalar.
    References:
        Sinha et al., Top-k Training of GANs, arXiv:2002.06224. k falls from b to between b / 2 and 3/4 b there.
    """
    (fake_logits,) = _one_an_example(fake_logits=fake_logits)
    _require_scalar(k=k)
    logits = lax.stop_gradient(fake_logits)
    axis, own = device_axis(), jnp.arange(len(logits))
    everywhere = lax.all_gather(logits, axis, tiled=True) if axis else logits
    place = (own + lax.axis_index(axis) * len(logits) if axis else own)[:, None]
    others, indices = everywhere[None, :], jnp.arange(len(everywhere))[None, :]
    is_better = (others > logits[:, None]) | ((others == logits[:, None]) & (indices < place))
    return jnp.where(is_better.sum(axis=1) < k, len(everywhere) / k, 0.0).astype(logits.dtype)


# Likelihoods of an image x under a decoder's output.


def squared_error(x: Array, reconstruction: Array) -> Array:
    """||x - reconstruction||^2, summed over pixels: [b], >= 0, in squared units of x.

    Args:
        x, reconstruction: float or integer [b, ...].
    Raises:
        ValueError: if the shapes differ.
    """
    x, reconstruction = _of_one_shape(x=x, reconstruction=reconstruction)
    return _sum_per_example(jnp.square(x - reconstruction))


def absolute_error(x: Array, reconstruction: Array) -> Array:
    """||x - reconstruction||_1, summed over pixels: [b], >= 0, in units of x.

    Args:
        x, reconstruction: float or integer [b, ...].
    Raises:
        ValueError: if the shapes differ.
    """
    x, reconstruction = _of_one_shape(x=x, reconstruction=reconstruction)
    return _sum_per_example(jnp.abs(x - reconstruction))


def _unit_length(x: Array) -> Array:
    """x / |x| along the last axis, and 0 for 0, where the gradient is finite."""
    return x * lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-8)


def feature_distance(features: Array, reconstructed: Array) -> Array:
    """mean over places of || f / |f| - g / |g| ||^2, for features f of an image and g of its reconstruction: [b].

    The sum over several maps of a fixed net is the distance of LPIPS before its learned weights; only LPIPS' own net
    and weights give LPIPS.

    Args:
        features, reconstructed: float [b, ..., c], vectors along the last axis; a vector of zeros stays zero.
    Returns: [b], in [0, 4].
    Raises:
        ValueError: if the shapes differ.
    References:
        Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, arXiv:1801.03924,
        equation 1 with w = 1 and one layer.
    """
    features, reconstructed = _of_one_shape(features=features, reconstructed=reconstructed)
    squares = _sum_per_example(jnp.square(_unit_length(features) - _unit_length(reconstructed)))
    return squares / math.prod(features.shape[1:-1])


def bernoulli_nll(logits: Array, x: Array, where: Array | None = None) -> Array:
    """-sum [x log sigmoid(l) + (1 - x) log(1 - sigmoid(l))] = sum [softplus(l) - l x]: [b] nats, >= 0.

    It is a likelihood for binary x. For grey x it is a cross-entropy, not a density (Loaiza-Ganem and Cunningham, The
    continuous Bernoulli, arXiv:1907.06845).

    Args:
        logits: float [b, ...], any range.
        x: float [b, ...] in [0, 1].
        where: bool [b, ...], the elements to sum over; None for all.
    Raises:
        ValueError: if the shapes differ.
    """
    logits, x = _of_one_shape(logits=logits, x=x)
    # Two terms, because softplus(l) - l x cancels completely where the decoder is confident and right.
    return _sum_where(x * softplus(-logits) + (1 - x) * softplus(logits), where)


def gaussian_nll(x: Array, mean: Array, log_sigma: Scalar, where: Array | None = None) -> Array:
    """-log N(x; mean, sigma^2) = sum [(x - mean)^2 / (2 sigma^2) + log sigma + log(2 pi) / 2].

    This is a *density*: it may be negative, and it depends on the scale of x. For 8-bit x scaled to [-1, 1], add
    log 127.5 per dimension to compare with discrete likelihoods (and dequantise: Theis et al., arXiv:1511.01844).

    Args:
        x, mean: float [b, ...].
        log_sigma: log standard deviation in units of x, any value: a scalar (fixed, learned or `optimal_log_sigma`), or
            one per pixel, in the shape of x. Other shapes do not broadcast. See `soft_lower_bound`.
        where: bool [b, ...], the elements to sum over; None for all.
    Returns:
        [b] nats, unbounded below as sigma -> 0. Exact for log_sigma >= -30; below, 1 / sigma is continued linearly.
    Raises:
        ValueError: if the shapes differ, that of `where` too, or log_sigma is neither a scalar nor of the shape of x.
    """
    x, mean = _of_one_shape(x=x, mean=mean)
    if jnp.shape(log_sigma) not in ((), x.shape):
        raise ValueError(f"expected log_sigma a scalar or {list(x.shape)} as x, got {list(jnp.shape(log_sigma))}")
    log_sigma = jnp.asarray(log_sigma, x.dtype)
    standardised = (x - mean) * _exp_then_linear(-log_sigma, _LARGEST_EXPONENT / 2)  # half, because it is squared
    return _sum_where(jnp.square(standardised) / 2 + log_sigma + math.log(2 * math.pi) / 2, where)


def discretised_logistic_log_prob(x: Array, mean: Array, log_scale: Array) -> Array:
    """log P(x) of each value x of 8 bits: a logistic distribution's mass between x - 1/255 and x + 1/255.

    The bins of the smallest and the largest value are open, so that the 256 probabilities sum to 1. With a and b the
    upper and lower edges in units of the scale, sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)),
    whose logarithm has no cancellation.

    Args:
        x: float [...], one of 256 levels in [-1, 1]: level / 127.5 - 1.
        mean, log_scale: float [...], any value, in the units of x.
    Returns: [...] nats, <= 0. Exact for log_scale >= -7; below, 1 / scale is continued linearly.
    Raises:
        ValueError: if the shapes differ.
    References:
        Salimans et al., PixelCNN++, arXiv:1701.05517, equation 2.
    """
    x, mean, log_scale = _of_one_shape(x=x, mean=mean, log_scale=log_scale)
    inverse = _exp_then_linear(-log_scale, 7.0)
    centred = (x - mean) * inverse
    half = inverse / 255
    is_wide = half < 1e-4  # e^(b - a) = 1 - 2 half + ..., whose logarithm would be that of zero
    narrow = jnp.log(-jnp.expm1(-2 * jnp.where(is_wide, 1.0, half)))
    inside = jnp.where(is_wide, math.log(2 / 255) - log_scale - half, narrow)
    is_lowest, is_highest = x < -1 + 1 / 255, x > 1 - 1 / 255
    below_upper = jnp.where(is_highest, 0.0, -softplus(-(centred + half)))
    above_lower = jnp.where(is_lowest, 0.0, -softplus(centred - half))
    return below_upper + above_lower + jnp.where(is_lowest | is_highest, 0.0, inside)


def logistic_mixture_nll(x: Array, logits: Array, mean: Array, log_scale: Array, where: Array | None = None) -> Array:
    """-sum log sum_k pi_k P_k(x), with P_k of `discretised_logistic_log_prob` and pi = softmax(logits): [b] nats, >= 0.

    Args:
        x: float [b, ...], one of 256 levels in [-1, 1].
        logits, mean, log_scale: float [b, ..., k], any value; means and scales in the units of x.
        where: bool [b, ...], the elements to sum over; None for all.
    Raises:
        ValueError: if the shapes differ.
    References:
        Salimans et al., PixelCNN++, arXiv:1701.05517, equation 1. Channels are independent here.
    """
    logits, mean, log_scale = _of_one_shape(logits=logits, mean=mean, log_scale=log_scale)
    if jnp.shape(x) != logits.shape[:-1]:
        raise ValueError(f"expected x {list(logits.shape[:-1])}, got {list(jnp.shape(x))}")
    log_p = discretised_logistic_log_prob(jnp.broadcast_to(x[..., None], mean.shape), mean, log_scale)
    return _sum_where(-logsumexp(jax.nn.log_softmax(logits) + log_p, axis=-1), where)


def quantised_logistic_nll(values: Array, mean: Array, log_scale: Array) -> Array:
    """-sum log[F((v + 1/2 - m) / s) - F((v - 1/2 - m) / s)], F the logistic function: what integers v cost in a file.

    For integers it is the ideal code length under a logistic distribution with unit bins. For v = y + u with u uniform
    in [-1/2, 1/2] it is the density of y + u, so its mean over u is a smooth stand-in for the rate of round(y).

    It is computed as softplus(-a) + softplus(b) - log(1 - e^-1/s), a and b the two arguments of F: finite with its
    gradients for every v and m, at any s that float32 holds.

    Args:
        values: float [b, ...], integers or integers with noise.
        mean, log_scale: float [b, ...], m and log s; log s >= -40.
    Returns: [b] nats, >= 0.
    Raises:
        ValueError: if the shapes differ.
    References:
        Balle et al., Variational Image Compression with a Scale Hyperprior, arXiv:1802.01436, equation 4, with a
        logistic in place of their Gaussian.
    """
    values, mean, log_scale = _of_one_shape(values=values, mean=mean, log_scale=log_scale)
    inverse = jnp.exp(-log_scale)
    # F is odd about 1/2, so the sign of v - m does not matter; with this one both arguments are at most 1/(2s).
    distance = jnp.abs(values - mean)
    upper, lower = (0.5 - distance) * inverse, (-0.5 - distance) * inverse
    return _sum_per_example(softplus(-upper) + softplus(lower) - jnp.log(-jnp.expm1(-inverse)))


def optimal_log_sigma(x: Array, reconstruction: Array) -> Array:
    """log sigma* with sigma*^2 = mean (x - reconstruction)^2: [], the sigma of maximum likelihood (sigma-VAE).

    The mean is over the global batch in every mode, or over a microbatch when gradients are accumulated. A perfect
    reconstruction gives a large negative number, not -inf; bound it by `soft_lower_bound`.

    Args:
        x, reconstruction: float or integer [b, ...].
    Raises:
        ValueError: if the shapes differ.
    References:
        Rybkin et al., Simple and Effective VAE Training with Calibrated Decoders, arXiv:2006.13202.
    """
    x, reconstruction = _of_one_shape(x=x, reconstruction=reconstruction)
    variance = mean_over_devices(jnp.mean(jnp.square(x - reconstruction)))
    return jnp.log(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny)) / 2


def soft_lower_bound(log_sigma: Array, bound: Scalar = -6.0) -> Array:
    """bound + softplus(log_sigma - bound): above the bound for every input, and close to the identity well above it.

    It keeps a learned standard deviation from shrinking without limit. Unlike a clip it has a gradient everywhere.

    Args:
        log_sigma: float, any shape and range.
        bound: scalar, the smallest log standard deviation.
    Raises:
        ValueError: if bound is not a scalar.
    References:
        Rybkin et al., Simple and Effective VAE Training with Calibrated Decoders, arXiv:2006.13202.
    """
    log_sigma = at_least_float32(log_sigma)
    _require_scalar(bound=bound)
    return bound + softplus(log_sigma - bound)


# Exponentials of log variances.

_LARGEST_EXPONENT = 60.0  # e^60 = 1e26: float32 holds it times 1e5 squared, summed over a million pixels


def _exp_then_linear(x: Array, limit: float = _LARGEST_EXPONENT) -> Array:
    """e^x up to the limit, and above it the tangent at the limit, e^limit (1 + x - limit).

    It is finite, convex and increasing everywhere. A loss that uses it in place of e^x keeps its minima below the limit
    and has no others, and its gradient neither overflows nor vanishes.
    """
    return jnp.exp(_at_most(x, limit)) + _beyond(x, limit)


def _expm1_then_linear(x: Array) -> Array:
    """`_exp_then_linear` minus 1, without cancellation near 0."""
    return jnp.expm1(_at_most(x, _LARGEST_EXPONENT)) + _beyond(x, _LARGEST_EXPONENT)


def _at_most(x: Array, limit: float) -> Array:
    return jnp.where(x > limit, limit, x)


def _beyond(x: Array, limit: float) -> Array:
    return math.exp(limit) * relu(x - limit)


def bounded_logvar(logvar: Array) -> Array:
    """The identity up to 40, and 40 + e / (1 + e / 10) < 50 above, with the excess e = logvar - 40.

    Without it a large log variance gives samples z of infinite length. Use the same bounded value in every term of a
    loss, or the loss is no bound on the likelihood. Small values need no bound: all terms are exact there. logvar may
    have any shape and range, and the gradient is > 0 everywhere.
    """
    logvar = at_least_float32(logvar)
    excess = relu(logvar - 40)
    return _at_most(logvar, 40) + excess / (1 + excess / 10)


# Divergences between the posterior q(z|x) and the prior p(z).


def gaussian_kl_per_dimension(mean: Array, logvar: Array) -> Array:
    """KL(N(mean, exp logvar) || N(0, 1)) = [mean^2 + exp logvar - 1 - logvar] / 2 of each latent dimension.

    Args:
        mean, logvar: float [b, ...]; logvar = log sigma^2, any value.
    Returns: [b, ...] nats, >= 0. Exact for logvar <= 60; above, exp logvar is continued linearly.
    Raises:
        ValueError: if the shapes differ.
    References:
        Kingma and Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114, appendix B.
    """
    mean, logvar = _of_one_shape(mean=mean, logvar=logvar)
    return (jnp.square(mean) + _expm1_then_linear(logvar) - logvar) / 2


def gaussian_kl(mean: Array, logvar: Array) -> Array:
    """KL(N(mean, exp logvar) || N(0, I)): `gaussian_kl_per_dimension` summed, [b, ...] -> [b] nats, >= 0."""
    return _sum_per_example(gaussian_kl_per_dimension(mean, logvar))


def gaussian_kl_between(mean: Array, logvar: Array, prior_mean: Array, prior_logvar: Array) -> Array:
    """KL(N(m, e^v) || N(m', e^v')) = sum [e^(v - v') - 1 - (v - v') + (m - m')^2 e^-v'] / 2.

    Args:
        mean, logvar: float [b, ...], parameters of the posterior. Log variances may have any value.
        prior_mean, prior_logvar: float [b, ...], parameters of the prior.
    Returns:
        [b] nats, >= 0; exactly 0 for equal Gaussians. Exact for v - v' <= 60 and v' >= -60; outside, exponentials are
        continued linearly.
    Raises:
        ValueError: if the shapes differ.
    """
    mean, logvar, prior_mean, prior_logvar = _of_one_shape(
        mean=mean, logvar=logvar, prior_mean=prior_mean, prior_logvar=prior_logvar
    )
    log_ratio = logvar - prior_logvar
    squared_distance = jnp.square(mean - prior_mean) * _exp_then_linear(-prior_logvar)
    return _sum_per_example(_expm1_then_linear(log_ratio) - log_ratio + squared_distance) / 2


def normal_gamma_penalty(mean: Array, logvar: Array, mean_scale: Scalar = 1e4, sigma_weight: Scalar = 1e-4) -> Array:
    """sum [m^2 / (2 s^2) + w (sigma - log sigma)], sigma = e^(logvar / 2): keeps a learned prior from drifting away.

    It is minus the logarithm of a normal density of m times a gamma density of sigma, up to a constant. The sum is
    smallest at m = 0, sigma = 1. At the default constants it is negligible, unless m or sigma become very large or
    sigma nearly 0.

    Args:
        mean, logvar: float [b, ...], parameters of the prior of each example; logvar may have any value.
        mean_scale: s > 0, a scalar, in units of z.
        sigma_weight: w >= 0, a scalar.
    Returns: [b] nats, >= 0. Exact for logvar <= 120; above, e^(logvar / 2) is continued linearly.
    Raises:
        ValueError: if the shapes differ, or mean_scale or sigma_weight is not a scalar.
    References:
        Ivanov et al., Variational Autoencoder with Arbitrary Conditioning, arXiv:1806.02382, section 4.3.1.
    """
    mean, logvar = _of_one_shape(mean=mean, logvar=logvar)
    _require_scalar(mean_scale=mean_scale, sigma_weight=sigma_weight)
    of_sigma = _exp_then_linear(logvar / 2) - logvar / 2
    return _sum_per_example(jnp.square(mean / mean_scale) / 2 + sigma_weight * of_sigma)


def free_bits(kl_per_dimension: Array, floor: Scalar) -> Array:
    """Per-example KL whose batch mean is sum_g max(floor_g, mean_b KL_bg): no gradient for groups below their floor.

    Where the batch mean of group g exceeds the floor, example b gets KL_bg; elsewhere it gets the floor. The batch mean
    has the value and the gradient of the formula above. The mean is over the global batch in every mode, or over a
    microbatch when gradients are accumulated. Report the plain KL as well.

    Args:
        kl_per_dimension: float [b, g] nats, >= 0; g latent dimensions, or groups of them.
        floor: nats, [] or [g], >= 0.
    Returns: [b] nats, >= 0.
    Raises:
        ValueError: if kl_per_dimension is not [b, g], or floor is neither [] nor [g].
    References:
        Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, arXiv:1606.04934.
    """
    shape, floor_shape = jnp.shape(kl_per_dimension), jnp.shape(floor)
    if len(shape) != 2 or floor_shape not in ((), shape[1:]):
        raise ValueError(f"expected kl_per_dimension [b, g], floor [] or [g], got {list(shape)}, {list(floor_shape)}")
    kl_per_dimension = at_least_float32(kl_per_dimension)
    floors = jnp.broadcast_to(floor, (1, shape[1]))
    above = mean_over_devices(jnp.mean(kl_per_dimension, axis=0, keepdims=True)) > floors
    return jnp.sum(jnp.where(above, kl_per_dimension, floors), axis=1)


def dreg_loss(log_weights: Array) -> Array:
    """-sum_i sg(v_i)^2 log w_i with v = w / sum w: a surrogate whose gradient is that of -IWAE-k, with less variance.

    For the parameters of the encoder only, where they reach log w through z alone: compute log q(z|x) with its mean and
    variance under `stop_gradient`, and z = mean + sigma eps without. Its value means nothing; report
    `importance_weighted_bound`, whose gradient also serves the decoder.

    Args:
        log_weights: log w = log p(x|z) + log p(z) - log q(z|x), float [k, b] nats, k >= 1.
    Returns: [b].
    Raises:
        ValueError: for another shape.
    References:
        Tucker et al., Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, arXiv:1810.04152,
        equation 8.
    """
    if jnp.ndim(log_weights) != 2 or jnp.shape(log_weights)[0] < 1:
        raise ValueError(f"expected log_weights [k, b] with k >= 1, got {list(jnp.shape(log_weights))}")
    log_weights = at_least_float32(log_weights)
    weights = lax.stop_gradient(jax.nn.softmax(log_weights, axis=0))
    return -jnp.sum(jnp.square(weights) * log_weights, axis=0)


def mixture_log_prob(z: Array, means: Array, logvars: Array) -> Array:
    """log 1/K sum_k N(z; m_k, exp v_k): the density of an equal mixture of diagonal Gaussians, [b] nats.

    As the prior p(z) of a VAE with components q(z|u_k) at learned inputs u_k it is VampPrior, whose KL at one
    z ~ q(z|x) is log q(z|x) - log p(z).

    Args:
        z: float [b, d].
        means, logvars: float [K, d], any value.
    Returns: [b] nats, exact for logvars >= -60; below, 1 / sigma^2 is continued linearly.
    Raises:
        ValueError: if the shapes do not fit.
    References:
        Tomczak and Welling, VAE with a VampPrior, arXiv:1705.07120, equation 9.
    """
    means, logvars = _of_one_shape(means=means, logvars=logvars)
    z = at_least_float32(z)
    if z.ndim != 2 or means.ndim != 2 or z.shape[1] != means.shape[1]:
        raise ValueError(f"expected z [b, d] and means [K, d], got {list(z.shape)} and {list(means.shape)}")
    squared = jnp.square(z[:, None] - means[None]) * _exp_then_linear(-logvars)[None]
    log_p = -(squared + (logvars + math.log(2 * math.pi))[None]).sum(-1) / 2
    return logsumexp(log_p, axis=1) - math.log(means.shape[0])


# The losses of a variational autoencoder.


def negative_elbo(nll: Array, kl: Array) -> Array:
    """-log p(x|z) + KL(q(z|x) || p(z)) >= -log p(x) in expectation over z: [b] nats.

    Args:
        nll: float [b] nats, such as `bernoulli_nll` or `gaussian_nll` at one z ~ q(z|x).
        kl: float [b] nats.
    Raises:
        ValueError: if nll and kl are not both [b].
    References:
        Kingma and Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114, equation 3.
    """
    nll, kl = _one_an_example(nll=nll, kl=kl)
    return nll + kl


def beta_vae_loss(reconstruction: Array, kl: Array, kl_weight: Scalar) -> Array:
    """reconstruction + lambda KL(q(z|x) || p(z)) at z ~ q(z|x): the loss of every VAE here.

    For a negative log likelihood in nats, lambda is the beta of a beta-VAE, and 1 gives the negative ELBO. For a
    squared error, lambda sets the noise level: the loss is that of a Gaussian VAE with lambda = 2 sigma^2.

    With p(x|z) = N(D(z), sigma^2 I) over n pixels, -ELBO = ||x - D(z)||^2 / (2 sigma^2) + KL + n/2 log(2 pi sigma^2).
    Multiplied by 2 sigma^2 this is ||x - D(z)||^2 + 2 sigma^2 KL + a constant.

    This holds only for *summed* errors: a mean over n pixels with weight w on the KL corresponds to lambda = n w.

    Args:
        reconstruction: float [b], a negative log likelihood in nats, or `squared_error` in squared units of x.
        kl: float [b] nats, from `gaussian_kl` or `free_bits`.
        kl_weight: lambda, a scalar > 0, unitless or in squared units of x per nat.
    Returns: [b] in units of the reconstruction.
    Raises:
        ValueError: if reconstruction and kl are not both [b], or kl_weight is not a scalar.
    References:
        Higgins et al., beta-VAE, ICLR 2017. Their beta multiplies the KL next to a likelihood in nats; for a Gaussian
        decoder of standard deviation s it corresponds to lambda = 2 s^2 beta.
    """
    reconstruction, kl = _one_an_example(reconstruction=reconstruction, kl=kl)
    _require_scalar(kl_weight=kl_weight)
    return reconstruction + kl_weight * kl


def sigma_from_kl_weight(kl_weight: Scalar) -> Array:
    """sigma = sqrt(lambda / 2): the standard deviation, in units of x, that `beta_vae_loss` assumes at lambda > 0."""
    return jnp.sqrt(kl_weight / 2)


def kl_weight_from_sigma(sigma: Scalar) -> Scalar:
    """lambda = 2 sigma^2: the weight at which `beta_vae_loss` is a Gaussian ELBO of standard deviation sigma > 0."""
    return 2 * sigma**2


def bits_per_dim(nats: Array, num_dims: int) -> Array:
    """nats / (num_dims log 2): [b] bits per dimension.

    Args:
        nats: float [b], nats per image; of a *discrete* likelihood to be comparable (see `gaussian_nll`).
        num_dims: h w c, >= 1.
    Raises:
        ValueError: if num_dims is not a scalar, or < 1.
    """
    _require_scalar(num_dims=num_dims)
    if num_dims < 1:
        raise ValueError(f"expected num_dims >= 1, got {num_dims}")
    return at_least_float32(nats) / (num_dims * math.log(2))


# Flow matching and diffusion.


def flow_matching_loss(output: Array, target: Array, weight: Array) -> Array:
    """w mean (output - target)^2 of velocities, images or noise, whichever the network predicts: [b], >= 0.

    Args:
        output, target: float [b, ...].
        weight: float [b], such as `sampling.diffusion.loss_weight`.
    Raises:
        ValueError: if the shapes differ, or weight is not [b].
    References:
        Lipman et al., Flow Matching for Generative Modeling, arXiv:2210.02747, equation 23.
    """
    output, target = _of_one_shape(output=output, target=target)
    if jnp.shape(weight) != output.shape[:1]:
        raise ValueError(f"expected weight {list(output.shape[:1])}, one per example, got {list(jnp.shape(weight))}")
    return weight * jnp.square(output - target).mean(tuple(range(1, output.ndim)))


def adaptive_loss(squared: Array, power: Scalar = 1.0, constant: Scalar = 0.01) -> Array:
    """||e||^2 / sg(||e||^2 + c)^p: [b], >= 0, the loss of a mean flow.

    The gradient with respect to e is 2 e / (||e||^2 + c)^p. At p = 0 it is that of the squared error. For ||e||^2 well
    above c its norm is about 2 at p = 1/2, and 2 / ||e|| at p = 1, where larger errors get smaller gradients.

    Args:
        squared: float [b], ||e||^2 >= 0, summed over dimensions.
        power, constant: p >= 0 and c > 0, scalars.
    Raises:
        ValueError: if squared is not [b], or power or constant is not a scalar.
    References:
        Geng et al., Mean Flows for One-step Generative Modeling, arXiv:2505.13447, equation 22.
    """
    (squared,) = _one_an_example(squared=squared)
    _require_scalar(power=power, constant=constant)
    return squared / lax.stop_gradient((squared + constant) ** power)


# Losses of token predictors (cross-entropies) and of tokenizers.


def cross_entropy(logits: Array, targets: Array, smoothing: float = 0.0) -> Array:
    """-(1 - eps) log p(y) - eps / K sum_k log p(k), p = softmax(logits): [...] nats, >= 0.

    Args:
        logits: float [..., K].
        targets: int [...] in 0..K-1.
        smoothing: eps in [0, 1]; 0 gives the negative log likelihood.
    Raises:
        ValueError: if targets does not have the shape of logits without its last axis.
    References:
        Szegedy et al., Rethinking the Inception Architecture, arXiv:1512.00567, section 7.
    """
    if jnp.shape(targets) != jnp.shape(logits)[:-1]:
        raise ValueError(f"expected targets {list(jnp.shape(logits)[:-1])}, got {list(jnp.shape(targets))}")
    logits = at_least_float32(logits)
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    log_p = jax.nn.log_softmax(logits)
    of_target = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    return -(1 - smoothing) * of_target - smoothing * log_p.mean(-1)


def masked_cross_entropy(logits: Array, targets: Array, masked: Array, smoothing: float = 0.0) -> Array:
    """The mean of `cross_entropy` over the masked tokens of each example: [b] nats per token, >= 0.

    Args:
        logits: float [b, t, K].
        targets: int [b, t].
        masked: bool [b, t], at least one True in each row.
        smoothing: see `cross_entropy`.
    Raises:
        ValueError: if the leading shapes differ.
    References:
        Chang et al., MaskGIT: Masked Generative Image Transformer, arXiv:2202.04200, equation 2.
    """
    nats = cross_entropy(logits, targets, smoothing)
    if jnp.shape(masked) != nats.shape:
        raise ValueError(f"expected masked {list(nats.shape)}, got {list(jnp.shape(masked))}")
    return jnp.where(masked, nats, 0.0).sum(-1) / masked.sum(-1)


def commitment_loss(z: Array, e: Array) -> Array:
    """||z - sg(e)||^2, summed over dimensions: [b], >= 0. It moves the encoder's vectors z towards the codes e.

    Args:
        z, e: float [b, ...].
    Raises:
        ValueError: if the shapes differ.
    References:
        van den Oord et al., Neural Discrete Representation Learning, arXiv:1711.00937, equation 3.
    """
    z, e = _of_one_shape(z=z, e=e)
    return _sum_per_example(jnp.square(z - lax.stop_gradient(e)))


def codebook_loss(z: Array, e: Array) -> Array:
    """||sg(z) - e||^2: [b], >= 0. It moves the codes e towards the encoder's vectors z. See `commitment_loss`."""
    z, e = _of_one_shape(z=z, e=e)
    return _sum_per_example(jnp.square(lax.stop_gradient(z) - e))


def adaptive_weight(reconstruction_norm: Scalar, adversarial_norm: Scalar) -> Array:
    """[], |grad L_rec| / (|grad L_adv| + 1e-4) clipped to [0, 1e4]: balances the gradients of both losses in a layer.

    Args:
        reconstruction_norm, adversarial_norm: scalars >= 0, norms of the two gradients of the layer's kernel.
    Raises:
        ValueError: if they are not scalars.
    References:
        Esser et al., Taming Transformers, arXiv:2012.09841, equation 7. The paper has 1e-6; the constant and the clip
        here are those of the authors' code.
    """
    _require_scalar(reconstruction_norm=reconstruction_norm, adversarial_norm=adversarial_norm)
    return jnp.clip(reconstruction_norm / (adversarial_norm + 1e-4), 0.0, 1e4)


def entropy(p: Array) -> Array:
    """-sum p log p over all probabilities p, any shape -> [] nats. A zero adds nothing and gets no gradient.

    The derivative -log p - 1 is infinite at zero. Where p underflowed to zero, its own derivative is zero, and the
    product would be NaN although its limit is zero.
    """
    p = at_least_float32(p)
    return entr(jnp.maximum(p, jnp.finfo(p.dtype).tiny)).sum()


_SURE = 1e3  # at this logit, the probability rounds to 0 or 1 in float64 as well


def lfq_entropy(z: Array, temperature: float = 1.0, diversity: float = 1.0) -> Array:
    """H(p) - gamma H(E[p]), p(c|z) ~ exp(-||z - c||^2 / tau) over all c in {-1, 1}^d: confident, diverse codes.

    Under p the bits are independent, p(bit i is 1) = sigmoid(4 z_i / tau). So H(p) is a sum over bits. E[p] is a
    product of two matrices, one for each half of the bits, so that no array of places times codes is needed.

    Args:
        z: float [b, ..., d].
        temperature: tau > 0.
        diversity: gamma >= 0.
    Returns:
        [b] nats, summed over the n places of an example; the batch mean is n (E[H(p)] - gamma H(E[p])). E is the mean
        over all places of the global batch in every mode. Value and gradient are finite for every finite z and every
        temperature.
    Raises:
        ValueError: if tau <= 0, or tau or gamma is not a scalar.
    References:
        Yu et al., Language Model Beats Diffusion: Tokenizer is Key to Visual Generation, arXiv:2310.05737, equation 5.
    """
    _require_scalar(temperature=temperature, diversity=diversity)
    if not temperature > 0:
        raise ValueError(f"expected temperature > 0, got {temperature}")
    z = at_least_float32(z)
    # Probabilities are 0 or 1 long before this limit; it only catches quotients that overflow.
    logits = jnp.clip(4 * z / max(temperature, 1e-30), -_SURE, _SURE)
    size = jnp.abs(logits)
    bit_entropy = softplus(-size) + size * sigmoid(-size)  # even in logits; with this sign nothing cancels
    flat = logits.reshape(-1, z.shape[-1])
    halves = [_joint_probabilities(part) for part in jnp.split(flat, [(z.shape[-1] + 1) // 2], axis=1)]
    mean = mean_over_devices(jnp.matmul(halves[0].T, halves[1], precision="highest") / len(flat))
    places = flat.shape[0] // z.shape[0]
    return bit_entropy.reshape(z.shape[0], -1).sum(1) - diversity * places * entropy(mean)


def _joint_probabilities(logits: Array) -> Array:
    """Probabilities of all values of m independent bits: logits [n, m] -> [n, 2^m]."""
    num_bits = logits.shape[1]
    bits = jnp.asarray((np.arange(2**num_bits) >> np.arange(num_bits)[:, None]) & 1, logits.dtype)  # [m, 2^m]
    return jnp.exp(log_sigmoid(logits) @ bits + log_sigmoid(-logits) @ (1 - bits))
