"""Columns of a cell that runs in this process, on a clock, a meter and a memory that only its own
stages move; and each of these checks against wrong values."""

from contextlib import contextmanager
from dataclasses import make_dataclass
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from bench.engines import minbert
from bench.results.protocol import LAUNCHED_AT
from bench.worker.probes.counting import Counter
from bench.worker.probes.machine import Energy
from bench.worker.probes.memory import Resident, SavedTensors
from bench.worker.run import CellRun
from minbert.training.trainer import logits_of
from tests.bench.column_checks import held_by, refuses_wrong_values
from tests.bench.worker.test_worker import job_on

MIB = 2**20
IMPORTS_S, LOAD_S, TOKENISE_S, TRAIN_S, EVALUATE_S, HELD_OUT_S = 100.0, 40.0, 7.0, 10.0, 3.0, 500.0
PEAKS_MIB = {"load": 110.0, "tokenise": 120.0, "train": 150.0, "evaluate": 140.0, "measure": 900.0}
"""Of the resident set in each phase; a fourth of it are files."""
IMPORTS_MIB = 60.0
JOULES = (20.0, 22.0)
EPOCHS = 2


class World:
    """A simulated clock, phase, memory and energy counter."""

    def __init__(self):
        self.seconds, self.phase, self.joules = 0.0, "", list(JOULES)

    def resident_now(self):
        """Before anything is loaded what the imports took, and later more."""
        anon = IMPORTS_MIB if not self.phase else 3 * IMPORTS_MIB
        return Resident(2 * anon, anon)

    def peak_so_far(self):
        return Resident(PEAKS_MIB[self.phase], PEAKS_MIB[self.phase] * 3 / 4)

    @contextmanager
    def energy(self, _gpu):
        """A reading for each time that training, and nothing else, goes on."""
        drawn, begun = Energy(), self.seconds
        yield drawn
        if (self.phase, self.seconds) == ("train", begun + TRAIN_S):
            drawn.joules, drawn.source = self.joules.pop(0), "rapl"

    def taking(self, seconds, stage):
        def timed(*given):
            result = stage(*given)
            self.seconds += seconds
            return result

        return timed


class Staged(CellRun):
    """Each stage takes its time in the world, and steps of the first epoch are all right."""

    def __init__(self, world, *of):
        super().__init__(*of)
        self.world, self.trained = world, []
        stages = {"_tokenise": TOKENISE_S, "_train_epoch": TRAIN_S, "_evaluate": EVALUATE_S}
        for name, seconds in stages.items():
            setattr(self, name, world.taking(seconds, getattr(self, name)))

    def _train(self):
        self.trainer = super()._train()
        return self.trainer

    def _predictions(self, splits):
        self.world.seconds += HELD_OUT_S * len(splits) if splits is self.held_out else 0.0
        return super()._predictions(splits)

    def _step(self, trainer, batch):
        loss, logits = super()._step(trainer, batch)
        if not self.epochs:
            logits = F.one_hot(batch.labels, logits.shape[1]).float()
        self.trained.append((logits.clone(), batch.labels))
        return loss, logits


Ran = make_dataclass("Ran", ["row", "run"])


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_checkpoint):
    """A run on 24 examples, 5 of them held out, and its columns; a GPU's are stubs of torch."""
    folder, world = tmp_path_factory.mktemp("stages"), World()
    values = {"batch_size": 8, "epochs": EPOCHS, "held_out": 0.2, "dropout": 0.1}
    job = job_on(tiny_checkpoint, folder, "sst", "lora", **values)
    progress = SimpleNamespace(phase=lambda name: setattr(world, "phase", name), step=lambda *_: 0)
    clock = SimpleNamespace(**dict.fromkeys(("perf_counter", "monotonic"), lambda: world.seconds))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minbert, "build", world.taking(LOAD_S, minbert.build))
        patch.setattr("bench.worker.run.time", clock)
        patch.setattr("bench.worker.probes.memory.time", clock)
        patch.setattr("bench.worker.probes.memory.peak_so_far", world.peak_so_far)
        patch.setattr("bench.worker.probes.memory.resident_now", world.resident_now)
        patch.setattr("bench.worker.run.energy", world.energy)
        patch.setenv(LAUNCHED_AT, str(-IMPORTS_S))
        run = Staged(world, job, folder / "cell", progress)
        row = run.run()
        patch.setattr(torch.cuda, "max_memory_allocated", lambda device: 300 * MIB)
        patch.setattr(torch.cuda, "max_memory_reserved", lambda device: 500 * MIB)
        patch.setattr(torch.cuda, "memory_snapshot", list)
        run.device = torch.device("cuda:0")
        row |= {name: of for name, of in run.memory().items() if "cuda" in name}
        run.device = torch.device("cpu")
    return Ran(row, run)


def test_times_are_those_of_their_stages(ran):
    """Held-out examples are predicted in neither."""
    row = ran.row
    assert row["startup_s"] == IMPORTS_S + LOAD_S + TOKENISE_S
    assert row["train_s"] == EPOCHS * TRAIN_S
    assert row["eval_s"] == EPOCHS * EVALUATE_S


def test_peaks_are_those_of_training_and_evaluation(ran):
    """And not of measuring, which comes after."""
    row = ran.row
    assert (row["peak_rss_mib"], row["peak_anon_mib"]) == (150.0, 112.5)
    assert row["imports_anon_mib"] == IMPORTS_MIB
    assert (row["peak_cuda_allocated_mib"], row["peak_cuda_reserved_mib"]) == (300.0, 500.0)


def test_energy_is_drawn_while_training(ran):
    assert (ran.row["energy_j"], ran.row["energy_source"]) == (sum(JOULES), "rapl")


def test_the_training_score_is_that_of_the_batches_as_trained(ran):
    right = [logits.argmax(1) == labels for logits, labels in ran.run.trained]
    first, last = (torch.cat(steps).float().mean().item() for steps in (right[:3], right[3:6]))
    assert last < first == 1
    assert ran.row["train_score"] == pytest.approx(last)


def test_activations_are_those_of_the_largest_batch(ran):
    sizes = []
    ran.run.model.train()
    for ((part, indices),) in ran.run._order(0):
        batch = ran.run._batch(part, indices)
        saved = SavedTensors(ran.run.model)
        with saved.counting():
            logits_of(ran.run.model, batch)
        sizes.append(saved.mib)
    assert len(set(sizes)) == 3
    assert ran.row["activations_mib"] == pytest.approx(max(sizes))


def test_work_is_that_of_a_step_on_the_largest_batch(ran):
    work = []
    for ((part, indices),) in ran.run._order(0):
        with Counter() as counter:
            ran.run._step(ran.run.trainer, ran.run._batch(part, indices))
        work.append(counter.work)
    most = max(work, key=lambda one: one.flops)
    assert len({one.flops for one in work}) == 3
    assert ran.row["step_gflop"] == most.flops / 1e9
    assert ran.row["step_operators"] == most.kernels
    assert ran.row["step_moved_mib"] == most.moved / MIB


@pytest.mark.parametrize("name", held_by(__file__))
def test_a_wrong_value_fails_its_check(name, ran):
    refuses_wrong_values(name, globals(), ran)
