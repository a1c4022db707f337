"""What a job asks Slurm for, given by --slurm, and the script of a job."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.common.errors import InputError
from bench.executors.slurm.commands import TEXTS, duration, seconds

_ROOT: Final = Path(__file__).parents[3]
_SCRIPT: Final[str] = TEXTS["job"]["script"]
_NOT_OF_PLACE: Final = ("time", "exclude", "nice", "comment")
"""Options that say when a job begins and ends, and which nodes of a kind it leaves out."""
_NAME: Final = re.compile(r"[a-z][a-z0-9-]*")
_PLAIN: Final = re.compile(r"[\w./:,@%+*=\[\]()&|!<>-]+")
CHANGES_FOLDER: Final = 74
NO_PYTHON: Final = 73
"""Exit codes of a script that can't begin: the folder of the command is not there, or Python."""
NO_FILES: Final = 75
"""Exit code of an array task whose files can't be read or written, as on a full disk."""


@dataclass(frozen=True)
class Request:
    """What jobs ask for: options of sbatch by name (None for one without a value), and how many
    array tasks may run at once; None: as many as the cluster lets."""

    options: Mapping[str, str | None] = field(default_factory=dict)
    max_running: int | None = None

    @property
    def partition(self) -> str:
        """The partition; empty: the cluster's default."""
        return self.options.get("partition") or os.environ.get("SBATCH_PARTITION", "")

    @property
    def place(self) -> dict[str, str | None]:
        """What determines on which kinds of nodes jobs run, and how much of a node they have."""
        others = {name: v for name, v in self.options.items() if name not in _NOT_OF_PLACE}
        return {**others, "partition": self.partition}

    @property
    def flags(self) -> str:
        words = (
            name if value is None else f"{name}={value}" for name, value in self.options.items()
        )
        flags = ["--executor", "slurm", "--slurm", shlex.join(words)]
        if self.max_running is not None:
            flags += ["--max-running", str(self.max_running)]
        return shlex.join(flags)

    @property
    def limit_s(self) -> float | None:
        return seconds(self.options.get("time") or "")

    def with_limit(self, limit_s: float) -> "Request":
        return Request({**self.options, "time": duration(limit_s)}, self.max_running)


def parse_request(text: str, max_running: int | None = None) -> Request:
    """The request in the text of --slurm, such as `partition=gpu gres=gpu:1 exclusive`. InputError
    if the text can't be read, or sets what is set here."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"--slurm: {text!r} can't be read ({error})") from error
    options: dict[str, str | None] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not _NAME.fullmatch(name):
            raise InputError(
                f"--slurm: {word!r} is not an option; give the long options of sbatch without "
                "their dashes, such as partition=gpu time=02:00:00 exclusive"
            )
        for refused, why in TEXTS["refused"].items():
            # sbatch takes the beginning of a name for the name
            if refused.startswith(name):
                raise InputError(f"--slurm: {name} can't be given: {why}; leave it out")
        if name in options:
            raise InputError(f"--slurm: {name} is given twice; leave one out")
        if not value.isprintable() or (equals and not value):
            raise InputError(f"--slurm: {word!r} has no value that can be used")
        options[name] = value if equals else None
    request = Request(options, max_running)
    if "time" in options and request.limit_s is None:
        raise InputError(
            f"--slurm: time={options['time']} is not a time limit; give minutes, H:MM:SS or "
            "D-HH:MM:SS"
        )
    return request


def script(request: Request, name: str, output: Path, module: str, arguments: Sequence[str]) -> str:
    """The script of a job that runs a module of `bench.executors.slurm` as this process would, and
    prints to the file `output`, whose name may have Slurm's patterns such as %a."""
    file = f"{output.parent}".replace("%", "%%") + f"/{output.name}"
    if len(file.splitlines()) > 1:
        raise InputError(f"{file!r}: a job script can't name a path of several lines")
    options: dict[str, str | None] = {
        "job-name": name, "output": file, "open-mode": "append", "export": "ALL",
        "requeue": None, **request.options,
    }  # fmt: skip
    path = f"export PYTHONPATH={shlex.quote(str(_ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}\n"
    command = [sys.executable, "-m", f"bench.executors.slurm.{module}", *arguments]
    return _SCRIPT.format(
        options="\n".join(f"#SBATCH --{each}{_value(value)}" for each, value in options.items()),
        folder=shlex.quote(str(Path.cwd())), no_folder=CHANGES_FOLDER,
        python=shlex.quote(sys.executable), no_python=NO_PYTHON,
        path=path if (_ROOT / "pyproject.toml").is_file() else "",
        command=shlex.join(command),
    )  # fmt: skip


def _value(value: str | None) -> str:
    if value is None:
        return ""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f"={value}" if _PLAIN.fullmatch(value) else f'="{escaped}"'
