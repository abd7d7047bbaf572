"""PyTorch weight files as numpy arrays, without PyTorch and without running code from a file.

A checkpoint is a pickle, and a pickle can call any function. This reader knows only the few names that tensors need and
refuses all others. It reads both formats of torch.save: the zip archive, and the format before PyTorch 1.6.
"""

import hashlib
import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jimgen.errors import UserError
from jimgen.files import expanded, read_errors

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file in the old format
PROTOCOL = 1001  # second pickle
DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    """A sequence of numbers of which tensors are views."""

    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    """A tensor whose numbers have not been read. Offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Refused(Exception):
    """The file asks for more than tensors."""


class _Unpickler(pickle.Unpickler):
    """Knows OrderedDict, the types of storage and the functions that rebuild tensors. It refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return np.dtype(DTYPES[name])
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        # New functions each time, so that a file cannot change those of the next one.
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, shape, strides)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        raise _Refused(f"it asks for {module}.{name}, which is not part of a tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, length = pid[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(length, int) or length < 0:
            raise _Refused(f"it holds {kind!r} in place of a storage")
        if len(pid) > 5 and pid[5] is not None:
            raise _Refused("it holds views of storages, an obsolete form: save it again with PyTorch")
        return _Storage(str(key), dtype, length)


def read_torch_weights(path: Path | str) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a state dict that torch.save wrote, and the identity of the file.

    Returns: Arrays by name, in the file's order and dtypes; and the sha256 of the file, 64 hex digits.
    Raises:
        UserError: the file is missing, truncated, damaged, not a state dict of tensors, or asks for anything else than
            tensors, which might be an attack.
    """
    with read_errors(path):
        content = expanded(path).read_bytes()
    try:
        read = _read_zip if zipfile.is_zipfile(io.BytesIO(content)) else _read_legacy
        tensors = read(io.BytesIO(content))
    except _Refused as error:
        raise UserError(f"{path} is refused: {error}. Use a file of weights alone, from a source you trust") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path} is damaged, truncated or not a PyTorch file ({reason}): fetch it again") from error
    return tensors, hashlib.sha256(content).hexdigest()


def folded_params(tensors: Mapping[str, np.ndarray], *, epsilon: float) -> dict[str, dict[str, np.ndarray]]:
    """Weights of an inference net in Flax's layout, with each BatchNorm folded into the convolution before it.

    BatchNorm(W * x) = gamma (W * x - mean) / sqrt(var + epsilon) + beta is the convolution with kernel W s and bias
    beta - mean s, where s = gamma / sqrt(var + epsilon) is one number per output channel.

    Args:
        tensors: state dict in the order in which its modules were defined, so that each BatchNorm follows its
            convolution: weights [out, in / groups, height, width] or [out, in].
        epsilon: epsilon of the BatchNorms.
    Returns:
        Name of the convolution or linear layer -> kernel float32 [height, width, in / groups, out] or [in, out], and
        bias float32 [out] if there is one.
    Raises:
        UserError: a BatchNorm does not follow a convolution with as many channels.
    References:
        Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167, algorithm 2.
    """
    params: dict[str, dict[str, np.ndarray]] = {}
    layer, scale = "", np.ones(())
    for name, value in tensors.items():
        module, _, leaf = name.rpartition(".")
        value = value.astype(np.float64)
        if leaf == "weight" and value.ndim in (2, 4):
            layer = module
            params[layer] = {"kernel": value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T}
        elif leaf == "bias" and module == layer:
            params[layer]["bias"] = value
        elif leaf == "running_mean":
            gamma, beta, variance = (
                tensors[f"{module}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_var")
            )
            if not layer or "bias" in params[layer] or params[layer]["kernel"].shape[-1:] != value.shape:
                raise UserError(f"cannot fold {module}: {layer or 'nothing'} before it is not a convolution that fits")
            scale = gamma / np.sqrt(variance + epsilon)
            params[layer] = {"kernel": params[layer]["kernel"] * scale, "bias": beta - value * scale}
    return {name: {leaf: x.astype(np.float32) for leaf, x in layer.items()} for name, layer in params.items()}


def _read_legacy(file: io.BytesIO) -> dict[str, np.ndarray]:
    """Reads five pickles (magic number, version, machine, the object, keys of storages), and then the storages."""
    if (_unpickled(file), _unpickled(file)) != (MAGIC, PROTOCOL):
        raise ValueError("unknown format")
    machine, state, keys = (_unpickled(file) for _ in range(3))
    if not machine["little_endian"]:
        raise _Refused("it was written on a big-endian machine")
    content, start, places = file.getbuffer(), file.tell(), {}
    sizes = {tensor.storage.key: tensor.storage.dtype.itemsize for tensor in _named_tensors(state).values()}
    for key in keys:
        length = int.from_bytes(content[start : start + 8], "little")
        places[key] = start + 8
        start += 8 + length * sizes[key]
    if start != len(content):
        raise ValueError(f"{len(content)} bytes, expected {start}")

    def read_storage(storage: _Storage) -> np.ndarray:
        return np.frombuffer(content, storage.dtype, storage.length, places[storage.key])

    return _materialised(state, read_storage)


def _read_zip(file: io.BytesIO) -> dict[str, np.ndarray]:
    """Reads FOLDER/data.pkl, the object, and FOLDER/data/KEY, the storages."""
    with zipfile.ZipFile(file) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise _Refused("it was written on a big-endian machine")

        def read_storage(storage: _Storage) -> np.ndarray:
            entry = archive.getinfo(f"{folder}data/{storage.key}")
            if entry.file_size != storage.length * storage.dtype.itemsize:  # check before unpacking
                raise ValueError(f"storage {storage.key} has {entry.file_size} bytes")
            return np.frombuffer(archive.read(entry), storage.dtype)

        return _materialised(_unpickled(io.BytesIO(archive.read(pickled))), read_storage)


def _unpickled(file: io.BytesIO) -> Any:
    """The next object in a file."""
    start = file.tell()
    for opcode, index, _ in pickletools.genops(file):  # the unpickler allocates the largest index
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(index or 0) > file.getbuffer().nbytes:
            raise ValueError(f"an object is stored at index {index}")
    file.seek(start)
    return _Unpickler(file).load()


def _named_tensors(state: Any) -> dict[str, _Tensor]:
    if not isinstance(state, dict) or not all(isinstance(value, _Tensor) for value in state.values()):
        raise _Refused("it holds more than a state dict, that is tensors by name: save model.state_dict() alone")
    return {str(name): value for name, value in state.items()}


def _materialised(state: Any, read_storage: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a state dict, copied from their storages."""
    storages: dict[str, np.ndarray] = {}
    arrays = {}
    for name, (storage, offset, shape, strides) in _named_tensors(state).items():
        if storage.key not in storages:
            storages[storage.key] = read_storage(storage)
        numbers = storages[storage.key]
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if min(offset, *shape, *strides, 0) < 0 or (0 not in shape and last >= len(numbers)):
            raise ValueError(f"{name} lies outside its storage")  # as_strided would read foreign memory
        if math.prod(shape) > len(numbers):  # strides of zero can repeat an element any number of times
            raise ValueError(f"{name} has more elements than its storage")
        steps = [stride * numbers.itemsize for stride in strides]
        arrays[name] = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps).copy()
    return arrays
