"""A check, before torch reads it, that a pytorch_model.bin holds tensors and nothing else.

torch's own `weights_only` reader runs no code from a file, but it lets a file of a few bytes
allocate any amount of memory. Here the names that a pickle calls are read without calling them.
"""

import pickletools
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Final

from minbert.errors import InputError

_LONGEST: Final = 2**24
"""Bytes of a pickle, which holds names and shapes but no numbers. bert-large has 0.1 MB."""

_PICKLES_OF_OLD: Final = 5
"""Consecutive pickles at the start of a file of torch before 1.6."""

_NUMBERS: Final = (
    "BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short",
)  # fmt: skip
_CALLED: Final = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in _NUMBERS),
}
"""Names that a table of plain tensors needs."""

_FIRST_BYTE: Final = b"\x80"
"""The first byte of a pickle, before the number of its protocol."""

_NAMING: Final = ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4")
"""Other ways for a pickle to name what it calls, which torch never writes."""


def refuse_unsafe(path: Path) -> None:
    """Check a file written by `torch.save`, without running or unpacking anything in it.

    Raises:
        InputError: if it calls anything that tensors don't need, or is compressed.
        Exception: of many kinds, if it is broken.
    """
    if zipfile.is_zipfile(path):
        for content in _pickles(path):
            _check_names(path, content, 1)
        return
    with path.open("rb") as file:
        _check_names(path, file.read(_LONGEST), _PICKLES_OF_OLD)


def _pickles(path: Path) -> list[bytes]:
    """The pickles in a zip archive of torch, which compresses nothing."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise InputError(f"{path}: is packed, which torch never does; save it again with it")
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        if any(entry.file_size > _LONGEST for entry in pickles):
            raise InputError(f"{path}: its names and shapes alone take over {_LONGEST:,} bytes")
        return [archive.read(entry) for entry in pickles]


def _check_names(path: Path, content: bytes, count: int) -> None:
    stream = BytesIO(content)
    for _ in range(count):
        if content[stream.tell() : stream.tell() + 1] != _FIRST_BYTE:
            raise ValueError("torch's pickles begin with their protocol")
        for operation, argument, _place in pickletools.genops(stream):
            is_name = operation.name == "GLOBAL"
            if (is_name and argument not in _CALLED) or operation.name in _NAMING:
                called = ascii(str(argument or operation.name).replace(" ", "."))[:80]
                raise InputError(
                    f"{path}: is more than a table of tensors: it calls {called} (which was not "
                    "done); use a model.safetensors from a source that you trust"
                )
