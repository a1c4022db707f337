"""Faults on a Slurm cluster: grids of stub cells, struck at random moments until they are done."""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tests.experiments.faults import checks
from tests.experiments.faults.notes import read
from tests.experiments.processes import in_processes
from tests.slurm.cluster import NODES, ClusterError, temporary_cluster
from tests.slurm.place import HANG, LONGEST_S, Place

KINDS = {
    "array task cancelled": (16, "scancel of a running array task"),
    "pending array task cancelled": (6, "scancel of an array task that has not begun"),
    "array cancelled": (3, "scancel of a whole array"),
    "requeue": (14, "scontrol requeue of a running array task"),
    "node dies": (6, "SIGKILL of slurmd, slurmstepd and all jobs; then the node is down"),
    "node set down": (4, "an administrator sets a node down; Slurm ends its jobs"),
    "node restarts": (1, "a node dies and is back before Slurm notices"),
    "controller restarted": (4, "SIGTERM of slurmctld, which is started again"),
    "controller killed": (2, "SIGKILL of slurmctld: it forgets the last seconds"),
    "command killed": (14, "SIGKILL of the command that collects"),
    "command stopped": (6, "SIGINT of that command"),
    "second command": (6, "the same command is given once more, at the same time"),
    "worker killed": (10, "SIGKILL of a worker"),
    "array task killed": (8, "SIGKILL of the process that supervises a worker on a node"),
    "time limit": (0, "a job reaches its time limit, after the others"),
}
"""For each kind its weight and its meaning."""
TIME_LIMIT = "time limit"
_FAULTS_OF_A_ROUND = 25
_PATIENCE_S = 30.0
"""After which nodes are restarted. A job that had just begun is missed only by the next restart."""
_EXITS = {0, 1, 2, 130, -signal.SIGINT, -signal.SIGKILL}
"""Of commands: 2 if they begin while the controller is down, -SIGINT while Python loads them."""


@dataclass
class Verdict(checks.Findings):
    seed: int
    cells: int
    rows: int = 0
    commands: int = 0
    injected: Counter = field(default_factory=Counter)
    missed: Counter = field(default_factory=Counter)

    @property
    def name(self):
        return f"round {self.seed}"


