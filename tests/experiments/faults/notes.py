"""What a case notes about itself while it happens: workers' launches, and the strike. No torch."""

import csv
import io
import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Launch:
    run: int
    cell_id: str
    attempt: int
    pid: int
    was_done: bool


class Notes:
    """A folder that the parents, the workers and the harness of one case all write to."""

    def __init__(self, folder):
        self.folder = folder

    def launch(self, launch):
        """Note a launch; how many the same run had before."""
        with (self.folder / "launches.jsonl").open("ab", buffering=0) as file:  # a line at once
            file.write(json.dumps(asdict(launch)).encode() + b"\n")
        return [each for each in self.launches() if each.run == launch.run].index(launch)

    def launches(self):
        lines = read(self.folder / "launches.jsonl").splitlines()
        return [Launch(**json.loads(line)) for line in lines]

    def strike(self, phase, cell_id, runs_csv):
        """Note that the fault strikes now, and keep what runs.csv holds. False if it did before."""
        with suppress(FileExistsError), (self.folder / "struck.json").open("x") as file:
            with suppress(FileNotFoundError):
                shutil.copyfile(runs_csv, self.folder / "at-strike.csv")
            json.dump({"phase": phase, "cell_id": cell_id}, file)
            return True
        return False

    def struck(self):
        text = read(self.folder / "struck.json")
        return json.loads(text) if text else None


def read(path):
    return path.read_bytes() if path.is_file() else b""


def whole(data):
    """The whole records at the beginning of a runs.csv, none of whose fields has a line end."""
    return data[: data.rfind(b"\n") + 1]


def records(data):
    """The whole records of a runs.csv, read without any code of the product's."""
    return list(csv.DictReader(io.StringIO(whole(data).decode())))
