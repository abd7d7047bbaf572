"""A profile of a few train steps: what host and devices do in them, and for how long."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax

from jimgen.files import disk_errors

SKIPPED, RECORDED = 2, 6  # steps: the first one compiles, and the device may be behind in the second


def profiled_steps(
    steps: range, folder: Path, *, wait: Callable[[], Any], tell: Callable[[str], Any]
) -> Generator[int, None, None]:
    """The numbers of `steps`, one after the other. What the caller does with the third to the eighth is recorded.

    It takes the place of the range that a training loops over:

        numbers = profiled_steps(
            range(start + 1, config.steps + 1),
            folder / "profile",
            wait=lambda: jax.block_until_ready(state),
            tell=output.print,
        )
        stack.enter_context(contextlib.closing(numbers))  # a loop that stops early has its profile, too
        for number in numbers:
            state, metrics = compiled.run(state, next(feed), train_key)

    Each recorded step is a `jax.profiler.StepTraceAnnotation` named "train". JAX writes into
    FOLDER/plugins/profile/TIME/ a HOST.xplane.pb, for XProf or TensorBoard, and a perfetto_trace.json.gz.

    Args:
        steps: numbers of the steps. Where there are fewer than three, nothing is recorded.
        folder: of the profile; made, if it is missing.
        wait: waits until the devices are idle, so that the profile begins and ends between steps.
        tell: prints lines for the user: where the profile is and how to open it, or why it was not written.
    Raises:
        UserError: the folder cannot be made.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    yield from steps[:SKIPPED]
    if recorded := steps[SKIPPED : SKIPPED + RECORDED]:
        wait()
        try:
            jax.profiler.start_trace(folder, create_perfetto_trace=True)
        except Exception as error:  # whatever JAX raises, training goes on
            tell(f"no profile: {error}")
            yield from steps[SKIPPED:]
            return
        try:
            for number in recorded:
                with jax.profiler.StepTraceAnnotation("train", step_num=number):
                    yield number
            wait()
        finally:
            tell(_written(folder))
    yield from steps[SKIPPED + RECORDED :]


def _written(folder: Path) -> str:
    """Ends the recording and writes it. A disk that is full costs the profile, not the training."""
    try:
        jax.profiler.stop_trace()
        newest = max(folder.glob("plugins/profile/*"))  # named by the time
    except Exception as error:  # whatever JAX raises, training goes on
        return f"the profile could not be written to {folder}: {error}"
    return (
        f"profile: {folder}\n  pip install xprof; xprof --logdir {folder}\n"
        f"  or open {newest / 'perfetto_trace.json.gz'} at https://ui.perfetto.dev"
    )
