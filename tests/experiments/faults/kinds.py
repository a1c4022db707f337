"""The kinds of fault, the phases in which each can strike, and what it must come to."""

import random
from dataclasses import dataclass
from itertools import cycle
from typing import Final

WORKER_PHASES: Final = ("start", "load", "tokenise", "train", "evaluate", "save", "write", "end")
"""`write` is the result's; `end` lasts from there to the process's end."""
BUSY: Final = ("load", "tokenise", "train", "evaluate")
PARENT_PHASES: Final = ("check", "plan", "launch", "ended", "append", "close", "render")
"""`ended` lies between a worker's end and the append of its row."""
BETWEEN: Final = ("cut later", "a row more", "files' times", "left behind")
"""Phases of faults that kill the parent as a worker has ended, and strike before the next run."""

_FAKE_S: Final = dict.fromkeys(WORKER_PHASES, 0.02)
_PARENT_S: Final = dict.fromkeys(PARENT_PHASES, 0.01)
USUAL_S: Final = {
    "fake": _FAKE_S | _PARENT_S,
    "real": {
        "start": 2.0, "load": 0.15, "tokenise": 0.1, "train": 0.3, "evaluate": 0.05, "save": 0.05,
        "write": 0.01, "end": 0.1, **_PARENT_S, "render": 2.0,
    },
}  # fmt: skip
"""How long each phase lasts, roughly: within that time a fault strikes, or when the phase ends."""

CELLS: Final = {"fake": 3, "real": 2}
FLOODS: Final = (2**24, 2**24, 2**24, 2**26, 2**26, 2**30)
JUMPS_S: Final = (3600, 10 * 365 * 86400)
MEMORY: Final = {"fake": 2**29, "real": 2**30}
"""Of a control group: the parent is far smaller, so that the worker is what gets killed."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault; of those of weight 2 there are twice as many. `statuses` are those that the
    struck cell's row may have after the run that was struck, between bars; an empty one means that
    there is no row."""

    name: str
    phases: tuple[str, ...]
    statuses: str
    weight: int = 1


