"""The payload that a run codes pictures by."""

from jimgen.apps.codec.lossless import lossless
from jimgen.apps.codec.lossy import lossy
from jimgen.apps.codec.payload import Payload
from jimgen.errors import UserError
from jimgen.methods.autoregressive import Autoregressive
from jimgen.methods.codec import Codec
from jimgen.runs.load import Run
from jimgen.train_step import eval_variables


def payload_of(run: Run) -> Payload:
    """The lossy payload of a codec's run, the lossless one of a pixel transformer's run.

    Raises:
        UserError: the run is of another experiment, draws images of a class only, or has unusable weights.
    """
    variables = eval_variables(run.state)
    if isinstance(run.made, Codec):
        return lossy(run.made, variables, run.spec.shape[2])
    if isinstance(run.made, Autoregressive):
        if run.conditional and not run.method.hides_labels:
            raise UserError(f"{run.folder} needs a label for each picture: train it with --label-drop above 0")
        return lossless(run.made, {net: variables[net] for net in run.method.ema}, run.spec.shape)
    raise UserError(
        f"{run.folder} is a run of {run.experiment}: experiments/codec.py compresses with loss, "
        "experiments/pixel_transformer.py without"
    )
