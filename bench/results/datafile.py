"""JSON files of pydantic models by key, next to runs.csv: read whole, changed one key at a time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from filelock import FileLock
from pydantic import BaseModel

from bench.common.errors import DiskFullError, InputError
from bench.common.files import write_atomically
from bench.common.messages import one_line
from bench.plan.columns import LARGEST

_LARGEST: Final = 2**26

Model = TypeVar("Model", bound=BaseModel)


def read_models(path: Path, model: type[Model], content: str) -> dict[str, Model]:
    """The models in a file by key; none where there is no file.

    Args:
        content: what deleting the file loses, for the error's line.

    Raises:
        InputError: for a file that can't be read, or is of another version.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        text = path.read_text(encoding="utf-8")
        values = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_number)
        json.dumps(values, ensure_ascii=False).encode()  # text is Unicode
        return {key: model.model_validate(value) for key, value in values.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: can't be read ({one_line(str(error))[:100]}); put back an earlier one, or "
            f"delete it, which loses {content}"
        ) from error


def _number(text: str) -> float:
    """A number of JSON; ValueError for one that nothing measured could be."""
    value = float(text) if {*text} & {*".eE"} else int(text)
    if not abs(value) < LARGEST:
        raise ValueError(f"{text[:20]} is out of range")
    return value


def update_model(
    runs: Path,
    path: Path,
    model: type[Model],
    content: str,
    key: str,
    change: Callable[[Model | None], Model],
) -> Model:
    """Change one model in a file next to a CSV of results, and return it.

    Args:
        runs: the CSV, under whose lock the file is written.
        content: as of `read_models`.
        change: from the model that the file has, or None, to the new one.

    Raises:
        InputError: as `read_models`.
        DiskFullError: if the file can't be written. It stays as it was.
    """
    try:
        with FileLock(f"{runs}.lock"):  # as rows are appended
            known = read_models(path, model, content)
            changed = known[key] = change(known.get(key))
            values = {name: item.model_dump(mode="json") for name, item in known.items()}
            text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            write_atomically(path, text.encode())
    except OSError as error:
        raise DiskFullError(f"{path}: can't be written ({error.strerror})") from error
    return changed