KINDS: Final = (
    Kind("worker killed", WORKER_PHASES, "crashed", 3),
    Kind("parent killed", (*WORKER_PHASES, *PARENT_PHASES, "half an append"), "|ok", 6),
    Kind("parent stopped", WORKER_PHASES, "interrupted|ok", 2),
    Kind("host memory", BUSY, "oom"),
    Kind("cuda memory", ("load", "train", "evaluate"), "oom"),
    Kind("hang", WORKER_PHASES, "timeout"),
    Kind("garbage printed", ("start", *BUSY), "ok"),
    Kind("flood printed", ("start", *BUSY), "ok"),
    Kind("result spoilt", ("garbage", "cut", "cut later"), "crashed"),
    Kind("disk full", ("anywhere", "plan", "launch", "write", "append", "render"), "|crashed|ok"),
    Kind("row torn", ("a row more", "the last row"), "|ok"),
    Kind("clock jump", ("launch", *BUSY, "ended", "files' times"), "ok"),
    Kind("folder deleted", (*WORKER_PHASES, "left behind", "done"), "crashed|ok"),
    Kind("two parents", ("both live", "one killed", "one stopped"), "|ok|interrupted"),
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of a suite; `slots` is the number of cells that run at a time."""

    number: int
    seed: int
    kind: str
    phase: str
    worker: str
    slots: int = 1

    def noise(self) -> random.Random:
        """What is drawn for it, always the same."""
        return random.Random(f"{self.seed} {self.number}")  # noqa: S311


@dataclass(frozen=True, kw_only=True)
class Strike:
    """What goes wrong in a process, so many seconds after the beginning of a phase.

    `side`, worker or parent, has that phase; `action` names a function of
    `tests.experiments.faults.actions`, which takes `amount`; `cell` launches of the run come before
    the one that is struck. With `child` the struck worker has a process of its own, which ignores
    SIGTERM. With `in_main` it strikes in the main thread, at a tick, as an exception must.
    """

    side: str
    action: str
    phase: str
    cell: int
    wait_s: float
    amount: int
    child: bool
    in_main: bool


def draw(count: int, real: int, seed: int) -> list[Fault]:
    """`count` faults, of which `real` strike real workers: kinds by weight, phases in turn."""
    noise = random.Random(seed)  # noqa: S311
    most = max(kind.weight for kind in KINDS)
    period = [kind.name for least in range(most) for kind in KINDS if kind.weight > least]
    phases = {kind.name: cycle(noise.sample(kind.phases, len(kind.phases))) for kind in KINDS}
    chosen = set(noise.sample(range(count), real))
    return [
        Fault(
            number=number, seed=seed, kind=kind, phase=next(phases[kind]),
            worker="real" if number in chosen else "fake",
        )
        for number, kind in zip(range(count), cycle(period), strict=False)
    ]  # fmt: skip


def strike_of(fault: Fault, *, early: bool, limited: bool) -> Strike | None:
    """How a fault strikes; None for one that comes from outside alone.

    Args:
        early: at the beginning of its phase, whatever was drawn.
        limited: whether a control group limits the memory.
    """
    noise = fault.noise()
    phase = _phase_of(fault)
    cell = noise.randrange(int(fault.phase == "a row more"), CELLS[fault.worker])
    moment = 0.0 if early else noise.random()
    child = noise.random() < 0.5
    found = _action(fault, noise, limited)
    if found is None:
        return None
    side, action, amount = found
    at_once = action in ("fill_disk", "tear_append") or fault.phase in ("left behind", "cut later")
    return Strike(
        side=side, action=action, phase=phase, cell=cell,
        wait_s=0.0 if at_once else moment * USUAL_S[fault.worker][phase], amount=amount,
        child=child, in_main=action in ("fill_memory", "lack_memory", "lack_cuda_memory"),
    )  # fmt: skip


def _phase_of(fault: Fault) -> str:
    """The phase of a process in which a fault strikes, where its own phase is none."""
    if fault.kind == "two parents":
        return fault.noise().choice(WORKER_PHASES)
    others = {"garbage": "end", "cut": "end", "half an append": "append"}
    return (others | dict.fromkeys(BETWEEN, "ended")).get(fault.phase, fault.phase)


def _action(fault: Fault, noise: random.Random, limited: bool) -> tuple[str, str, int] | None:
    """Side, action and amount."""
    kind, phase = fault.kind, fault.phase
    if phase in BETWEEN:
        return "parent", "kill", 0
    if phase in ("anywhere", "the last row", "done", "both live", "one stopped"):
        return None
    if kind == "parent killed" and phase not in WORKER_PHASES:
        action = "tear_append" if phase == "half an append" else "kill"
        return "parent", action, noise.getrandbits(30)
    if kind == "disk full" and phase != "write":
        return "parent", "fill_disk", 0
    if kind == "clock jump":
        return "parent", "jump", noise.choice(JUMPS_S) * noise.choice((-1, 1))
    actions = {
        "worker killed": ("kill_worker", 0),
        "parent killed": ("kill_parent", 0),
        "two parents": ("kill_parent", 0),
        "parent stopped": ("stop_parent", noise.randrange(4)),
        "host memory": ("fill_memory", 4 * 2**30) if limited else ("lack_memory", 0),
        "cuda memory": ("lack_cuda_memory", 0),
        "hang": ("hang", noise.randrange(2)),
        "garbage printed": ("print_garbage", noise.getrandbits(30)),
        "flood printed": ("flood", noise.choice(FLOODS) + noise.randrange(2)),
        "disk full": ("fill_disk", 0),
        "folder deleted": ("delete_folder", 0),
        "result spoilt": (
            "scramble_result" if phase == "garbage" else "cut_result", noise.getrandbits(30),
        ),
    }  # fmt: skip
    return "worker", *actions[kind]


def statuses_of(fault: Fault) -> set[str]:
    """What the struck cell's row may say after the run that was struck; empty: there is no row."""
    if fault.phase in ("cut later", "files' times", "left behind"):
        return {""}
    is_late = fault.phase in ("write", "end") and fault.kind in ("worker killed", "hang")
    (statuses,) = (kind.statuses for kind in KINDS if kind.name == fault.kind)
    return {*statuses.split("|"), *(["ok"] if is_late else [])}


def codes_of(fault: Fault) -> set[int]:
    """The exit codes that the parents of the struck run may have; -9 is SIGKILL."""
    strike = strike_of(fault, early=False, limited=False)
    killed = strike is not None and strike.action in ("kill", "kill_parent", "tear_append")
    found = {0, 1} | ({-9} if killed else set())
    if fault.kind == "parent stopped" or fault.phase == "one stopped":
        found |= {130, -15}  # SIGTERM ends what is but rendering
    return found | ({2} if fault.kind == "disk full" else set())
