"""An adapter of PEFT for the architecture's own model for sequence or token classification."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from adapters.peft_format import ADAPTER, save_adapter
from bench.common.errors import InputError
from bench.engines.engine import Groups, engine_of
from bench.export.formats import BASE, contents
from bench.export.trained import Trained
from minbert.files import write_json
from minbert.model.classifier import BertClassifier, Classifier

_PREFIX: Final = "base_model.model."


def write(trained: Trained, folder: Path) -> None:
    """Write the adapter and other trained modules; InputError if PEFT has no place for them."""
    model, base = contents.final_model(trained, merge=False), trained.base
    if isinstance(model, BertClassifier):
        name, task = contents.reference(base), _task_type(trained)
        save_adapter(model, folder, name, revision=base.revision, task_type=task)
    else:
        _save(trained, model, folder)
    contents.write_config(trained, model, folder)
    write_json(folder / BASE, contents.base_values(base))
    contents.write_tokenizer(trained, folder)


def _task_type(trained: Trained) -> str:
    return "TOKEN_CLS" if trained.dev.by_word else "SEQ_CLS"


def _save(trained: Trained, model: Classifier, folder: Path) -> None:
    """Write the adapters of engine transformers as PEFT does, whose model has no head to it."""
    from peft import get_peft_model_state_dict

    from bench.engines.classifier import first_factors

    adapted: Any = vars(model)["peft_model"]
    modules = _trained_modules(engine_of(trained.job.cell).parameter_groups(model), trained)
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    stems = tuple(f"{module}." for module in modules)
    tensors |= {
        f"{_PREFIX}{name}": tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(stems)
    }
    config = deepcopy(adapted.active_peft_config)
    if first := first_factors(adapted):
        _subtract(first, tensors, config)
    config.task_type, config.inference_mode = _task_type(trained), True
    config.base_model_name_or_path = contents.reference(trained.base)
    config.revision = trained.base.revision
    config.modules_to_save = modules
    config.save_pretrained(folder)
    copies = {name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / ADAPTER, {"format": "pt"})


def _subtract(
    first: dict[str, tuple[Tensor, Tensor]], tensors: dict[str, Tensor], config: Any
) -> None:
    """Make adapters of a base that lacks their first product into adapters of the whole base:
    B A becomes B A - B0 A0, of twice the rank."""
    for name, (first_a, first_b) in first.items():
        a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        tensors[a] = torch.cat([tensors[a], first_a])  # [2 r, i]
        tensors[b] = torch.cat([tensors[b], -first_b], dim=1)  # [o, 2 r]
    factor = math.sqrt(2) if config.use_rslora else 2
    config.r, config.lora_alpha = 2 * config.r, factor * config.lora_alpha
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {name: factor * alpha for name, alpha in config.alpha_pattern.items()}
    config.init_lora_weights = True


def _trained_modules(groups: Groups, trained: Trained) -> list[str]:
    """The modules that train besides adapters; of the head the outermost ones, since PEFT saves
    its `classifier` whole. One with adapters in it is refused: PEFT does not save these with it."""
    encoder = f"{contents.library_model(trained.model).base_model_prefix}."
    modules = sorted(
        {
            name.rpartition(".")[0] if name.startswith(encoder) else name.partition(".")[0]
            for name in (*groups["base"], *groups["head"])
        }
    )
    for module in modules:
        if any(name.startswith(f"{module}.") for name in groups["adapter"]):
            raise InputError(
                f"{trained.row.name}: peft has no place for {module}, which trains and has "
                "adapters in it; use --format transformers"
            )
    return modules
