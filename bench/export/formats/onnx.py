"""An ONNX file of the whole model, and one with 8-bit weights."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from bench.common.errors import InputError, cause_of
from bench.export.formats.contents import final_model, write_config, write_tokenizer
from bench.export.trained import Trained
from minbert.kernels.reference import REFERENCE, kernels

MODEL: Final = "model.onnx"
INT8: Final = "model-int8.onnx"
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")


def write(trained: Trained, folder: Path) -> None:
    """Write both files, adapters merged, with inputs [B, S] of any size and logits [B, C];
    InputError if torch or onnxruntime can't.

    Weights of 8 bits have a scale for each output, and use 7 bits: x86 without VNNI adds two
    products in 16 bits, which those of 8 bits overflow without a word.
    """
    model = final_model(trained, merge=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet():
            from onnxruntime.quantization import QuantType, quantize_dynamic

            _export(model, folder / MODEL)
            quantize_dynamic(
                folder / MODEL, folder / INT8, weight_type=QuantType.QInt8,
                per_channel=True, reduce_range=True,
            )  # fmt: skip
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"the model can't be written as ONNX ({cause_of(error)}); other versions of torch, "
            "onnxscript and onnxruntime may do it"
        ) from error
    write_config(trained, model, folder)
    write_tokenizer(trained, folder)


def _export(model: nn.Module, path: Path) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ids = torch.ones(3, 5, dtype=torch.int64)
    mask = ids.clone()
    mask[1, 3:] = 0
    texts, tokens = torch.export.Dim("texts"), torch.export.Dim("tokens")
    with kernels(REFERENCE), torch.no_grad():
        program: Any = torch.onnx.export(
            model,
            (ids, mask, torch.zeros_like(ids)),
            dynamo=True,
            verbose=False,
            input_names=list(_INPUTS),
            output_names=["logits"],
            dynamic_shapes=({0: texts, 1: tokens},) * len(_INPUTS),
        )
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with paths of this machine
    program.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, the libraries' remarks on their own work are not shown."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        ):
            yield
    finally:
        logging.disable(disabled)
