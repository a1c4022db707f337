"""Arrays in a file that several processes map into memory; the whole file is checked when it is
read.

It is a safetensors file with a SHA-256 of its content among its notes, so that any change by a
disk, a crash or a person is noticed before its numbers are used. Free of torch.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Notes = dict[str, str]

_DIGEST: Final = "sha256"
_TYPES: Final = {
    "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "F64": np.float64,
}  # fmt: skip
_BEFORE_HEADER: Final = 8  # bytes that hold the length of the header, little-endian


def to_bytes(arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, str]) -> bytes:
    """The content of a file that `read` reads, from arrays of int8 to int64 or float64 and any
    texts, except one called `sha256`."""
    from safetensors.numpy import save

    kept = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return bytes(save(kept, {**notes, _DIGEST: _digest(kept, notes)}))


def read(path: Path) -> tuple[Arrays, Notes]:
    """The arrays of a file, which are read-only views of it, and its notes. OSError if the file
    can't be read. ValueError if its content is not as it was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:  # checks the header
            notes: Notes = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    begin = _BEFORE_HEADER + int.from_bytes(data[:_BEFORE_HEADER].tobytes(), "little")
    header = json.loads(data[_BEFORE_HEADER:begin].tobytes())
    header.pop("__metadata__", None)
    arrays: Arrays = {}
    for name, entry in header.items():
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"its {name} is of another type")
        first, end = (begin + offset for offset in entry["data_offsets"])
        arrays[name] = data[first:end].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
    if notes.pop(_DIGEST, None) != _digest(arrays, notes):
        raise ValueError("its content is not what was written")
    return arrays, notes


def _digest(arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes, numbers and notes."""
    digest = hashlib.sha256(json.dumps(sorted(notes.items())).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()
