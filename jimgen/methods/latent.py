"""Methods over latents: any method over images, applied to the latents of a frozen autoencoder.

Vahdat et al., arXiv:2106.05931; Rombach et al., arXiv:2112.10752.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jimgen import noise
from jimgen.methods.autoencoder import Autoencoder
from jimgen.methods.method import Method
from jimgen.methods.tokenizer import known_tokens, with_mean_of_known
from jimgen.sampling.posterior import as_mask
from jimgen.train_step import Aux, Batch, Objective, Phase, Variables

POSTERIOR = 6  # folded into a step's key for the noise of z ~ q(z|x); smaller numbers are taken by methods


def in_latents(autoencoder: Autoencoder, frozen: Variables, method: Method) -> Method:
    """The method over an autoencoder's latents as one over images: encodes what it trains on, decodes its samples.

    Training draws new latents z ~ q(z|x) at each step. Metrics of held-out examples are of latents, not of images.
    In inpainting a latent is known if all pixels of its cell are, and known pixels are kept. Other restoration is left
    out (`Method.flow`): operators on images are not linear in the latents.

    Args:
        autoencoder, frozen: the results of `load_autoencoder`; no phase trains these variables.
        method: over "images" of the autoencoder's latent_shape, whose samples are not clipped.
    """

    def encoded(variables: Variables, batch: Batch, key: Array) -> Batch:
        mean, std = autoencoder.encode(variables, batch["image"])
        eps = noise.normal(jax.random.fold_in(key, POSTERIOR), batch["index"], autoencoder.latent_shape)
        return {**batch, "image": jax.lax.stop_gradient(mean + std * eps.astype(mean.dtype))}

    def over_images(objective: Objective) -> Objective:
        def of_images(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
            return objective(variables, encoded(variables, batch, key), key)

        return of_images

    def wrapped(phase: Phase) -> Phase:
        periodic = phase.periodic and over_images(phase.periodic)
        return phase._replace(objective=over_images(phase.objective), periodic=periodic)

    def init(key: Array, batch: Batch) -> Variables:
        z = jnp.zeros((batch["image"].shape[0], *autoencoder.latent_shape))
        return {**jax.tree.map(jnp.asarray, frozen), **method.init(key, {**batch, "image": z})}

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        return autoencoder.decode(variables, method.sample(variables, key, labels))

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        assert method.evaluate is not None
        return method.evaluate(variables, encoded(variables, batch, key), key)

    def inpaint(variables: Variables, key: Array, images: Array, mask: Array, labels: Array) -> Array:
        assert method.inpaint is not None
        known = as_mask(mask, images)
        z, _ = autoencoder.encode(variables, with_mean_of_known(images, known))
        cells = known_tokens(known, autoencoder.latent_shape[:2]).reshape(z.shape[:3])
        return jnp.where(known, images, autoencoder.decode(variables, method.inpaint(variables, key, z, cells, labels)))

    return method._replace(
        init=init,
        phases=tuple(wrapped(phase) for phase in method.phases),
        sample=sample,
        evaluate=method.evaluate and evaluate,
        reconstruct=autoencoder.method.reconstruct,
        space=None,
        flow=None,
        inpaint=method.inpaint and inpaint,
    )
