"""Loading of a cell's trained model from its kept weights."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.common.errors import InputError
from bench.common.messages import shown
from bench.engines.engine import engine_of, on_cpu
from bench.plan.job import Job
from bench.results.protocol import WEIGHTS
from minbert.files import is_file
from minbert.model.classifier import Classifier


@torch.no_grad()
def load_trained(job: Job, folder: Path) -> Classifier:
    """A cell's trained model, from the kept weights in its folder: on the CPU, in fp32 and
    evaluation mode, its adapters not merged. InputError if the weights are missing, damaged or of
    another model; and as `Engine.build`."""
    path = folder / WEIGHTS
    if not is_file(path):
        raise InputError(
            f"{path}: there is no such file: the cell kept no weights; run it again with "
            "--save-weights"
        )
    try:
        tensors = load_file(path)
    except Exception as error:  # torch raises others for shapes and types that it does not support
        raise InputError(
            f"{path}: is damaged ({shown(str(error))}); run the cell again with --save-weights"
        ) from error
    job = on_cpu(replace(job, cell=replace(job.cell, frozen_dtype=None)))
    model = engine_of(job.cell).build(job)
    trained: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    trained |= model.fixed_tensors()
    for name in sorted({*trained, *tensors}):
        here, kept = _form(trained.get(name)), _form(tensors.get(name))
        if here != kept:
            raise InputError(
                f"{path}: holds the weights of another model: {shown(name)} is {kept}, and "
                f"{here} in the model of {job.cell.name}; run the cell again with --save-weights"
            )
    model.restore(tensors)
    return model.eval()


def _form(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    return f"{list(tensor.shape)} in {str(tensor.dtype).removeprefix('torch.')}"
