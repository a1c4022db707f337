"""The probe job: whether a node sees all that cells need, and the conditions of cells there.

`python -m bench.executors.slurm.probe FOLDER` is its process on a node. It answers in a file of
that folder, which the command that submitted it reads; an exit code says why there is no answer.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError, StoppedError
from bench.common.files import read_file, text_or_empty, write_atomically
from bench.common.messages import last_error
from bench.executors.slurm import commands
from bench.executors.slurm.node import find_target, keep_kind
from bench.executors.slurm.options import CHANGES_FOLDER, NO_PYTHON, Request, script
from bench.executors.slurm.submission import TARGET, publish, submissions_folder
from bench.launch.signals import Signals
from bench.machine.conditions import Target, torch_build
from bench.machine.environment import recorded
from bench.machine.version import code_version
from bench.plan.cell import digest
from bench.plan.rows import software_of
from minbert.assets.cache import cache_folder

_REQUEST: Final = "request.json"
_ANSWER: Final = "answer.json"
_OUTPUT: Final = "output.txt"
_LIMIT_S: Final = 600.0  # a probe takes seconds, and a job with a short limit begins earlier


def main(folder: Path) -> int:
    """Answer a probe's questions on a node; returns the exit code."""
    request = json.loads(read_file(folder / _REQUEST))
    try:
        missing = [path for path in request["paths"] if not Path(path).exists()]
        if missing:
            raise InputError(f"it does not see {missing[0]}")
        if (version := code_version()) != request["code_version"]:
            raise InputError(f"its code is {version}, and here it is {request['code_version']}")
        target = find_target(request["device"])
        keep_kind(Path(request["kinds"]), target)
        publish(folder / _ANSWER, TARGET.dump_json(target))
    except InputError as error:
        publish(folder / _ANSWER, json.dumps({"problem": str(error)}).encode())
    return 0


