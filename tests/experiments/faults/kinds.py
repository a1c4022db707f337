"""The kinds of fault, the phases in which each can strike, and what it must come to."""

import random
from dataclasses import dataclass
from itertools import cycle

WORKER_PHASES = ("start", "load", "tokenise", "train", "evaluate", "save", "write", "end")
"""`write` is the result's; `end` lasts from there to the process's end."""
BUSY = ("load", "tokenise", "train", "evaluate")
PARENT_PHASES = ("check", "plan", "launch", "ended", "append", "close", "render")
"""`ended` lies between a worker's end and the append of its row."""
MEANWHILE = ("merge ends", "merge killed", "rebuild ends", "rebuild killed")
"""Phases of another command that runs at the same time."""
_OUTSIDE = ("anywhere", "the last row", "done", "both live", "one stopped", "spoilt twice")
BETWEEN = ("cut later", "a row more", "files' times", "left behind")
"""Phases of faults that kill the parent as a worker has ended, and strike before the next run."""

_PARENT_S = dict.fromkeys(PARENT_PHASES, 0.01)
USUAL_S = {
    "fake": dict.fromkeys(WORKER_PHASES, 0.02) | _PARENT_S,
    "real": {
        "start": 2.0, "load": 0.15, "tokenise": 0.1, "train": 0.3, "evaluate": 0.05, "save": 0.05,
        "write": 0.01, "end": 0.1, **_PARENT_S, "render": 2.0,
    },
}  # fmt: skip
"""How long each phase lasts, roughly: within that time a fault strikes, or when the phase ends."""

CELLS = {"fake": 3, "real": 2}


@dataclass(frozen=True)
class Kind:
    name: str
    meaning: str
    phases: tuple
    statuses: str  # of the struck cell's row after that run, between bars; empty: there is no row
    weight: int = 1  # of those of weight 2 there are twice as many


