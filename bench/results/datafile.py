"""JSON files of pydantic models by key, next to runs.csv: read whole, changed one key at a time."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock
from pydantic import BaseModel

from bench.common.errors import InputError, cause_of, writing
from bench.common.files import read_file, write_atomically
from bench.plan.columns import LARGEST

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class DataFile(Generic[Model]):
    """The file of models next to each CSV of results, by the ending of its name; `content` is what
    deleting one loses, for the line of an error."""

    ending: str
    model: type[Model]
    content: str

    def path(self, runs: Path) -> Path:
        return runs.with_name(f"{runs.stem}{self.ending}")

    def read(self, runs: Path) -> dict[str, Model]:
        """The models in a CSV's file by key; none where there is no file. InputError for a file
        that can't be read, or is of another version."""
        path = self.path(runs)
        try:
            values = json.loads(
                read_file(path), parse_int=_number, parse_float=_number, parse_constant=_number
            )
            json.dumps(values, ensure_ascii=False).encode()  # text is Unicode
            return {key: self.model.model_validate(value) for key, value in values.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{path}: can't be read ({cause_of(error)[:100]}); put back an earlier one, "
                f"or delete it, which loses {self.content}"
            ) from error

    def update(self, runs: Path, key: str, change: Callable[[Model | None], Model]) -> Model:
        """Change one model, from what the CSV's file has, or None, under the CSV's lock, and return
        it. InputError as of `read`; DiskFullError if the file can't be written and stays as it was.
        """
        with writing(self.path(runs)), FileLock(f"{runs}.lock"):  # as rows are appended
            known = self.read(runs)
            changed = known[key] = change(known.get(key))
            self.write(runs, known)
        return changed

    def write(self, runs: Path, models: Mapping[str, Model]) -> None:
        """Replace the CSV's file, whose lock is held; without models there is none. OSError if it
        can't be written."""
        if not models:
            return
        values = {name: item.model_dump(mode="json") for name, item in models.items()}
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.path(runs), text.encode())


def _number(text: str) -> float:
    """A number of JSON; ValueError for one that nothing measured could be."""
    value = float(text) if {*text} & {*".eE"} else int(text)
    if not abs(value) < LARGEST:
        raise ValueError(f"{text[:20]} is out of range")
    return value
