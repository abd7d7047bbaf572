"""Speed at which pictures reach the device, beside the train step that consumes them.

    python benchmarks/feed.py
    python benchmarks/feed.py --pictures 500 --seconds 2 --feeds jpeg records

Feeds, all of 64x64 RGB in batches, shuffled as in training:
  arrays       in memory
  records      `jimgen pack --size 64`
  records 256  `jimgen pack` at 256x256, resized on reading
  jpeg         a folder of 256x256 JPEG files of quality 90, resized
  png          a folder of 256x256 PNG files, resized

The train step is that of a convolutional VAE with Adam, the fastest of the benchmarks. `alone` is the speed of a feed
with nothing else to do; `with the step`, that of training with it. 1.00 in the last column: the feed costs nothing. On
a CPU it always costs something, as both share the cores: the column `CPU` says how much, in microseconds of all threads
for a picture, for which the step takes what the line `step` says.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

SIZE, STORED = 64, 256
FEEDS = ("arrays", "records", "records 256", "jpeg", "png")


@dataclasses.dataclass(frozen=True)
class Args:
    pictures: int = 1500
    """number of pictures in each set"""
    batch: int = 64
    """images per step"""
    seconds: float = 6.0
    """time of each measurement"""
    feeds: tuple[str, ...] = FEEDS
    """feeds to measure"""


class Speed(NamedTuple):
    images_per_s: float
    cpu_us: float  # microseconds of all threads for an image


def main(args: Args) -> None:
    import jax

    from jimgen.cpu import keep_freed_memory
    from jimgen.data.batches import batches

    keep_freed_memory()  # as in training
    device, step = jax.devices()[0], train_step(args.batch)
    with tempfile.TemporaryDirectory(prefix="feed-") as folder:
        os.environ["JIMGEN_CACHE"] = f"{folder}/cache"
        sets = make_sets(Path(folder), args)
        fixed = next(batches(sets["arrays"], batch_size=args.batch, seed=0))
        idle = measure(lambda: step(fixed), args)
        print(f"{os.cpu_count()} cores, {device.device_kind}, batch {args.batch}, jax {jax.__version__}")
        print(f"step: {idle.images_per_s:.0f} images/s, {idle.cpu_us:.0f} us of CPU for an image\n")
        print("| feed | alone, images/s | CPU, us | feed / step | with the step, images/s | of the step's speed |")
        print("|---|---|---|---|---|---|")
        for name in args.feeds:
            alone = measure(consume(batches(sets[name], batch_size=args.batch, seed=0)), args)
            feed = batches(sets[name], batch_size=args.batch, seed=0)
            together = measure(lambda feed=feed: step(next(feed)), args)
            again = measure(lambda: step(fixed), args)  # beside it, as the machine's speed drifts
            ratios = [speed.images_per_s / again.images_per_s for speed in (alone, together)]
            speeds = f"{alone.images_per_s:.0f} | {alone.cpu_us:.0f} | {ratios[0]:.1f} | {together.images_per_s:.0f}"
            print(f"| {name} | {speeds} | {ratios[1]:.2f} |", flush=True)


def measure(turn: Callable[[], Any], args: Args) -> Speed:
    """Speed of turns that each take a batch, after a warm-up."""
    import jax

    for _ in range(3):
        jax.block_until_ready(turn())
    wall, cpu, turns = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < args.seconds:
        jax.block_until_ready(turn())
        turns += 1
    images = turns * args.batch
    return Speed(images / (time.perf_counter() - wall), 1e6 * (time.process_time() - cpu) / images)


def consume(feed: Iterator[Any]) -> Callable[[], Any]:
    return lambda: next(feed)


def train_step(batch_size: int) -> Callable[[Any], Any]:
    """A function that trains on a batch and returns the metrics."""
    import jax
    import jax.numpy as jnp
    import optax

    from jimgen.data.batches import scale_batch
    from jimgen.methods.likelihoods import bernoulli
    from jimgen.methods.vae import vae
    from jimgen.nets.vae import ConvDecoder, ConvEncoder
    from jimgen.train_step import compile_step, init_state, make_train_step

    nets = ConvEncoder(64), ConvDecoder((SIZE, SIZE, 3))
    method = vae(*nets, latent_dim=64, tx=optax.adam(1e-3), likelihood=bernoulli(binarise=False), kl_weight=4.0)
    compiled = compile_step(make_train_step(method.phases, prepare=scale_batch), "jit")
    index = jnp.arange(2, dtype=jnp.int32)
    example = {"image": jnp.zeros((2, SIZE, SIZE, 3)), "label": index, "index": index}
    state = jax.jit(lambda key: init_state(method.init, method.phases, (), key, example))(jax.random.key(0))
    key = jax.random.key(1)

    def step(batch: Any) -> Any:
        nonlocal state
        state, metrics = compiled.run(state, batch, key)
        return metrics

    return step


def make_sets(folder: Path, args: Args) -> dict[str, Any]:
    """The training split of each feed."""
    from PIL import Image

    from jimgen.data import load
    from jimgen.data.records import write_records

    rng = np.random.default_rng(0)
    for i in range(args.pictures):
        picture = Image.fromarray(photograph(rng))
        for kind in ("jpeg", "png"):
            (folder / kind).mkdir(exist_ok=True)
            picture.save(folder / kind / f"{i}.{kind}", quality=90)  # PNG ignores it
    arrays = load(f"folder:{folder / 'png'}", size=SIZE)
    write_records(arrays, folder / "records")
    write_records(load(f"folder:{folder / 'png'}"), folder / "records 256")
    names = {name: f"{'records' if 'records' in name else 'folder'}:{folder / name}" for name in FEEDS[1:]}
    return {"arrays": arrays.train} | {
        name: load(path, size=SIZE, resident_bytes=0).train for name, path in names.items() if name in args.feeds
    }


def photograph(rng: np.random.Generator) -> np.ndarray:
    """Pixels uint8 [256, 256, 3] with the spectrum of photographs: amplitudes fall with frequency."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(STORED), np.fft.rfftfreq(STORED), indexing="ij"))
    noise = np.fft.rfft2(rng.standard_normal((3, STORED, STORED)))
    waves = np.fft.irfft2(noise / np.maximum(frequency, 1 / STORED), (STORED, STORED))
    return np.clip(128 + 50 * waves / waves.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
