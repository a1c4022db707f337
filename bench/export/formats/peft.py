"""An adapter of PEFT for the architecture's own model for sequence classification."""

from copy import deepcopy
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file

from adapters.peft_format import ADAPTER, save_adapter
from bench.common.errors import InputError
from bench.engines.engine import Groups, engine_of
from bench.export.formats.contents import (
    final_model,
    library_model,
    reference,
    write_base,
    write_config,
    write_tokenizer,
)
from bench.export.trained import Trained
from minbert.model.classifier import BertClassifier, Classifier

_PREFIX: Final = "base_model.model."


def write(trained: Trained, folder: Path) -> None:
    """Write the adapter, with all other modules that have trained.

    Raises:
        InputError: if PEFT has no place for them.
    """
    model, base = final_model(trained, merge=False), trained.base
    if isinstance(model, BertClassifier):
        save_adapter(model, folder, reference(base), revision=base.revision)
    else:
        _save(trained, model, folder)
    write_config(trained, model, folder)
    write_base(base, folder)
    write_tokenizer(trained, folder)


def _save(trained: Trained, model: Classifier, folder: Path) -> None:
    """Write the adapters of engine transformers as PEFT does, whose model has no head to it."""
    from peft import get_peft_model_state_dict

    adapted: Any = vars(model)["peft_model"]
    groups = engine_of(trained.job.cell).parameter_groups(model)
    modules = _trained_modules(groups, trained)
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    stems = tuple(f"{module}." for module in modules)
    tensors |= {
        f"{_PREFIX}{name}": tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(stems)
    }
    config = deepcopy(adapted.active_peft_config)
    config.task_type, config.inference_mode = "SEQ_CLS", True
    config.base_model_name_or_path = reference(trained.base)
    config.revision = trained.base.revision
    config.modules_to_save = modules
    config.save_pretrained(folder)
    copies = {name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / ADAPTER, {"format": "pt"})


def _trained_modules(groups: Groups, trained: Trained) -> list[str]:
    """The modules that train besides adapters; of the head the outermost ones, since PEFT saves
    its `classifier` whole.

    Raises:
        InputError: if one of them has adapters in it, which PEFT does not save with it.
    """
    encoder = f"{library_model(trained.model).base_model_prefix}."
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
