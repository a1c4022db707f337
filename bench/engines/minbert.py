"""Engine minbert: this project's BERT, with its adapters, as `bench.engines.engine.Engine`."""

import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from adapters.injection import convert_frozen, inject, training_of
from adapters.injection import parameter_groups as parameter_groups
from adapters.layer import AdaptedLinear
from adapters.methods import METHODS
from bench.common.errors import InputError
from bench.engines.engine import heads_of, parts_of, task_of
from bench.plan.cell import MIXED, ON
from bench.plan.job import Job
from minbert.model import classifier
from minbert.model.checkpoint import load_encoder
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import GEOMETRIES, BertConfig
from minbert.model.encoder import Stack
from minbert.training.trainer import HALF


def import_libraries(_job: Job) -> None:
    """Nothing: this module's own imports are all."""


def build(job: Job) -> BertClassifier:
    model, new_pooler = _new_model(job), True
    if job.cell.init == "pretrained":
        encoders = [encoder for encoder in (model.bert, model.bert_pairs) if encoder is not None]
        lacking = [load_encoder(encoder, Path(job.checkpoint or "")) for encoder in encoders]
        new_pooler = any(lacking)
    initialise(model, job.cell.seed)
    return _make_ready(model, job, new_pooler)


def skeleton(job: Job) -> BertClassifier:
    """As `Engine.skeleton`; a pooler counts as the checkpoint's own, as only loading shows that."""
    return _make_ready(_new_model(job), replace(job, device="meta"), job.cell.init == "random")


def _new_model(job: Job) -> BertClassifier:
    cell = job.cell
    if job.geometry is not None:
        config = GEOMETRIES[job.geometry]
    else:
        config = BertConfig.from_folder(Path(job.checkpoint or ""))
    config = replace(
        config, hidden_dropout_prob=cell.dropout, attention_probs_dropout_prob=cell.dropout
    )
    if cell.pooling == "pooler" and cell.head == "nonlinear" and config.family.head is not None:
        raise InputError(
            f"head {cell.head}: {config.model_type} has it with pooling cls or mean; pooling "
            "pooler is the architecture's own head"
        )
    return BertClassifier(
        config,
        heads_of(task_of(job), parts_of(cell)),
        pooling=cell.pooling,
        dropout=cell.dropout,
        head=cell.head,
        encoders=cell.encoders or 1,
    )


def _make_ready(model: BertClassifier, job: Job, new_pooler: bool) -> BertClassifier:
    cell = job.cell
    start = time.perf_counter()
    inject(
        model,
        mode=cell.mode,
        layers=cell.layers,
        rank=cell.rank,
        alpha=cell.alpha if cell.alpha is not None else 1.0,
        new_pooler=new_pooler,
        seed=cell.seed,
        use_rslora=cell.use_rslora == ON,
        lora_dropout=cell.lora_dropout,
        lora_fa=cell.lora_fa == ON,
    )
    for stack in model.modules():
        if isinstance(stack, Stack):
            stack.gradient_checkpointing = cell.gradient_checkpointing == ON
    if cell.frozen_dtype == MIXED:
        convert_frozen(model, HALF[cell.amp], adapted=False)
    elif cell.frozen_dtype in HALF:
        convert_frozen(model, HALF[cell.frozen_dtype])
        for layer in model.modules():
            if isinstance(layer, AdaptedLinear):  # DoRA starts from the norms of the weight
                layer.reset_parameters(cell.seed)
    if cell.mode in METHODS:
        model.adapter_init_s = time.perf_counter() - start
    return model.to(torch.device(job.device))


def moving(model: nn.Module) -> set[str]:
    mode = training_of(model).mode
    names = METHODS[mode].moves if mode in METHODS else ("bias",)  # of mode bitfit
    adapter = parameter_groups(model)["adapter"]
    return {name for name in adapter if name.rpartition(".")[2] in names}


def place_of(_model: nn.Module, name: str) -> tuple[str, int | None] | None:
    return classifier.place_of(name)
