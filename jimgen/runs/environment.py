"""Versions, devices, code and data of a run: what one needs to repeat it."""

import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jimgen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment(data_hash: str, seed: int) -> dict[str, Any]:
    """The environment of a run that starts now, for JSON."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "git_commit": _git_commit(),
        "data_hash": data_hash,
        "seed": seed,
        "command": shlex.join(sys.argv),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # installed without its repository
