"""The commands of Slurm: their arguments, output and errors.

Functions raise SlurmError if a command fails, or the controller does not answer. Formats are named
(`-o`), so that versions of ten years ago answer in the same way. `--all` includes hidden
partitions, whose jobs are not listed otherwise, not even to their user.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.common.errors import InputError
from bench.common.files import read_tables
from bench.common.messages import one_line

TEXTS: Final = read_tables(__file__, "texts.toml")
"""Options that can't be given and why, the names of variables of options, what messages say of
cells that Slurm ended, and the script of a job."""
COMMANDS: Final = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
PATIENCE_S: Final = 60
"""A command that takes longer has lost its controller: Slurm's own time-outs are 10 to 30 s."""
_LOOK_S: Final = 2.0
_FULL: Final = b"sleeping and retrying"
_DEFAULTS: Final = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_")
"""Variables by which users change what these commands list."""
_OUTER_JOB: Final = "SLURM_RESTART_COUNT"
"""A variable of the job in which this process runs that its own jobs would take for theirs."""
_WHOLE: Final = "SLURM_BITSTR_LEN"
"""The variable that, if it is 0, lets lists of indexes be printed in full."""
_MESSAGE: Final = re.compile(r"^[a-z_]+: ((error|fatal): )?")


class SlurmError(InputError):
    """A command of Slurm failed. The message has its name and its last error."""


@dataclass(frozen=True)
class Queued:
    """Array tasks of a job that are pending or running, by the state that Slurm has for them, and
    the reason for which those that are pending wait."""

    job: int
    name: str
    state: str
    indexes: frozenset[int]
    reason: str = ""


@dataclass(frozen=True)
class Ended:
    """How Slurm ended an array task: its state, such as `TIMEOUT`, its exit code and its node."""

    state: str
    exit_code: int = 0
    node: str = ""


def check_installed() -> None:
    """Check that this machine can submit jobs. InputError if it has not all commands."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        raise InputError(
            f"--executor slurm: not found on PATH: {', '.join(missing)}; start it on a machine of "
            "the cluster from which jobs are submitted, or leave --executor out"
        )


def submit(script: Path, *options: str) -> int:
    """Submit a job script, with further options of sbatch; returns the id of the job. The options
    in the script count, and those that can't be given are left out, whatever the environment has.
    """
    without = _variables(script.read_text(encoding="utf-8"))
    answer = _run("sbatch", "--parsable", *options, str(script), without=without)
    number = answer.strip().partition(";")[0]
    if not number.isdecimal():
        raise SlurmError(f"sbatch: printed no job id but {one_line(answer)!r}")
    return int(number)


def check_script(text: str, *options: str) -> None:
    """Ask Slurm whether it would accept a script, without submitting it."""
    _run("sbatch", "--test-only", *options, stdin=text, without=_variables(text))


def _variables(text: str) -> set[str]:
    """The variables by which the environment would override options of a script, or set one that
    can't be given."""
    names = (*re.findall(r"^#SBATCH --([a-z0-9-]+)", text, re.MULTILINE), *TEXTS["refused"])
    others = TEXTS["variables"]
    return {others.get(name, f"SBATCH_{name.upper().replace('-', '_')}") for name in names}


def queued(names: Sequence[str], users: Iterable[int] = ()) -> list[Queued]:
    """The array tasks that have not ended in jobs of these names, of this user and others."""
    numbers = ",".join(map(str, sorted({os.getuid(), *users})))
    answer = _run(
        "squeue", "--all", "--noheader", f"--user={numbers}", f"--name={','.join(names)}",
        "--format=%j|%F|%K|%T|%r",
    )  # fmt: skip
    lines = (line.split("|", 4) for line in answer.splitlines())
    return [
        Queued(int(job), name, state, parse_indexes(indexes), reason)
        for name, job, indexes, state, reason in lines
    ]


def parse_indexes(text: str) -> frozenset[int]:
    """The indexes in a list of Slurm's, such as `4-10,20-40:10%64`; empty for a job without any."""
    text = text.strip("[]").partition("%")[0]
    if not text[:1].isdecimal():  # N/A
        return frozenset()
    indexes: set[int] = set()
    for part in text.split(","):
        ends, _, step = part.partition(":")
        first, _, last = ends.partition("-")
        indexes.update(range(int(first), int(last or first) + 1, int(step or 1)))
    return frozenset(indexes)


def ended(job: int) -> dict[int, Ended]:
    """How array tasks of a job ended, by index, as far as Slurm still knows. The controller forgets
    jobs some minutes after their end; accounting, where there is any, does not. A job without an
    array has index -1."""
    known: dict[int, Ended] = {}
    for read in (_from_accounting, _from_controller):
        with suppress(SlurmError):
            known.update(read(job))
    return known


def _from_controller(job: int) -> Iterator[tuple[int, Ended]]:
    for line in _run("scontrol", "show", "job", "--oneliner", str(job)).splitlines():
        fields = dict(re.findall(r"(?<!\S)(\w+)=(\S*)", line))
        state, code, node = (fields.get(name, "") for name in ("JobState", "ExitCode", "BatchHost"))
        yield from _by_index(fields.get("ArrayTaskId", ""), state, code, node)


