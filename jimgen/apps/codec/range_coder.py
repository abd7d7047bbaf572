"""Symbols as bytes by static tables of integer frequencies: the range coder of the library constriction.

Its traps are closed here: input is checked before it is called, streams that it cannot decode raise DamagedFile, and
symbols without an entry are escaped. A model gets the integers of a table as floats, which hold them exactly, and turns
them to fixed point by operations that IEEE 754 defines to the last bit.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from jimgen.apps.codec.errors import DamagedFile
from jimgen.errors import UserError

ESCAPED_BITS = 17  # of the number that follows an escape


class Tables:
    """Frequencies int [tables, 2 L + 2] >= 1: of the symbols -L to L, and of the escape, the last entry."""

    def __init__(self, frequencies: np.ndarray) -> None:
        if frequencies.ndim != 2 or frequencies.shape[1] % 2 or frequencies.min() < 1 or frequencies.max() >= 2**24:
            raise ValueError(f"expected frequencies [tables, an even number] of 1 to 2^24, got {frequencies.shape}")
        self.frequencies = frequencies
        self.largest = frequencies.shape[1] // 2 - 1
        self._family = categorical()
        self.model = lru_cache(maxsize=None)(self._model)

    def _model(self, table: int) -> Any:
        exact = self.frequencies[table].astype(np.float64)
        return self._family(exact / exact.sum(), perfect=False)


class Writer:
    """Codes numbers by the tables that are named for them."""

    def __init__(self, tables: Tables) -> None:
        self._tables, self._coder = tables, constriction().stream.queue.RangeEncoder()

    def write(self, tables: np.ndarray, numbers: np.ndarray) -> None:
        """Appends numbers int [n], |number| < 2^16, by tables int [n]. Those of one table are coded together."""
        largest = self._tables.largest
        fits = np.abs(numbers) <= largest
        symbols = np.where(fits, numbers + largest, 2 * largest + 1).astype(np.int32)
        for table, places in _places_by_table(tables):
            self._coder.encode(np.ascontiguousarray(symbols[places]), self._tables.model(table))
        if not fits.all():
            escaped = (numbers[~fits] + 2 ** (ESCAPED_BITS - 1)).astype(np.int32)
            self._coder.encode(escaped, _escaped_numbers())

    def finish(self) -> bytes:
        """The bytes: 32-bit words, little-endian."""
        return self._coder.get_compressed().astype("<u4").tobytes()


class Reader:
    """Reads back what a `Writer` wrote, given the same tables in the same order.

    Raises:
        DamagedFile: the bytes are not whole words, or cannot come from these tables. Not all damage is noticed.
    """

    def __init__(self, tables: Tables, data: bytes) -> None:
        self._tables, self._coder = tables, decoder(data)

    def read(self, tables: np.ndarray) -> np.ndarray:
        """The next numbers, int64 [n], of tables int [n]."""
        largest = self._tables.largest
        symbols = np.zeros(len(tables), np.int64)
        for table, places in _places_by_table(tables):
            symbols[places] = decoded(self._coder, self._tables.model(table), len(places))
        numbers, escaped = symbols - largest, symbols == 2 * largest + 1
        if escaped.any():
            found = decoded(self._coder, _escaped_numbers(), int(escaped.sum()))
            numbers[escaped] = found.astype(np.int64) - 2 ** (ESCAPED_BITS - 1)
        return numbers


def decoder(data: bytes) -> Any:
    """A range decoder of 32-bit words, little-endian."""
    if len(data) % 4:
        raise DamagedFile(f"a code of {len(data)} bytes: not whole words")
    return constriction().stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))


def decoded(coder: Any, model: Any, *arguments: Any) -> np.ndarray:
    """What a decoder of constriction returns, with its exceptions as DamagedFile."""
    try:
        return coder.decode(model, *arguments)
    except BaseException as error:  # a panic of the library is no Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise DamagedFile("its code is damaged: these tables never write it") from error
        raise


def categorical() -> Any:
    """The family of distributions given by tables."""
    return constriction().stream.model.Categorical


@lru_cache
def constriction() -> Any:
    """The library. Raises UserError if it is not installed."""
    try:
        import constriction  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("the entropy coder is missing: pip install 'jimgen[codec]', or constriction") from error
    return constriction


@lru_cache
def _escaped_numbers() -> Any:
    return constriction().stream.model.Uniform(2**ESCAPED_BITS)


def _places_by_table(tables: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Each table that occurs, in order, with the places where it does."""
    order = np.argsort(tables, kind="stable")
    found, starts = np.unique(tables[order], return_index=True)
    return list(zip(found.tolist(), np.split(order, starts[1:]), strict=True)) if len(found) else []
