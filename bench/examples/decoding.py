"""Text files as lines or pieces of text, also compressed by gzip.

UTF-8 with or without a byte order mark, or UTF-16 or UTF-32 with one.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from bench.common.errors import InputError
from bench.examples.table import quoted

GZIP: Final = ".gz"
LONGEST: Final = 2**20
"""Characters of a line, and of a field; an encoder reads the first few thousand of them."""
_CHUNK: Final = 2**20
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BROKEN_GZIP: Final = (EOFError, zlib.error, gzip.BadGzipFile)


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a text file, each with its end.

    Raises:
        InputError: a file that can't be read or is no text, or a line that is too long.
    """
    number = 0
    with _opened(path) as (file, _):
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise InputError(
                    f"{path}, line {number}: has over {LONGEST:,} characters, so this is no "
                    "table of texts; is it another kind of file?"
                )
            if "\0" in line:
                raise InputError(
                    f"{path}, line {number}: has a NUL byte, so this is no text file, or it is "
                    "UTF-16 without a byte order mark; save it as UTF-8"
                )
            yield line


def pieces_of(path: Path, largest: int | None = None) -> Iterator[str]:
    """A text file in pieces of any length.

    Raises:
        InputError: as `lines_of`; or a file that is larger.
    """
    size = 0
    with _opened(path) as (file, _):
        while piece := file.read(_CHUNK):
            size += len(piece)
            if "\0" in piece:
                raise InputError(f"{path}: has a NUL byte, so this is no JSON; save it as UTF-8")
            if largest and size > largest:
                raise InputError(
                    f"{path}: its array has over {largest:,} characters; write JSON lines, an "
                    "object on each line, which need less memory"
                )
            yield piece


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.TextIOWrapper, str]]:
    """A text file, decoded, and the name of its encoding.

    Raises:
        InputError: if it can't be opened, or what is read in the context can't be decoded.
    """
    try:
        with _binary(path) as file:
            encoding = _encoding(file)
            with io.TextIOWrapper(file, encoding, newline="") as text:
                yield text, encoding
    except UnicodeError as error:
        raise InputError(_wrong_byte(path)) from error
    except _BROKEN_GZIP as error:
        raise InputError(f"{path}: is no whole gzip file ({first_line(error)})") from error
    except OSError as error:
        raise InputError(
            f"{path}: can't be read ({error.strerror or first_line(error)})"
        ) from error


def _binary(path: Path) -> BinaryIO:
    if path.suffix.lower() == GZIP:
        return cast(BinaryIO, gzip.open(path))
    return path.open("rb")


def _encoding(file: BinaryIO) -> str:
    """The encoding by the mark at the start of a file, whose position stays."""
    start = file.read(4)
    file.seek(0)
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")


def encoding_note(path: Path) -> tuple[str, ...]:
    with _opened(path) as (_, encoding):
        is_usual = encoding.startswith("utf-8")
        return () if is_usual else (f"{path.name}: is {encoding.upper()}, by its byte order mark",)


def _wrong_byte(path: Path) -> str:
    """A message with the first byte that is no text."""
    line = 1
    with _binary(path) as file:
        encoding = _encoding(file)
        decode = codecs.getincrementaldecoder(encoding)().decode
        try:
            while chunk := file.read(_CHUNK):
                decode(chunk)
                line += chunk.count(b"\n")
            decode(b"", True)
        except UnicodeDecodeError as error:
            if encoding.startswith("utf-8"):
                start = error.start
                line += error.object[:start].count(b"\n")
                wrong = f"byte 0x{error.object[start]:02X}" if error.object else "its last byte"
                return f"{path}, line {line}: {wrong} is not UTF-8; save the file as UTF-8"
        except UnicodeError:
            pass
    return f"{path}: is not {encoding.upper()} as its byte order mark says; save it as UTF-8"


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return quoted(str(error).partition("\n")[0] or type(error).__name__)[1:-1]
