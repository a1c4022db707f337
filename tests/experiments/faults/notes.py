"""What a case notes about itself while it happens: workers' launches, and the strike. No torch."""

import csv
import io
import json
import os
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
        self._struck = folder / "struck.json"

    def launch(self, launch: Launch) -> int:
        """Note a launch; how many the same run had before."""
        descriptor = os.open(self._launches, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, json.dumps(asdict(launch)).encode() + b"\n")
        os.close(descriptor)
        return [each for each in self.launches() if each.run == launch.run].index(launch)

    def launches(self) -> list[Launch]:
        try:
            lines = self._launches.read_text().splitlines()
        except FileNotFoundError:
            return []
        return [Launch(**json.loads(line)) for line in lines]

    def strike(self, phase: str, cell_id: str, runs_csv: Path) -> bool:
        """Note that the fault strikes now, and keep what runs.csv holds. False if it did before."""
        try:
            descriptor = os.open(self._struck, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        with suppress(FileNotFoundError):
            shutil.copyfile(runs_csv, self.folder / "at-strike.csv")
        os.write(descriptor, json.dumps({"phase": phase, "cell_id": cell_id}).encode())
        os.close(descriptor)
        return True

    def struck(self) -> dict[str, Any] | None:
        """Phase and cell of the strike, if there was one."""
        try:
            return dict(json.loads(self._struck.read_text()))
        except (FileNotFoundError, ValueError):
            return None

    def at_strike(self) -> bytes:
        """What runs.csv held when the fault struck."""
        path = self.folder / "at-strike.csv"
        return path.read_bytes() if path.exists() else b""


def whole(data: bytes) -> bytes:
    """The whole records at the beginning of a runs.csv, none of whose fields has a line end."""
    return data[: data.rfind(b"\n") + 1]


def records(data: bytes) -> list[dict[str, str]]:
    """The whole records of a runs.csv, read without any code of the product's."""
    return list(csv.DictReader(io.StringIO(whole(data).decode())))


def has_ok_row(runs_csv: Path, cell_id: str) -> bool:
    try:
        found = records(runs_csv.read_bytes())
    except FileNotFoundError:
        return False
    return any(row["cell_id"] == cell_id and row["status"] == "ok" for row in found)
