"""What a case notes about itself while it happens: workers' launches, and the strike. No torch."""

import csv
import io
import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A worker's start, and whether its cell had an ok row then."""

    run: int
    cell_id: str
    attempt: int
    pid: int
    was_done: bool


class Notes:
    """A folder that the parents, the workers and the harness of one case all write to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._launches = folder / "launches.jsonl"

    def launch(self, launch: Launch) -> int:
        """Note a launch; how many the same run had before."""
        with self._launches.open("ab", buffering=0) as file:  # a line is written at once
            file.write(json.dumps(asdict(launch)).encode() + b"\n")
        return [each for each in self.launches() if each.run == launch.run].index(launch)

    def launches(self) -> list[Launch]:
        lines = read(self._launches).splitlines()
        return [Launch(**json.loads(line)) for line in lines]

    def strike(self, phase: str, cell_id: str, runs_csv: Path) -> bool:
        """Note that the fault strikes now, and keep what runs.csv holds. False if it did before."""
        with suppress(FileExistsError), (self.folder / "struck.json").open("x") as file:
            with suppress(FileNotFoundError):
                shutil.copyfile(runs_csv, self.folder / "at-strike.csv")
            json.dump({"phase": phase, "cell_id": cell_id}, file)
            return True
        return False

    def struck(self) -> dict[str, Any] | None:
        """Phase and cell of the strike, if there was one."""
        text = read(self.folder / "struck.json")
        return dict(json.loads(text)) if text else None

    def at_strike(self) -> bytes:
        """What runs.csv held when the fault struck."""
        return read(self.folder / "at-strike.csv")


def read(path: Path) -> bytes:
    """The bytes of a file; empty without one."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def whole(data: bytes) -> bytes:
    """The whole records at the beginning of a runs.csv, none of whose fields has a line end."""
    return data[: data.rfind(b"\n") + 1]


def records(data: bytes) -> list[dict[str, str]]:
    """The whole records of a runs.csv, read without any code of the product's."""
    return list(csv.DictReader(io.StringIO(whole(data).decode())))
