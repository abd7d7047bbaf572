"""The likelihood of test images under a VAE: likelihood."""

from pathlib import Path
from typing import Literal

from jimgen.commands.shared import RunFolder, load_run, output_file, require_positive, start_jax
from jimgen.errors import UserError


def likelihood(
    run: RunFolder,
    /,
    samples: int = 100,
    num: int = 1000,
    seed: int = 777,
    chunk: int = 250,
    split: Literal["test", "train"] = "test",
    best: bool = False,
    out: Path | None = None,
) -> None:
    """Bound the likelihood of test images by importance sampling (IWAE-k); the last line is JSON.

    Binarised images are drawn once from their grey values, by the seed. The time grows with --num times --samples. An
    interrupt leaves the images that are done in a file .partial.json, beside an earlier result.

    Args:
        run: folder of the run.
        samples: number k of samples of the latents of each image.
        num: number of images, the first ones of the split; 0 for all.
        seed: random seed of the binarisation and of the samples.
        chunk: images that are computed at a time.
        split: test, or train to see overfitting.
        best: use the best checkpoint, which --quality-every kept, instead of the newest one.
        out: path of the result, .json. Default: RUN/likelihood.json, or RUN/likelihood_train.json
    """
    import json
    import sys
    import time

    from jimgen.data.dataset import num_rows
    from jimgen.evaluation.likelihood import Bounds, importance_bounds, named_bounds
    from jimgen.files import write_atomically
    from jimgen.noise import require_seed
    from jimgen.runs.subject import load_data
    from jimgen.train_step import eval_variables

    require_positive(samples=samples, chunk=chunk)
    require_seed(seed)
    if num:
        require_positive(num=num)
    path = output_file(out or run / ("likelihood.json" if split == "test" else f"likelihood_{split}.json"), ".json")
    unfinished = path.with_suffix(".partial.json")
    with start_jax():
        loaded = load_run(run, best)
        sampler = loaded.method.importance
        if sampler is None:
            raise UserError(f"{run} has no importance weights: its method is no VAE. Its test metrics may be exact")
        dataset = load_data(loaded.config)
        images = dataset.test if split == "test" else dataset.train
        num = num or num_rows(images)
        began = time.perf_counter()

        def save(bounds: Bounds) -> None:
            """Writes the bounds of the images so far: an interrupt loses at most the last chunk, and no old result."""
            seconds, done = time.perf_counter() - began, len(bounds.neg_elbo)
            named = named_bounds(bounds, sampler.data, samples, loaded.conditional, loaded.spec.shape)
            means = {name: mean for name, (mean, _) in named.items()}
            errors = {name: error for name, (_, error) in named.items()}
            subject = {"split": split, "best": best, "data": dataset.spec.name}
            asked = {"samples": samples, "num": done, "seed": seed, **subject}
            progress = {"step": int(loaded.state.step), "seconds": round(seconds, 1)}
            result = {"metrics": means, "standard_errors": errors, **asked, **progress}
            written = json.dumps(result, indent=2).replace("NaN", "null")
            write_atomically(path if done == num else unfinished, written)
            print(f"{done} of {num} images, {seconds:.0f} s", file=sys.stderr)
            if done == num:
                unfinished.unlink(missing_ok=True)
                for name, (mean, error) in named.items():
                    print(f"{name} {mean:.4f} ± {error:.2g}")
                print(path)
                print(json.dumps({**means, **asked}))

        importance_bounds(
            sampler,
            eval_variables(loaded.state),
            images,
            samples=samples,
            num=num,
            seed=seed,
            chunk=min(chunk, num),
            tell=save,
        )
