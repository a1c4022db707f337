"""A simulated Slurm cluster of hundreds of nodes, whose array tasks publish rows without working.
Its time goes on by each look at the queue, which nobody waits for."""

import os
import random
import re
import shlex
import time
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from bench.executors.slurm import commands, node, probe
from bench.executors.slurm.commands import SlurmError, parse_indexes
from bench.executors.slurm.executor import POLL
from bench.executors.slurm.submission import Submission, TaskAttempt
from bench.launch.attempt import outcome_row
from bench.launch.runner import WorkerEnd
from bench.machine.conditions import find_conditions

_MAX_ARRAY_SIZE = 1001


@dataclass
class _Job:
    id: int
    name: str
    submission: Submission
    pending: deque
    running: dict = field(default_factory=dict)


class Simulation(ExitStack):
    """Nodes, every second of another kind: this process does what Slurm's commands would do."""

    def __init__(self, nodes, *, max_job_count=10_000):
        super().__init__()
        self.calls = Counter()
        self.seconds = 0.0  # for which commands waited for this simulation
        self.submitted = []  # the numbers of array tasks of each array
        self.most_running = 0
        self._max_job_count = max_job_count
        self._free = deque(f"n{number:03}" for number in range(nodes))
        self._jobs = {}
        self._now = 0.0
        self._draws = random.Random(0)  # noqa: S311
        here = find_conditions("cpu")
        other = replace(here, conditions=replace(here.conditions, machine="another machine"))
        self._targets = here, other
        self.enter_context(mock.patch.dict(os.environ, {POLL: "0.001"}))
        self.enter_context(mock.patch.object(commands, "_run", self._answer))
        self.enter_context(mock.patch.object(commands, "check_installed"))
        self.enter_context(mock.patch.object(node, "run_cell", _run_cell))

    def _answer(self, name, *arguments, stdin="", **_):
        self.calls[name] += 1
        begun = time.perf_counter()
        options = dict(word[2:].partition("=")[::2] for word in arguments if word[:2] == "--")
        words = [word for word in arguments if not word.startswith("--")]
        try:
            return getattr(self, f"_{name}")(options, words, stdin)
        finally:
            self.seconds += time.perf_counter() - begun

    def _sbatch(self, options, words, stdin):
        text = stdin or Path(words[0]).read_text()
        in_script = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.M))
        indexes = tuple(sorted(parse_indexes(options.get("array", "")))) or (-1,)
        if indexes[-1] >= _MAX_ARRAY_SIZE:
            raise SlurmError("Batch job submission failed: Invalid job array specification")
        if "test-only" in options:
            return ""
        queued = sum(len(job.pending) + len(job.running) for job in self._jobs.values())
        if queued + len(indexes) > self._max_job_count:
            raise SlurmError("Slurm temporarily unable to accept job, sleeping and retrying")
        *_, last = text.splitlines()
        module, folder = shlex.split(last)[3:5]
        submission = Submission(Path(folder))
        job = _Job(len(self._jobs) + 1, in_script["job-name"], submission, deque(indexes))
        self._jobs[job.id] = job
        if module.endswith(".probe"):
            probe.main(submission.folder)
            job.pending.clear()
        else:
            self.submitted.append(len(indexes))
        return f"{job.id}\n"

    def _squeue(self, options, *_):
        self._go_on(20.0)
        names = options["name"].split(",")
        lines = []
        for job in self._jobs.values():
            if job.name in names:
                if job.pending:
                    indexes = ",".join(map(str, job.pending))
                    lines.append(f"{job.name}|{job.id}|[{indexes}]|PENDING|Priority")
                lines += [f"{job.name}|{job.id}|{index}|RUNNING|None" for index in job.running]
        return "".join(f"{line}\n" for line in lines)

    def _scontrol(self, _options, words, _stdin):
        if words[1] == "config":
            return f"MaxArraySize            = {_MAX_ARRAY_SIZE}\n"
        raise SlurmError("slurm_load_jobs error: Invalid job id specified")

    def _sinfo(self, *_):
        return "main*|1-00:00:00\n"

    def _go_on(self, seconds):
        self._now += seconds
        for job in self._jobs.values():
            for index, (name, end) in list(job.running.items()):
                if end <= self._now:
                    self._end(job, index, name)
        for job in self._jobs.values():
            while job.pending and self._free:
                end = self._now + self._draws.uniform(20.0, 60.0)
                job.running[job.pending.popleft()] = self._free.popleft(), end
        running = sum(len(job.running) for job in self._jobs.values())
        self.most_running = max(self.most_running, running)

    def _end(self, job, index, name):
        """Let the process of an array task leave its rows in its submission's folder."""
        submission = job.submission
        target = self._targets[int(name[1:]) % 2]
        signals = SimpleNamespace(stops=0)
        node.keep_kind(Path(submission.request["kinds"]), target)
        for number, planned in enumerate(submission.groups[index]):
            attempt = TaskAttempt(index, number, 0)
            node._run_attempt(submission, attempt, planned, target, (), signals, None)
        del job.running[index]
        self._free.append(name)


def _run_cell(run, target, folder, **_):
    """As `bench.launch.attempt.run_cell`, at once and without a worker; the same for a cell."""
    cell = run.job.cell
    noise = random.Random(cell.cell_id).uniform  # noqa: S311
    ms, mib = noise(20, 40), noise(500, 1000)
    columns = {
        "params_total": 4_000_000, "params_trainable": 1000 * (cell.rank or 4000),
        "tokens_total": 98_544, "step_ms_median": 0.8 * ms, "ms_per_1k_tokens": ms,
        "ms_per_1k_tokens_ci_low": 0.98 * ms, "ms_per_1k_tokens_ci_high": 1.02 * ms,
        "steps_timed": 48, "examples_per_s": 30_000 / ms, "startup_s": 3.4,
        "train_s": noise(10, 12), "eval_s": 4.1, "peak_rss_mib": mib, "peak_anon_mib": mib - 180,
    }  # fmt: skip
    if cell.init == "pretrained":
        score = noise(0.5, 0.6)
        columns |= {"dev_metric": "accuracy", "dev_score": score, "dev_accuracy": score}
    now = node.utc(node.datetime.now(node.UTC))
    outcome = WorkerEnd(
        status="ok", message="", wall_s=30.0, started_at=now, finished_at=now,
        result={"columns": columns},
    )  # fmt: skip
    return outcome_row(run, target, outcome, folder), outcome