class Round:
    """A grid in a folder that is made; its command is given again until all cells are ok. `faults`
    are injected, fewer if its cells are done before, the first of the kinds in `first`."""

    def __init__(self, cluster, folder, seed, faults, first=()):
        self.cluster = cluster
        self.place = Place(folder, cluster)
        self.faults = self.cells = faults
        self._first = list(first)
        self.verdict = Verdict(seed, self.cells)
        self._random = random.Random(seed)  # noqa: S311
        self._commands = []
        self._away = {}
        self._before = b""
        for number in range(self.cells):
            self.place.order(f"{self._random.uniform(0.1, 1.5):.2f}", number)

    def run(self):
        try:
            self._strike_all()
            self._finish()
        except (ClusterError, OSError, ValueError, subprocess.SubprocessError) as error:
            queue, output = self.cluster.run("squeue", check=False).stdout, self.cluster.output(40)
            self.verdict.wrong += [f"{type(error).__name__}: {error}", queue, output]
        finally:
            for command in self._commands:
                with suppress(ProcessLookupError):
                    os.killpg(command.pid, signal.SIGKILL)
        self._check()
        return self.verdict

    def _strike_all(self):
        verdict = self.verdict
        self._go_on()
        self.place.wait_for_starts(1)
        weights = [weight for weight, _ in KINDS.values()]
        while verdict.injected.total() < self.faults and not self._is_done():
            self._go_on()
            self._pause()
            self._return_nodes()
            kind = self._first.pop(0) if self._first else self._random.choices([*KINDS], weights)[0]
            with suppress(IndexError):  # there is nothing to choose from
                struck = self._strike(kind)
                (verdict.injected if struck else verdict.missed)[kind] += 1
            self._compare()
        self._return_nodes(at_once=True)

    def _strike(self, kind):
        """Inject a fault; false if it hit nothing. IndexError if nothing is there to be hit."""
        cluster, choose = self.cluster, self._random.choice
        match kind:
            case "array task cancelled" | "pending array task cancelled":
                state = "PENDING" if "pending" in kind else "RUNNING"
                return self._ask("scancel", choose(self._array_tasks(state)))
            case "array cancelled":
                return self._ask("scancel", choose(self._array_tasks()).partition("_")[0])
            case "requeue":
                return self._ask("scontrol", "requeue", choose(self._array_tasks("RUNNING")))
            case "node dies" | "node set down":
                node = choose([] if self._away else NODES)
                if kind == "node dies":
                    cluster.kill_node(node)
                cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
                self._away[node] = time.monotonic() + self._random.uniform(0, 2)
            case "node restarts":
                node = choose([node for node in NODES if node not in self._away])
                cluster.kill_node(node)
                cluster.start_node(node)
            case "controller restarted" | "controller killed":
                cluster.stop_controller(signal.SIGKILL if "killed" in kind else signal.SIGTERM)
                self._pause()
                cluster.start_controller()
                cluster.wait_for(lambda: self._ask("squeue", "-h"), "slurmctld answers")
            case "command killed" | "command stopped":
                command = choose([each for each in self._commands if each.poll() is None])
                os.killpg(command.pid, signal.SIGKILL if "killed" in kind else signal.SIGINT)
            case "second command":
                self._give()
            case "worker killed":
                return self._kill("tests.slurm.stub_worker")
            case _:
                return self._kill("bench.executors.slurm.node")
        return True

    def _pause(self):
        time.sleep(self._random.uniform(0, 0.6))

    def _ask(self, *command):
        return self.cluster.run(*command, check=False).returncode == 0

    def _array_tasks(self, *states):
        queue = self.cluster.run("squeue", "-h", "-r", "-o", "%i|%T|%j", check=False).stdout
        rows = (line.split("|", 2) for line in queue.splitlines() if "probe" not in line)
        return [name for name, state, _ in rows if "_" in name and state in (states or {state})]

    def _kill(self, module):
        """Kill a process of the grid that runs a module; false if it has just ended."""
        folder, processes = f"{self.place.folder}/", []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "-m" in words and module in words and folder in " ".join(words):
                processes.append(process)
        with suppress(psutil.NoSuchProcess):
            self._random.choice(processes).kill()
            return True
        return False

    def _return_nodes(self, *, at_once=False):
        """Let nodes return that were away long enough."""
        for node, until in list(self._away.items()):
            if at_once or time.monotonic() > until:
                del self._away[node]
                if not self.cluster.has_node(node):
                    self.cluster.start_node(node)
                self.cluster.resume(node)

    def _repair(self):
        """Release what a restarted controller holds and drains, as an administrator does."""
        for node, state in self.cluster.node_states().items():
            if node not in self._away and state.startswith(("drain", "down")):
                self.cluster.resume(node)
        queue = self.cluster.run("squeue", "-h", "-r", "-o", "%i|%r", check=False).stdout
        for line in queue.splitlines():
            if line.endswith("held"):
                self._ask("scontrol", "release", line.partition("|")[0])

    def _give(self):
        last = {statuses[-1] for statuses in self.place.statuses().values()}
        failed = sorted(last & {"crashed", "timeout", "oom"})
        again = ("--rerun", self._random.choice(failed)) if failed else ()
        self._commands.append(self.place.start("--cells", str(self.cells), *again))
        self.verdict.commands += 1

    def _go_on(self):
        for command in [each for each in self._commands if each.poll() is not None]:
            self._ended(command)
        if not self._commands:
            self._give()

    def _ended(self, command):
        ended = self.place.end(command)
        self._commands.remove(command)
        # pydantic, as it builds its models, makes another error of it
        in_pydantic = "SchemaError" in ended.stderr and "KeyboardInterrupt" in ended.stderr
        is_loading = ended.returncode == -signal.SIGINT or in_pydantic
        if ended.returncode not in _EXITS or ("Traceback" in ended.stderr and not is_loading):
            self.verdict.wrong.append(f"a command ended {ended.returncode}: {ended.stderr[-2000:]}")

    def _is_done(self):
        return sum("ok" in some for some in self.place.statuses().values()) == self.cells

    def _compare(self):
        after = read(self.place.csv)
        self.verdict.lost += checks.lost_rows(self._before, after)
        self._before = after

    def _reach_limit(self):
        """Let the job of a further cell reach its limit, for which Slurm looks twice a minute."""
        late, self.cells = self.cells, self.cells + 1
        self.place.order(HANG, late)
        self._give()
        self.cluster.wait_for(lambda: late in {start.seed for start in self.place.starts()}, "it")
        self.place.order("0.1", late)
        name = self.place.array_task(late)
        self.cluster.run("scontrol", "update", f"JobId={name}", "EndTime=now")
        self.cluster.wait_for(lambda: late in self.place.statuses(), "its row")
        self.verdict.injected[TIME_LIMIT] += 1
        if self.place.statuses()[late] != ["timeout"]:
            self.verdict.wrong.append(f"the job of cell {late} reached its time limit")

    def _finish(self):
        """Wait for the commands, and give it until all cells are ok."""
        for number in range(10):
            restart_s, deadline_s = (time.monotonic() + each for each in (_PATIENCE_S, LONGEST_S))
            while any(command.poll() is None for command in self._commands):
                if time.monotonic() > deadline_s:
                    raise ClusterError(f"commands did not end in {LONGEST_S:.0f} s")
                if time.monotonic() > restart_s:
                    # a controller that forgot the end of a job counts it as running until a node
                    # reports, which one that is not restarted does in some minutes
                    for node in NODES:
                        self.cluster.kill_node(node)
                        self.cluster.start_node(node)
                    restart_s = time.monotonic() + _PATIENCE_S
                self._repair()
                time.sleep(1.0)
            for command in [*self._commands]:
                self._ended(command)
            if number == 0 and self.verdict.seed % 5 == 0:
                self._reach_limit()
            elif number and self._is_done():
                break
            else:
                self._give()
        self._compare()

    def _check(self):
        place, verdict = self.place, self.verdict
        verdict.rows, verdict.cells = len(place.rows()), self.cells
        done = {seed for seed, statuses in place.statuses().items() if "ok" in statuses}
        verdict.lost += [f"cell {n} has no ok row" for n in range(self.cells) if n not in done]
        for problem in place.problems():
            (verdict.duplicated if "rows" in problem else verdict.wrong).append(problem)
        starts = Counter((start.seed, start.attempt) for start in place.starts())
        verdict.duplicated += [
            f"attempt {attempt} at cell {number} began {count} times"
            for (number, attempt), count in starts.items() if count > 1
        ]  # fmt: skip
        undone = [one for one in place.submissions() if not (one.folder / "done").exists()]
        verdict.wrong += [f"{one.folder.name} is not done" for one in undone]
        verdict.left_running += checks.left_running(place.folder)