KINDS = (
    Kind("worker killed", "SIGKILL of the worker", WORKER_PHASES, "crashed", 3),
    Kind("parent killed", "SIGKILL of the grid's own process, also in the middle of an append",
         (*WORKER_PHASES, *PARENT_PHASES, "half an append"), "|ok", 6),
    Kind("parent stopped", "SIGINT or SIGTERM, once or twice", WORKER_PHASES, "interrupted|ok", 2),
    Kind("host memory", "the worker allocates until the kernel's limit kills it", BUSY, "oom"),
    Kind("cuda memory", "the allocator's error of a full GPU, faked where there is none",
         ("load", "train", "evaluate"), "oom"),
    Kind("hang", "the worker stops answering, with a timeout set", WORKER_PHASES, "timeout"),
    Kind("garbage printed", "text that looks like results, on stdout and stderr",
         ("start", *BUSY), "ok"),
    Kind("flood printed", "16 MiB to 1 GiB on stdout", ("start", *BUSY), "ok"),
    Kind("result spoilt", "the result file is garbage or cut off",
         ("garbage", "cut", "cut later"), "crashed"),
    Kind("disk full", "no space, or a limit on the size of files",
         ("anywhere", "plan", "launch", "write", "append", "render"), "|crashed|ok"),
    Kind("row torn", "the end of runs.csv is cut off within a record",
         ("a row more", "the last row"), "|ok"),
    Kind("clock jump", "the wall clock jumps by an hour or ten years",
         ("launch", *BUSY, "ended", "files' times"), "ok"),
    Kind("folder deleted", "the cell's folder is deleted",
         (*WORKER_PHASES, "left behind", "done"), "crashed|ok"),
    Kind("two parents", "two grids on one runs.csv, one of them killed or stopped",
         ("both live", "one killed", "one stopped"), "|ok|interrupted"),
    Kind("file unseen", "the system can't say whether runs.csv is there, and pathlib takes that "
         "for no, as from Python 3.14 on", ("launch", "ended", "append", "close"), "|ok", 2),
    Kind("merge meanwhile", "other results are merged into runs.csv as the grid runs; the merge "
         "ends or is killed, and is given again", ("merge ends", "merge killed"), "|ok", 2),
    Kind("rebuild meanwhile", "runs.csv is rebuilt as the grid runs; the rebuild ends or is "
         "killed, and is given again", ("rebuild ends", "rebuild killed"), "|ok", 2),
    Kind("rebuilt twice", "a line of runs.csv is spoilt and the file rebuilt, twice; both copies "
         "of the spoilt files stay", ("spoilt twice",), "|ok"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fault:
    number: int
    seed: int
    kind: str
    phase: str
    worker: str
    slots: int = 1  # cells that run at a time

    def noise(self):
        """What is drawn for it, always the same."""
        return random.Random(f"{self.seed} {self.number}")  # noqa: S311


@dataclass(frozen=True, kw_only=True)
class Strike:
    """What goes wrong in a process, so many seconds after the beginning of a phase."""

    side: str  # worker or parent
    action: str  # of `go_wrong` in worker.py, or what a `Parent` does
    phase: str
    cell: int  # launches of the run that come before the one that is struck
    wait_s: float
    amount: int
    child: bool  # whether a struck worker has a process of its own, which ignores SIGTERM
    in_main: bool  # whether it strikes in the main thread, at a tick, as an exception must


def draw(count, real, seed):
    """`count` faults, of which `real` strike real workers: kinds by weight, phases in turn."""
    noise = random.Random(seed)  # noqa: S311
    most = max(kind.weight for kind in KINDS)
    period = [kind.name for least in range(most) for kind in KINDS if kind.weight > least]
    phases = {kind.name: cycle(noise.sample(kind.phases, len(kind.phases))) for kind in KINDS}
    chosen = set(noise.sample(range(count), real))
    return [
        Fault(number=number, seed=seed, kind=kind, phase=next(phases[kind]),
              worker="real" if number in chosen else "fake")
        for number, kind in zip(range(count), cycle(period), strict=False)
    ]  # fmt: skip


def strike_of(fault, *, early=False, limited=False):
    """How a fault strikes, `early` at the beginning of its phase, with memory `limited` by a group
    or not; None for one that comes from outside alone."""
    noise = fault.noise()
    cell = noise.randrange(int(fault.phase == "a row more"), CELLS[fault.worker])
    moment = 0.0 if early else noise.random()
    child = noise.random() < 0.5
    if fault.phase in (*_OUTSIDE, *MEANWHILE):
        return None
    side, action, amount = _action(fault, noise, limited)
    # the phase of a process in which a fault strikes, where its own phase is none
    others = {"garbage": "end", "cut": "end", "half an append": "append"}
    phase = (others | dict.fromkeys(BETWEEN, "ended")).get(fault.phase, fault.phase)
    if fault.kind == "two parents":
        phase = fault.noise().choice(WORKER_PHASES)
    at_once = action in ("fill_disk", "tear_append") or fault.phase in ("left behind", "cut later")
    return Strike(
        side=side, action=action, phase=phase, cell=cell, amount=amount, child=child,
        wait_s=0.0 if at_once else moment * USUAL_S[fault.worker][phase],
        in_main=action in ("fill_memory", "lack_memory", "lack_cuda_memory"),
    )  # fmt: skip


def _action(fault, noise, limited):
    kind, phase = fault.kind, fault.phase
    if phase in BETWEEN:
        return "parent", "kill", 0
    if kind == "parent killed" and phase not in WORKER_PHASES:
        action = "tear_append" if phase == "half an append" else "kill"
        return "parent", action, noise.getrandbits(30)
    if kind == "disk full":
        return "worker" if phase == "write" else "parent", "fill_disk", 0
    if kind == "file unseen":
        return "parent", "hide_csv", noise.randrange(2)
    if kind == "clock jump":
        return "parent", "jump", noise.choice((3600, 10 * 365 * 86400)) * noise.choice((-1, 1))
    floods = (2**24, 2**24, 2**24, 2**26, 2**26, 2**30)
    action, amount = {
        "worker killed": ("kill_worker", 0),
        "parent killed": ("kill_parent", 0),
        "two parents": ("kill_parent", 0),
        "parent stopped": ("stop_parent", noise.randrange(4)),
        "host memory": ("fill_memory", 4 * 2**30) if limited else ("lack_memory", 0),
        "cuda memory": ("lack_cuda_memory", 0),
        "hang": ("hang", noise.randrange(2)),
        "garbage printed": ("print_garbage", noise.getrandbits(30)),
        "flood printed": ("flood", noise.choice(floods) + noise.randrange(2)),
        "folder deleted": ("delete_folder", 0),
        "result spoilt": (f"{'scramble' if phase == 'garbage' else 'cut'}_result",
                          noise.getrandbits(30)),
    }[kind]  # fmt: skip
    return "worker", action, amount


def statuses_of(fault):
    """What the struck cell's row may say after the run that was struck; empty: there is no row."""
    if fault.phase in ("cut later", "files' times", "left behind"):
        return {""}
    is_late = fault.phase in ("write", "end") and fault.kind in ("worker killed", "hang")
    (statuses,) = (kind.statuses for kind in KINDS if kind.name == fault.kind)
    return {*statuses.split("|"), *(["ok"] if is_late else [])}


def codes_of(fault):
    """The exit codes that the parents of the struck run may have; -9 is SIGKILL."""
    strike = strike_of(fault)
    codes = {0, 1}
    if strike is not None and strike.action in ("kill", "kill_parent", "tear_append"):
        codes.add(-9)
    if fault.kind == "parent stopped" or fault.phase == "one stopped":
        codes |= {130, -15}  # SIGTERM ends what is but rendering
    if fault.phase in ("merge killed", "rebuild killed"):
        codes.add(-9)
    # a file that can't be read, or none that could be rebuilt yet
    may_refuse = fault.kind in ("disk full", "file unseen", "rebuild meanwhile")
    return codes | ({2} if may_refuse else set())
