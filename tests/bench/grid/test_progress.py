"""What a worker sends, and that sending never blocks it."""

import json
import os

import pytest

from bench.worker.process import Progress


@pytest.fixture
def pipe():
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    os.close(read)
    os.close(write)


def received(read):
    return [json.loads(line) for line in os.read(read, 2**20).splitlines()]


def test_steps_come_at_most_twice_a_second_and_phases_always(pipe):
    read, write = pipe
    now = 0.0
    progress = Progress(write, lambda: now)
    asked = []

    def loss():
        asked.append(now)
        return 0.25

    progress.phase("train")
    for step in range(1, 101):
        progress.step(step, 100, loss)
        now += 0.0625
    progress.phase("evaluate")
    first, *steps, last = received(read)
    assert (first, last) == ({"phase": "train"}, {"phase": "evaluate"})
    assert steps == [{"step": n, "steps": 100, "loss": 0.25} for n in range(1, 101, 8)]
    assert len(asked) == 13  # a loss is only read when it is sent
    Progress(write).step(1, 2)
    assert received(read) == [{"step": 1, "steps": 2}]
    with pytest.raises(ZeroDivisionError):
        Progress(write).step(1, 2, lambda: 1 / 0)


def test_a_full_pipe_blocks_nobody_and_tears_no_line_and_a_closed_one_is_survived(
    pipe, monkeypatch
):
    read, write = pipe
    progress = Progress(write)
    for _ in range(20_000):
        progress.phase("train")
    assert all(message == {"phase": "train"} for message in received(read))
    os.dup2(os.open(os.devnull, os.O_RDONLY), read)  # which closes the end that is read
    progress.phase("train")
    progress.step(1, 2, 0.5)
    monkeypatch.delenv("BENCH_PROGRESS_FD", raising=False)
    Progress.from_environment().step(1, 2, lambda: 1 / 0)  # without a runner nothing is sent