def run_rounds(faults, seed, *, jobs, folder):
    """Rounds until so many faults were injected, on `jobs` clusters at a time."""
    verdicts = []
    while (left := faults - sum(verdict.injected.total() for verdict in verdicts)) > 0:
        starts = range(0, left, _FAULTS_OF_A_ROUND)
        sizes = [min(_FAULTS_OF_A_ROUND, max(left - at, 5)) for at in starts]
        numbered = enumerate(sizes, len(verdicts))
        calls = [(_run_round, folder / str(n), seed + n, size) for n, size in numbered]
        verdicts += in_processes(jobs, calls)
    return verdicts


def _run_round(folder, seed, faults):
    with temporary_cluster(cpus=4) as cluster:
        return Round(cluster, folder, seed, faults).run()


def summary(verdicts, seed, seconds):
    injected = sum((verdict.injected for verdict in verdicts), Counter())
    missed = sum((verdict.missed for verdict in verdicts), Counter())
    return {
        "seed": seed, "seconds": round(seconds, 1), "rounds": len(verdicts),
        **{name: sum(getattr(v, name) for v in verdicts) for name in ("cells", "rows", "commands")},
        "injected": injected.total(), "missed": missed.total(), **checks.counted(verdicts),
        "counts": [{"kind": kind, "injected": injected[kind], "missed": missed[kind]}
                   for kind in KINDS],
        "bad": [{"seed": each.seed, **{name: getattr(each, name) for name in checks.BAD}}
                for each in verdicts if not each.good],
    }  # fmt: skip
