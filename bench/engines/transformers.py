"""Engine transformers: any encoder that transformers' AutoModel loads, with PEFT's adapters.

Parameters have the names of the architecture's own model for sequence classification, such as
`roberta.encoder.layer.0.attention.self.query.weight` and `classifier.dense.weight`, whatever the
pooling. Heads and the matrices A of LoRA are drawn as engine minbert draws them. The public
functions are those of `bench.engines.engine.Engine`, and checks.
"""

import inspect
import re
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)
from transformers.utils import is_flash_attn_2_available, logging

from adapters.methods import BITFIT, METHODS, PEFT
from adapters.names import trains_base
from bench.common.errors import InputError
from bench.engines.classifier import EncoderClassifier, on_meta, reason, seeded
from bench.engines.engine import Groups, heads_of, on_cpu, parts_of, task_of
from bench.engines.peft import add_adapters
from bench.plan.architectures import model_type_of
from bench.plan.cell import ITERATIVE, OFF, ON, Cell
from bench.plan.job import Job
from minbert.model.classifier import drawn
from minbert.model.config import GEOMETRIES
from minbert.model.heads import HEADS
from minbert.training.trainer import autocast

logging.set_verbosity_error()
logging.disable_progress_bar()


def _without_asking(make: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the library that makes masks, without asking the GPU whether one hides
    nothing, which waits for it: a batch without padding has no mask here."""

    def made(*, attention_mask: Any = None, **options: Any) -> Any:
        if attention_mask is not None and "allow_is_bidirectional_skip" in options:
            options["allow_is_bidirectional_skip"] = False
        return make(attention_mask=attention_mask, **options)

    return made


for _name in ("eager", "sdpa"):
    AttentionMaskInterface.register(_name, _without_asking(ALL_MASK_ATTENTION_FUNCTIONS[_name]))

_POOLER: Final = "pooler"
_TOKENS: Final = 100  # token ids of the check are below this; that of padding may be any
_ROUNDING: Final = 1e-3
_quiet: Final = partial(warnings.catch_warnings, action="ignore")
_TINY: Final = 1e-12
_MOVING: Final = {"lora": "lora_B", "dora": "lora_B", "vera": "vera_lambda_b", "ia3": "ia3_"}
"""Parts of the names of the parameters that every training changes, by mode; in LoRA, for example,
A gets no gradient before B has moved."""
_FINAL_NORMS: Final = (".final_norm.", ".final_layer_norm.", ".emb_layer_norm_after.", ".ln_f.")
"""Parts of the names of norms above the last layer."""


def import_libraries(job: Job) -> None:
    """As `Engine.import_libraries`. InputError if there is no such model."""
    _kind(job, _config(job))
    if job.cell.mode in METHODS:
        import peft  # noqa: F401


def build(job: Job) -> EncoderClassifier:
    """As `Engine.build`. InputError for what the model, the library or PEFT does not support."""
    with _quiet():
        model = _loaded(job, draw=job.cell.init == "random")
        _adapt(model, job)
    return model.to(torch.device(job.device))


def skeleton(job: Job) -> EncoderClassifier:
    """As `Engine.skeleton`; a pooler counts as the checkpoint's own, as in engine minbert.
    InputError as of `build`."""
    needs_values = job.cell.mode == PEFT  # some methods compute from weights, or draw indices
    with _quiet(), nullcontext() if needs_values else torch.device("meta"):
        model = _loaded(job, draw=True)
        _adapt(model, job)
    return model.to("meta")


def _config(job: Job) -> Any:
    """The model's configuration, with the cell's dropout everywhere, and no dropped layers."""
    cell = job.cell
    if job.geometry is not None:
        config = transformers.BertConfig(**GEOMETRIES[job.geometry].values())
    else:
        config = _read_config(job)
    for name, value in config.to_dict().items():
        if "dropout" in name and (value is None or type(value) in (int, float)):
            setattr(config, name, cell.dropout)
        elif "layerdrop" in name:
            setattr(config, name, 0.0)
    heads = heads_of(task_of(job), parts_of(cell))
    if "" not in heads:
        raise InputError(f"task {cell.task}: its parts are learned by engine minbert alone")
    config.num_labels = heads[""].outputs
    return config


def _read_config(job: Job) -> Any:
    """The configuration in the checkpoint's folder, if it is that of an encoder."""
    name = job.cell.model
    try:
        config = AutoConfig.from_pretrained(
            job.checkpoint, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of many kinds, by the configuration's class
        model_type = model_type_of(Path(job.checkpoint or ""))
        if model_type in CONFIG_MAPPING:
            raise InputError(f"{name}: transformers can't load it: {reason(error)}") from error
        raise InputError(
            f"{name}: transformers {transformers.__version__} has no model_type {model_type}; "
            "a newer version may have it (pip install -U transformers), else take another model"
        ) from error
    position = getattr(config, "position_embedding_type", None)
    if str(position).startswith("relative_key"):  # transformers 5 would load it as absolute
        raise InputError(
            f"{name}: position_embedding_type {position} is computed by neither engine; take a "
            "model with absolute positions"
        )
    kind = type(config)
    is_decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING
    if config.is_encoder_decoder or is_decoder:
        what = "an encoder with a decoder" if config.is_encoder_decoder else "a decoder"
        raise InputError(
            f"{name}: {config.model_type} is {what}, and engine transformers trains encoders "
            "alone; take one of those, such as RoBERTa or ModernBERT"
        )
    return config


def _loaded(job: Job, *, draw: bool) -> EncoderClassifier:
    """The model with weights loaded, or drawn, all in fp32, without adapters."""
    cell, config = job.cell, _config(job)
    kind, own_head = _kind(job, config)
    _check_attention(cell, config.model_type, kind)
    options: dict[str, Any] = {"attn_implementation": cell.attn_implementation}
    if not own_head and "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
        options["add_pooling_layer"] = False
    new: list[str] = []
    try:
        if draw:
            with seeded(cell.seed):
                inner = kind._from_config(config, **options)
        else:
            inner, info = kind.from_pretrained(
                job.checkpoint,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # of a head that was trained for other classes
                **options,
            )
            new = [*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]
    except Exception as error:  # of many kinds, by the format of the weights
        raise InputError(f"{cell.model}: transformers can't load it: {reason(error)}") from error
    _check_complete(inner, new, own_head, cell.model)
    outputs = heads_of(task_of(job), parts_of(cell))[""]
    head = None if own_head else HEADS[cell.head](config.hidden_size, outputs.outputs, cell.dropout)
    model = EncoderClassifier(inner, head, outputs=outputs, pooling=cell.pooling)
    prefix = f"{model.prefix}."
    if cell.gradient_checkpointing == ON and not inner.supports_gradient_checkpointing:
        raise InputError(
            f"gradient_checkpointing: transformers has none for {config.model_type}; leave it out"
        )
    if not own_head:
        new = [f"{prefix}{name}" for name in new]
    if cell.init == "random":
        new = [name for name, _ in model.named_parameters() if f".{_POOLER}." in name]
    outside = {name for name, _ in model.named_parameters() if not name.startswith(prefix)}
    model.names["head"] = outside | set(new)
    _draw_head(model, cell.seed, float(getattr(config, "initializer_range", 0.02)))
    return model


def _kind(job: Job, config: Any) -> tuple[Any, bool]:
    """The class of the model, and whether it comes with a head of its own."""
    cell, by_token = job.cell, heads_of(task_of(job), parts_of(job.cell))[""].by_token
    own_head = (cell.pooling == _POOLER or by_token) and cell.head == "linear"
    if cell.pooling == _POOLER and not own_head and cell.head != "conv":
        raise InputError(
            f"head {cell.head}: engine transformers has it with pooling cls or mean; pooling "
            f"{_POOLER} is the architecture's own head"
        )
    own = AutoModelForTokenClassification if by_token else AutoModelForSequenceClassification
    auto = own if own_head else AutoModel
    try:
        kind = auto._model_mapping[type(config)]
    except KeyError:
        raise InputError(
            f"{cell.model}: transformers has no {config.model_type} model for "
            f"{'words' if by_token else 'texts'}; take an encoder"
        ) from None
    return kind, own_head


def _check_attention(cell: Cell, model_type: str, kind: Any) -> None:
    given, flash = cell.attn_implementation, "flash_attention_2"
    has: dict[str | None, bool] = {"sdpa": kind._supports_sdpa, flash: kind._supports_flash_attn}
    if not has.get(given, True):
        raise InputError(
            f"attn_implementation {given}: transformers has none for {model_type}; take eager"
        )
    if given == flash and not is_flash_attn_2_available():
        raise InputError(
            f"attn_implementation {given}: it needs a GPU and the package flash-attn, which "
            "can't be used here; install it, or take sdpa or eager"
        )


def _check_complete(inner: Any, new: Iterable[str], own_head: bool, name: str) -> None:
    """Refuse a checkpoint that lacks weights of the encoder, other than those of a pooler."""
    start = f"{inner.base_model_prefix}." if own_head else ""
    lacking = sorted(key for key in new if key.startswith(start) and f"{_POOLER}." not in key)
    if lacking:
        raise InputError(
            f"{name}: {len(lacking)} weights of {inner.config.model_type} are missing or have "
            f"another shape, such as {lacking[0]}; is config.json that of these weights?"
        )


@torch.no_grad()
def check_weights(job: Job, amps: Iterable[str]) -> None:
    """Load the model once, and run it on a few tokens in each type, on the CPU. InputError if
    weights are missing, of another model or not finite, or if it can't compute in a type."""
    with _quiet():
        model = _loaded(on_cpu(job), draw=job.cell.init == "random").eval()
    ids = torch.full((2, 4), model.pad_id)
    mask = torch.ones_like(ids).tril(2)  # with padding
    for amp in amps:
        half = "off" if amp == "off" else "bf16"  # which every CPU can compute in
        try:
            with _quiet(), autocast(half, ids.device):
                model(ids, mask, torch.zeros_like(ids))
        except RuntimeError as error:
            raise InputError(
                f"amp {amp}: {job.cell.model} can't compute in it by transformers "
                f"({reason(error)}); take another"
            ) from error
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(
                f"{job.cell.model}: {name} holds NaN or infinite numbers; download it again"
            )


def check_own_kernels(job: Job) -> None:
    """Compare a forward and a backward pass by this project's kernels with PEFT's own, in fp32
    without dropout. InputError if logits or an adapter's gradients differ by more than rounding."""
    from bench.engines.own_kernels import use_own_kernels

    cell = replace(job.cell, own_kernels=OFF, dropout=0.0, lora_dropout=0.0)
    model = build(on_cpu(replace(job, cell=cell))).train()
    generator = torch.Generator().manual_seed(0)
    adapter = parameter_groups(model)["adapter"]
    for name, parameter in adapter.items():
        if ".lora_B." in name:  # zero at first, which hides A
            nn.init.normal_(parameter, 0.0, 0.02, generator=generator)
    most = min(_TOKENS, int(vars(model)["model_of_library"].config.vocab_size))
    ids = torch.randint(most, (2, 8), generator=generator)
    mask = torch.ones_like(ids).tril(6)  # with padding
    values = []
    for _ in range(2):
        logits = model(ids, mask, torch.zeros_like(ids))
        gradients = torch.autograd.grad(logits.square().sum(), list(adapter.values()))
        values.append({"logits": logits.detach(), **dict(zip(adapter, gradients, strict=True))})
        use_own_kernels(model)
    for name, theirs in values[0].items():
        error = (values[1][name] - theirs).norm() / theirs.norm().clamp_min(_TINY)
        if not error <= _ROUNDING:
            raise InputError(
                f"own_kernels: {name} differs from PEFT's by {error:.1e}, relatively; set "
                "own_kernels = false in the grid file, and report this"
            )


@torch.no_grad()
def _draw_head(model: EncoderClassifier, seed: int, std: float) -> None:
    """Draw the head as `minbert.model.classifier.initialise` does."""
    generator = torch.Generator().manual_seed(seed)
    for owner, module in [] if on_meta(model) else model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if f"{owner}.{name}" in model.names["head"]:
                setattr(module, name, drawn(name, parameter.shape, std, generator))


def _adapt(model: EncoderClassifier, job: Job) -> None:
    cell = job.cell
    _check_layers(model, cell)
    model.mode = cell.mode
    base = cell.mode == "full"
    if cell.mode in METHODS:
        start = time.perf_counter()
        add_adapters(model, job)
        model.adapter_init_s = time.perf_counter() - start
        base = cell.layers is not None and trains_base(cell.layers)
    elif cell.mode == BITFIT:
        biases = {name for name, _ in model.named_parameters() if name.endswith("bias")}
        model.names["adapter"] = biases - model.names["head"]
        if not model.names["adapter"]:
            raise InputError(
                f"mode {BITFIT}: the encoder of {cell.model} has no biases to train; take another "
                "mode"
            )
    adapter, head = model.names["adapter"], model.names["head"]
    for name, parameter in model.named_parameters():
        adapted = ".base_layer." in name or name in model.names["added"]
        parameter.requires_grad_(name in adapter or name in head or (base and not adapted))
    if cell.own_kernels == ON:
        from bench.engines.own_kernels import has_own_layers, use_own_kernels

        use_own_kernels(model, layers=has_own_layers(job))
    if cell.gradient_checkpointing == ON:
        # only now: PEFT would let gradients go on to the embeddings, which need none here
        vars(model)["model_of_library"].gradient_checkpointing_enable({"use_reentrant": False})


def parameter_groups(model: EncoderClassifier) -> Groups:
    groups: Groups = {"adapter": {}, "base": {}, "head": {}}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = next((g for g in ("adapter", "head") if name in model.names[g]), "base")
            groups[group][name] = parameter
    return groups


def moving(model: EncoderClassifier) -> set[str]:
    part = _MOVING.get(model.mode)
    return {name for name in model.names["adapter"] if part is not None and part in name}


def place_of(model: EncoderClassifier, name: str) -> tuple[str, int | None] | None:
    if not name.startswith(f"{model.prefix}."):
        return None
    layer = re.search(r"\.(\d+)\.", name) if not model.shares_layers else None
    if layer is not None:
        return model.prefix, int(layer[1])
    return None if any(norm in name for norm in _FINAL_NORMS) else (model.prefix, None)


def _check_layers(model: EncoderClassifier, cell: Cell) -> None:
    settings = {"layer_decay": cell.layer_decay != 1.0, "unfreeze": cell.unfreeze == ITERATIVE}
    for name, is_set in settings.items():
        if is_set and model.shares_layers:
            raise InputError(
                f"{name} {getattr(cell, name)}: the layers of {model.model_type} share their "
                "weights, so that none trains by itself; leave it out"
            )