def _from_accounting(job: int) -> Iterator[tuple[int, Ended]]:
    if shutil.which("sacct") is None:
        return
    answer = _run(
        "sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}",
        "--format=JobID,State,ExitCode,NodeList",
    )  # fmt: skip
    for line in answer.splitlines():
        number, state, code, node = line.split("|")
        yield from _by_index(number.partition("_")[2], state.partition(" ")[0], code, node)


def _by_index(indexes: str, state: str, code: str, node: str) -> Iterator[tuple[int, Ended]]:
    code = code.partition(":")[0]
    ended = Ended(state, int(code) if code.isdecimal() else 0, node)
    return ((index, ended) for index in parse_indexes(indexes) or (-1,))


def cancel(*arguments: str) -> None:
    """Cancel jobs with all their array tasks, or those that options of scancel choose."""
    _run("scancel", *arguments)


def most_indexes() -> int:
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run("scontrol", "show", "config"), re.M)
    most = int(match[1]) if match else 0
    if most < 2:
        raise SlurmError("scontrol: MaxArraySize is 0: this cluster has no job arrays")
    return most


def partitions() -> dict[str, tuple[str, float | None]]:
    """The longest time of a job in each partition, as text and in seconds; None: no limit. The
    default partition is also under the empty name."""
    answer = _run("sinfo", "--all", "--noheader", "--format=%P|%l")
    limits: dict[str, tuple[str, float | None]] = {}
    for line in answer.splitlines():
        name, limit = line.rsplit("|", 1)
        limits[name.removesuffix("*")] = limit, seconds(limit)
        if name.endswith("*"):
            limits[""] = limit, seconds(limit)
    return limits


def nodes_of(partition: str) -> dict[str, str]:
    """The nodes of a partition by name, each with its state; of all, if its name is empty."""
    where = f"--partition={partition}" if partition else "--all"  # sinfo refuses both
    answer = _run("sinfo", "--noheader", "--Node", where, "--format=%N|%T")
    return dict(line.split("|", 1) for line in answer.splitlines())


def hostnames(expression: str) -> set[str]:
    """The names of nodes in an expression such as `n[1-3,7]`."""
    return set(_run("scontrol", "show", "hostnames", expression).split()) if expression else set()


def cpus_of(node: str) -> int | None:
    """The number of a node's CPUs that jobs can have; None if Slurm does not say."""
    try:
        text = _run("scontrol", "show", "node", node)
    except SlurmError:
        return None
    # the first, since Slurm 21.08, is without cores that are kept for the system
    counts = dict(re.findall(r"\b(CPUEfctv|CPUTot)=(\d+)", text))
    count = counts.get("CPUEfctv") or counts.get("CPUTot")
    return None if count is None else int(count)


def time_limit(job: int, index: int) -> tuple[float, str] | None:
    """Seconds until a running array task reaches its time limit, by the controller's clock, and the
    limit; None: it has none, or Slurm does not answer. `job` is the id of its array. The last array
    task has the same id, for which squeue lists all."""
    try:
        answer = _run("squeue", "--all", "--noheader", f"--jobs={job}_{index}", "--format=%L|%l")
    except SlurmError:
        return None
    left, _, limit = answer.strip().partition("|")
    left_s = seconds(left)
    return None if left_s is None else (left_s, limit)


def seconds(text: str) -> float | None:
    """A duration of Slurm's (`5`, `5:00`, `2:00:00`, `1-12`, `1-12:30:00`) in seconds; None for
    UNLIMITED and any other text."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        return None
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, secs = (*parts, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60.0 + secs


def duration(limit_s: float) -> str:
    """Seconds as a time limit, rounded up to minutes: `H:MM:00`."""
    hours, minutes = divmod(-int(-limit_s // 60), 60)
    return f"{hours}:{minutes:02}:00"


def _run(*command: str, stdin: str = "", without: Collection[str] = ()) -> str:
    """Run a command, which does not inherit some variables; returns what it printed."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in (*without, _OUTER_JOB) and not name.startswith(_DEFAULTS)
    }
    if command[0] != "sbatch":  # a job inherits its environment
        env[_WHOLE] = "0"
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8", errors="replace",
            env=env,
            start_new_session=True,  # Ctrl-C is for this process alone
        )  # fmt: skip
    except OSError as error:
        raise SlurmError(f"{command[0]}: {error.strerror or error}") from error
    with process:
        try:
            out, messages = _answer(process, stdin)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        lines = [_MESSAGE.sub("", line) for line in messages.splitlines() if line.strip()]
        why = one_line("; ".join(dict.fromkeys(lines))) or f"exit code {process.returncode}"
        raise SlurmError(f"{command[0]}: {why}")
    return out


def _answer(process: "subprocess.Popen[str]", stdin: str) -> tuple[str, str]:
    """What a command prints to stdout and stderr. sbatch waits for two minutes where the queue is
    full: it is killed then, to be asked again later, and meanwhile rows can be collected."""
    end, given = time.monotonic() + PATIENCE_S, (stdin or None)
    while True:
        try:
            return process.communicate(given, timeout=min(_LOOK_S, PATIENCE_S))
        except subprocess.TimeoutExpired as error:
            given = None
            if time.monotonic() > end:
                name = str(process.args[0])  # type: ignore[index]
                raise SlurmError(f"{name}: no answer in {PATIENCE_S} s") from error
            if _FULL in (error.stderr or b""):
                process.kill()
