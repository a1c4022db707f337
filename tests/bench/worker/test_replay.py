"""Steady step times: replays of recorded timings, and of steps of a known length."""

import time
from types import SimpleNamespace

import pytest
import torch

from bench.worker.probes import replay as replaying
from bench.worker.probes import steps
from bench.worker.probes.replay import agree, choose, is_enough, replay, warm_from
from bench.worker.probes.steps import StepClock

STEADY, TOKENS = [10.0, 20.0, 30.0, 40.0], [1, 2, 3, 4]


def times(factor):
    return [factor * ms for ms in STEADY]


def test_full_batches_are_replayed_from_short_to_long():
    tokens = [500, 100, 900, 300, 700, 200, 400, 600, 800, 50]
    examples = [64] * 9 + [7]
    chosen = choose(tokens, examples)
    assert [tokens[index] for index in chosen] == [200, 400, 600, 800]
    assert choose([30], [3]) == [0]
    assert choose([30, 20], [3, 3]) == [1, 0]


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        (times(1.04), True),
        (times(1.07), False),
        ([10.0, 20.0, 30.0, 46.0], False),  # the mean is 6% off
        ([20.0, 20.0, 20.0, 40.0], False),  # the mean is the same, a quartile is not
    ],
)
def test_passes_agree_in_mean_and_quartiles(other, alike):
    assert agree(STEADY, other) is alike
    assert agree(other, STEADY) is alike


def test_warm_up_ends_at_the_first_pass_that_agrees_with_the_one_before():
    assert warm_from([times(3), times(1.5), times(1.1), times(1.08), times(1)]) == (3, True)
    late = [*(times(2**n) for n in range(replaying.WARMUP_PASSES)), *[times(1)] * 6]
    for drifting in ([times(3)], late):
        assert warm_from(drifting) == (replaying.WARMUP_PASSES, False)
    enough = replaying.WARMUP_PASSES + replaying.TIMED_PASSES
    assert is_enough(late[:enough], TOKENS, 0)
    assert not is_enough(late[: enough - 1], TOKENS, 0)


def test_a_steady_replay_is_short_and_a_noisy_one_ends_with_its_budget_or_its_passes():
    steady = [times(1)] * 30
    taken = next(n for n in range(1, 30) if is_enough(steady[:n], TOKENS, 100))
    assert taken == 1 + replaying.TIMED_PASSES
    noisy = [times(1), times(1), *(times(1.3 - 0.3 * (n % 2)) for n in range(30))]
    fewest = noisy[: 1 + replaying.TIMED_PASSES]
    spent_s = sum(map(sum, fewest[1:])) / 1000
    assert not is_enough(fewest, TOKENS, spent_s + 0.001)
    assert is_enough(fewest, TOKENS, spent_s - 0.001)
    assert is_enough(noisy[: 1 + replaying.MOST_PASSES], TOKENS, 100)


def batch(ms):
    return SimpleNamespace(tokens=int(ms), padded=int(ms), labels=[0, 1], ms=ms)


@pytest.mark.parametrize(
    ("tokens", "marks", "times"),
    [
        ((5,), (0.0, 0.02, 0.06, 0.07), (70, 20, 40)),
        ((5, 7), (0.0, 1.0, 3.0, 4.0, 7.0, 7.5), (7500, 2000, 5000)),  # the sums of their passes
    ],
)
def test_parts_of_a_step_are_timed_where_they_are_marked(tokens, marks, times, monkeypatch):
    now = iter(marks)
    monkeypatch.setattr(steps, "time", SimpleNamespace(perf_counter=now.__next__))
    clock = StepClock(torch.device("cpu"))
    with clock.step(*map(batch, tokens)):
        for _ in marks[1:-1]:
            clock.mark()
    (step,) = clock.steps()
    sizes = (sum(tokens), sum(tokens), 2 * len(tokens))
    assert (step.tokens, step.padded, step.examples) == sizes
    assert (step.ms, step.forward_ms, step.backward_ms) == pytest.approx(times)


def test_steps_are_timed_and_nothing_else_is():
    told = []

    def slow_listener(done):
        told.append(done)
        time.sleep(0.01)

    found = replay(
        lambda one: time.sleep(one.ms / 1000),
        [[batch(20)], [batch(40)]],
        StepClock(torch.device("cpu")),
        budget_s=0,
        on_step=slow_listener,
    )
    assert [(step.tokens, step.examples) for step in found.passes[0]] == [(20, 2), (40, 2)]
    assert told == list(range(1, 2 * len(found.passes) + 1))
    for one, other in found.passes:
        assert 20 <= one.ms < 200
        assert 40 <= other.ms < 200
        assert one.forward_ms is one.backward_ms is None
    best = [min(step.ms for step in steps) for steps in zip(*found.passes, strict=True)]
    assert best[0] < 29, "a listener's 10 ms are in the time of a step"