@dataclass(frozen=True)
class Prober:
    """The questions to a cluster before anything is queued: whether a node has the device, as of
    `bench.machine.conditions.find_conditions`, and sees the paths that cells need besides the cache
    folder. `note` shows a line of text."""

    runs: Path
    request: Request
    device: str
    paths: Iterable[Path]
    note: Callable[[str], None]
    poll_s: float

    @property
    def kinds_folder(self) -> Path:
        """The folder of the conditions that are known, for this request."""
        name = digest([self.request.place, self.device], 8)
        return submissions_folder(self.runs) / "kinds" / name

    def check(self) -> None:
        """Check that Slurm would accept a job of the request, unless it has accepted one.
        InputError if there is no Slurm, or it would not."""
        commands.check_installed()
        try:
            limits = commands.partitions()
        except commands.SlurmError as error:
            raise InputError(
                f"--executor slurm: Slurm does not answer here ({error}); start it on a machine of "
                "the cluster, or leave --executor out"
            ) from error
        name = self.request.partition
        for one in name.split(","):
            if one and one not in limits:
                others = ", ".join(sorted(filter(None, limits)))
                raise InputError(f"--slurm: there is no partition {one}; choose {others}")
            text, most_s = limits.get(one, ("", None))
            if most_s is not None and (self.request.limit_s or 0.0) > most_s:
                raise InputError(
                    f"--slurm: time={self.request.options['time']} is more than {text}, the limit "
                    f"of {f'partition {one}' if one else 'the default partition'}; give less"
                )
        if not name and "" not in limits:
            others = ", ".join(sorted(limits))
            raise InputError(f"--slurm: the cluster has no default partition; choose {others}")
        nodes = commands.hostnames(self.request.options.get("nodelist") or "")
        if len(nodes) > 1:
            raise InputError(
                f"--slurm: nodelist names {len(nodes)} nodes, and Slurm would give each job all of "
                "them; name one, or leave others out with exclude="
            )
        if self.known() is not None:  # now it may have as many as it accepts, or no node that is up
            return
        try:
            commands.check_script(self._script(self.request), "--array=0")
        except commands.SlurmError as error:
            raise InputError(f"--slurm: Slurm refuses such a job: {error}") from error

    def known(self) -> Target | None:
        """The conditions of the node that a probe job has reached before; None without one."""
        answer = self._answer()
        return answer if isinstance(answer, Target) else None

    def ask(self, signals: Signals) -> Target:
        """The conditions of a node, by a probe job unless one is known. InputError if no job could
        run a cell there. StoppedError if the user stops it."""
        return self.known() or self._ask(signals)

    @cached_property
    def _needed(self) -> list[str]:
        return sorted(str(path.resolve()) for path in (*self.paths, cache_folder()))

    @cached_property
    def _folder(self) -> Path:
        values = [self.request.place, self.device, self._needed, str(Path.cwd()), sys.executable]
        software = [code_version(), *torch_build(), recorded(os.environ, on_gpu=True)]
        return submissions_folder(self.runs) / f"probe-{digest([*values, *software], 8)}"

    def _script(self, request: Request) -> str:
        folder = self._folder.resolve()
        return script(request, f"bench-{folder.name}", folder / _OUTPUT, "probe", [str(folder)])

    def _ask(self, signals: Signals) -> Target:
        values: Mapping[str, Any] = {
            "paths": self._needed, "device": self.device, "code_version": code_version(),
            "kinds": str(self.kinds_folder.resolve()),
        }  # fmt: skip
        limit_s, folder = min(self.request.limit_s or _LIMIT_S, _LIMIT_S), self._folder
        text = self._script(self.request.with_limit(limit_s))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / _REQUEST, json.dumps(values, indent=1).encode() + b"\n")
        write_atomically(folder / "script.sh", text.encode())
        for name in (_OUTPUT, _ANSWER):  # of a command that was killed
            (folder / name).unlink(missing_ok=True)
        try:
            job = commands.submit(folder / "script.sh")
        except commands.SlurmError:
            _remove(folder)
            raise
        self.note(
            f"job {job} checks whether a node sees all that cells need; waiting for it to run"
        )
        try:
            self._wait(job, signals)
        except StoppedError:
            commands.cancel(str(job))
            raise
        answer = self._answer() or self._why_none(job)
        if isinstance(answer, Target):
            return answer
        _remove(folder)
        raise InputError(f"--slurm: a node can't run cells: {answer}")

    def _wait(self, job: int, signals: Signals) -> None:
        while not (self._folder / _ANSWER).exists():
            with signals.raising():
                time.sleep(self.poll_s)
            try:
                if all(one.job != job for one in commands.queued([f"bench-{self._folder.name}"])):
                    return
            except commands.SlurmError as error:
                self.note(f"{error}; asking again")

    def _answer(self) -> Target | str:
        """The answer of a probe: conditions, or a problem; empty without one."""
        try:
            data = read_file(self._folder / _ANSWER)
        except OSError:
            return ""
        try:
            return TARGET.validate_json(data)
        except ValueError:
            return str(json.loads(data).get("problem", ""))

    def _why_none(self, job: int) -> str:
        end = commands.ended(job).get(-1, commands.Ended(""))
        if end.exit_code == CHANGES_FOLDER:
            return f"it does not see {Path.cwd()}; start the command in a folder that nodes share"
        if end.exit_code == NO_PYTHON:
            return (
                f"it does not see {sys.executable}; install this project in an environment that "
                "nodes share"
            )
        state = f" (job {job} ended {end.state})" if end.state else ""
        return last_error(text_or_empty(self._folder / _OUTPUT)) or (
            f"it does not see {self._folder.resolve()}{state}; name a file in a folder that nodes "
            "share with --runs"
        )


def _remove(folder: Path) -> None:
    """Remove the folder of a probe, and those around it that are empty then."""
    shutil.rmtree(folder)
    with suppress(OSError):
        for parent in list(folder.parents)[:2]:
            parent.rmdir()


def known_kinds(folder: Path, target: Target) -> dict[str, Target]:
    """The conditions of all nodes that are known, by their id, those of `target` first. Nodes with
    other software, as before an update, and files of another version of this project don't count.
    """
    software = software_of(target.conditions.columns())
    kinds = {target.conditions.conditions_id: target}
    for path in sorted(folder.glob("*.json")):
        kind = _known_kind(path)
        if kind is not None and software_of(kind.conditions.columns()) == software:
            kinds.setdefault(path.stem, kind)
    return kinds


@cache
def _known_kind(path: Path) -> Target | None:
    try:
        return TARGET.validate_json(read_file(path))
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
