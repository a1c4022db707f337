"""The interface of an engine, a module of this folder with these functions; and the outputs of a
cell's model: its task, the parts of it, and a head for each.

A task without parts is one of a single part, whose name is "".
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from torch import nn

from adapters.methods import METHODS
from bench.common.errors import InputError
from bench.plan.cell import MULTITASK, Cell
from bench.plan.columns import SINGLE, parse_parts
from bench.plan.job import Job
from minbert.data.tasks import Task, find_task
from minbert.model.classifier import Classifier, HeadConfig
from minbert.training.losses import WORDS

Groups = dict[str, dict[str, nn.Parameter]]
"""Trainable parameters by name, in the groups that have separate learning rates: `adapter`; `base`,
the rest of the encoder, or all of it in mode `full`; and `head`, with every module that is newly
initialised. A group may be empty."""


class Engine(Protocol):
    def import_libraries(self, job: Job) -> None:
        """Import what building the model of a cell takes, adapters included."""

    def build(self, job: Job) -> Classifier:
        """The model of a cell on its device, with its adapters and with weights loaded or drawn."""

    def skeleton(self, job: Job) -> Classifier:
        """The same without values, on the meta device, for counting."""

    def parameter_groups(self, model: nn.Module) -> Groups:
        """The parameters of a model that train."""

    def moving(self, model: nn.Module) -> set[str]:
        """Names of the adapters' parameters that every training changes."""

    def place_of(self, model: nn.Module, name: str) -> tuple[str, int | None] | None:
        """The encoder of a parameter, and its layer; no layer for embeddings and the like; None for
        a parameter of the head or of a norm above the last layer."""


def engine_of(cell: Cell) -> Engine:
    """The engine of a cell. InputError if its mode is of a plugin that is not installed, or in
    another version."""
    installed = METHODS.plugin(cell.mode)
    if installed != cell.plugin:
        raise InputError(
            f"mode {cell.mode} is of {cell.plugin or 'this project'}, and "
            f"{installed or 'no plugin with it'} is installed"
        )
    return cast(Engine, import_module(f"bench.engines.{cell.engine}"))


def on_cpu(job: Job) -> Job:
    """A job on the CPU, with an attention that exists there: flash-attn's needs a GPU."""
    attention = job.cell.attn_implementation
    attention = "sdpa" if attention == "flash_attention_2" else attention
    return replace(job, device="cpu", cell=replace(job.cell, attn_implementation=attention))


def parts_of(cell: Cell) -> list[str]:
    """The parts of the cell's task that are in its data, in the task's order; [""] for a task
    without parts."""
    if cell.task != MULTITASK:
        return [""]
    rates = parse_parts(cell.task_rates or "")
    return [part for part in find_task(MULTITASK).parts if part in rates]


def task_of(job: Job) -> Task:
    return find_task(job.cell.task, folder_of(job))


def folder_of(job: Job) -> Path | None:
    return None if job.data is None else Path(job.data)


def heads_of(task: Task, parts: Sequence[str]) -> dict[str, HeadConfig]:
    """Outputs of a model: a logit for each class, or one for a number; in a part of a task, one for
    two classes as well."""
    if list(parts) == [""]:
        return {"": HeadConfig(task.num_outputs, by_token=task.problem.loss == WORDS)}
    classes = {part: len(find_task(part).classes) for part in parts}
    return {
        part: HeadConfig(count if count > 2 else 1, pairs=part not in SINGLE)
        for part, count in classes.items()
    }
