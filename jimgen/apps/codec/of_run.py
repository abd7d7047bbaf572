"""The payload that a run codes pictures by."""

from jimgen.apps.codec.lossless import by_latents, by_pixels
from jimgen.apps.codec.lossy import lossy
from jimgen.apps.codec.payload import Payload
from jimgen.errors import UserError
from jimgen.methods.autoregressive import Autoregressive
from jimgen.methods.codec import Codec
from jimgen.methods.hierarchical_vae import HierarchicalVAE
from jimgen.runs.load import Run
from jimgen.train_step import eval_variables


def payload_of(run: Run) -> Payload:
    """The lossy payload of a codec's run, or the lossless one of a pixel transformer's or a hierarchical VAE's.

    Raises:
        UserError: the run is of another experiment, draws images of a class only, or has unusable weights.
    """
    made, variables, shape = run.made, eval_variables(run.state), run.spec.shape
    if isinstance(made, Codec):
        return lossy(made, variables, shape[2])
    if not isinstance(made, Autoregressive | HierarchicalVAE):
        raise UserError(
            f"{run.folder} is a run of {run.experiment}: experiments/codec.py compresses with loss, "
            "experiments/pixel_transformer.py and hierarchical_vae.py without"
        )
    if run.conditional and not run.method.hides_labels:
        raise UserError(f"{run.folder} needs a label for each picture: train it without --conditional")
    trained = {net: variables[net] for net in run.method.ema}
    if isinstance(made, Autoregressive):
        return by_pixels(made, trained, shape)
    return by_latents(made, trained, shape)
