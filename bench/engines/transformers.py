"""Engine transformers: any encoder that transformers' AutoModel loads, with PEFT's adapters.

Parameters have the names of the architecture's own model for sequence classification, such as
`roberta.encoder.layer.0.attention.self.query.weight` and `classifier.dense.weight`, whatever the
pooling. Heads and the matrices A of LoRA are drawn as engine minbert draws them.
"""

import hashlib
import inspect
import json
import math
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)
from transformers.utils import is_flash_attn_2_available, logging

from adapters.methods import BITFIT, LOW_RANK, METHODS, PEFT
from adapters.names import trains_base
from bench.common.errors import InputError
from bench.engines.engine import Groups
from bench.engines.outputs import heads_of, parts_of, task_of
from bench.plan.architectures import ARCHITECTURES, is_layer_set, model_type_of
from bench.plan.cell import DEFAULT, ITERATIVE, ON, Cell
from bench.plan.job import Job
from minbert.model.classifier import Classifier, HeadConfig, mean_of_real
from minbert.model.config import GEOMETRIES
from minbert.model.heads import HEADS
from minbert.training.trainer import autocast

logging.set_verbosity_error()
logging.disable_progress_bar()

_POOLER: Final = "pooler"
_MEAN: Final = "mean"
_MOST_NAMED: Final = 30
_ADAPTER: Final = "default"
"""PEFT's name for an adapter without another."""
_FIRST_A, _FIRST_B = "first_factor_A", "first_factor_B"
"""Buffers of LoRA layers whose initialisation took the first update out of the base weight."""
_MOVING: Final = {"lora": "lora_B", "dora": "lora_B", "vera": "vera_lambda_b", "ia3": "ia3_"}
"""Parts of the names of the parameters that every training changes, by mode; in LoRA, for example,
A gets no gradient before B has moved."""
_REFUSED: Final = {
    "ADALORA": "needs a call in each step",
    "LILY": "makes a text's output depend on the other texts in its batch",
    "POLY": "needs the id of a task in each step",
    "SHADOW": "needs the past of a decoder",
    "XLORA": "needs adapters that are trained already",
    "corda": "needs examples before training",
    "eva": "needs examples before training",
    "loftq": "needs a quantised model",
    "lora_ga": "needs gradients before training",
}
"""Methods and initialisations that a configuration does not suffice for, and why."""
_FINAL_NORMS: Final = (".final_norm.", ".final_layer_norm.", ".emb_layer_norm_after.", ".ln_f.")
"""Parts of the names of norms above the last layer."""
_RESIDUAL: Final = ("pissa", "olora")
"""Beginnings of the initialisations that take the first update out of the base weights."""


class EncoderClassifier(Classifier):
    """An encoder of transformers with its head.

    Args:
        model: the architecture's own model for sequence classification, or, with another pooling
            or head, its encoder.
        head: the head on the pooled vector, or on tokens; None: `model` has its own.
        prefix: the name of the encoder in the architecture's own models.
        takes_types: whether the encoder distinguishes the texts of a pair by token type.
    """

    def __init__(
        self,
        model: Any,
        head: nn.Module | None,
        prefix: str,
        *,
        outputs: int,
        pooling: str,
        takes_types: bool,
    ) -> None:
        super().__init__()
        vars(self)["model_of_library"] = model  # not a submodule: its children are
        self.model_type = str(model.config.model_type)
        children = model.named_children() if head is None else [(prefix, model)]
        for name, child in children:
            self.add_module(name, child)
        self.prefix = prefix
        self.own_head = head is None
        self.classifier: Any
        if head is not None:
            self.classifier = head
        self.pooling = pooling
        self.takes_types = takes_types
        self.heads = {"": HeadConfig(outputs)}
        self.pad_id = int(model.config.pad_token_id or 0)
        self.reads_tokens = bool(getattr(head, "reads_tokens", False))
        self.names: dict[str, set[str]] = {"adapter": set(), "added": set(), "head": set()}
        self.mode = ""

    def train(self, mode: bool = True) -> "EncoderClassifier":
        """As of any module, and of the library's model, of which only the children are here."""
        vars(self)["model_of_library"].train(mode)
        super().train(mode)
        return self

    def fixed_tensors(self) -> dict[str, Tensor]:
        """What PEFT added and does not train, such as VeRA's projections, and the first factors of
        an initialisation that changed the base weights."""
        persistent = self.state_dict().keys()
        return {
            name: tensor.detach()
            for name, tensor in chain(self.named_parameters(), self.named_buffers())
            if name in self.names["added"] and name in persistent and not tensor.requires_grad
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load trained parameters and fixed tensors, and change the base weights accordingly."""
        self._add_first_updates(1.0)
        super().restore(tensors)
        self._add_first_updates(-1.0)

    @torch.no_grad()
    def _add_first_updates(self, sign: float) -> None:
        for name, (a, b) in first_factors(self).items():
            layer: Any = self.get_submodule(name)
            layer.get_base_layer().weight.add_(b @ a, alpha=sign * layer.scaling[_ADAPTER])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        part: str = "",  # noqa: ARG002 (there is one)
    ) -> Tensor:
        """Logits [B, C] of token ids [B, S]."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.takes_types:
            inputs["token_type_ids"] = token_type_ids
        model: Any = self.model_of_library
        output = model(**inputs)
        if self.own_head:
            logits: Tensor = output.logits
            return logits
        hidden = output.last_hidden_state  # [B, S, H]
        if self.reads_tokens:
            exact = torch.promote_types(hidden.dtype, torch.float32)
            by_tokens: Tensor = self.classifier(hidden.to(exact), attention_mask)
            return by_tokens
        pooled = mean_of_real(hidden, attention_mask) if self.pooling == _MEAN else hidden[:, 0]
        pooled_logits: Tensor = self.classifier(pooled)
        return pooled_logits


def import_libraries(job: Job) -> None:
    """As `Engine.import_libraries`.

    Raises:
        InputError: if there is no such model.
    """
    _kind(job.cell, _config(job))
    if job.cell.mode in METHODS:
        import peft  # noqa: F401


def build(job: Job) -> EncoderClassifier:
    """As `Engine.build`.

    Raises:
        InputError: for what the model, the library or PEFT does not support.
    """
    with _quiet():
        model = _loaded(job, draw=job.cell.init == "random")
        _adapt(model, job)
    return model.to(torch.device(job.device))


def skeleton(job: Job) -> EncoderClassifier:
    """As `Engine.skeleton`.

    A pooler counts as the checkpoint's own, as in engine minbert.

    Raises:
        InputError: as `build`.
    """
    needs_values = job.cell.mode == PEFT  # some methods compute from weights, or draw indices
    with _quiet(), nullcontext() if needs_values else torch.device("meta"):
        model = _loaded(job, draw=True)
        _adapt(model, job)
    return model.to("meta")


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(action="ignore"):
        yield


def _config(job: Job) -> Any:
    """The model's configuration, with the cell's dropout everywhere, and no dropped layers."""
    cell = job.cell
    if job.geometry is not None:
        config = transformers.BertConfig(**vars(GEOMETRIES[job.geometry]))
    else:
        config = _read_config(job)
    for name, value in config.to_dict().items():
        if "dropout" in name and (value is None or type(value) in (int, float)):
            setattr(config, name, cell.dropout)
        elif "layerdrop" in name:
            setattr(config, name, 0.0)
    (head,) = heads_of_one(job).values()
    config.num_labels = head.outputs
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
            raise InputError(f"{name}: transformers can't load it: {_line(error)}") from error
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


def heads_of_one(job: Job) -> dict[str, HeadConfig]:
    """The only head of a task without parts.

    Raises:
        InputError: for a task of several parts.
    """
    heads = heads_of(task_of(job), parts_of(job.cell))
    if not isinstance(heads, int):
        raise InputError(f"task {job.cell.task}: its parts are learned by engine minbert alone")
    return {"": HeadConfig(heads)}


def _loaded(job: Job, *, draw: bool) -> EncoderClassifier:
    """The model with weights loaded, or drawn, all in fp32, without adapters."""
    cell, config = job.cell, _config(job)
    kind, own_head = _kind(cell, config)
    _check_attention(cell, config.model_type, kind)
    options: dict[str, Any] = {"attn_implementation": cell.attn_implementation}
    if not own_head and "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
        options["add_pooling_layer"] = False
    new: list[str] = []
    try:
        if draw:
            with _seeded(cell.seed):
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
        raise InputError(f"{cell.model}: transformers can't load it: {_line(error)}") from error
    prefix = inner.base_model_prefix
    _check_complete(inner, new, own_head, cell.model)
    width, outputs = config.hidden_size, config.num_labels
    head = None if own_head else HEADS[cell.head](width, outputs, cell.dropout)
    model = EncoderClassifier(
        inner,
        head,
        prefix,
        outputs=outputs,
        pooling=cell.pooling,
        takes_types=takes_types(inner, config),
    )
    if cell.gradient_checkpointing == ON and not inner.supports_gradient_checkpointing:
        raise InputError(
            f"gradient_checkpointing: transformers has none for {config.model_type}; leave it out"
        )
    if not own_head:
        new = [f"{prefix}.{name}" for name in new]
    if cell.init == "random":
        new = [name for name, _ in model.named_parameters() if f".{_POOLER}." in name]
    outside = {name for name, _ in model.named_parameters() if not name.startswith(f"{prefix}.")}
    model.names["head"] = outside | set(new)
    _draw_head(model, cell.seed, float(getattr(config, "initializer_range", 0.02)))
    return model


def _kind(cell: Cell, config: Any) -> tuple[Any, bool]:
    """The class of the model, and whether it comes with a head of its own."""
    own_head = cell.pooling == _POOLER and cell.head == "linear"
    if cell.pooling == _POOLER and not own_head and cell.head != "conv":
        raise InputError(
            f"head {cell.head}: engine transformers has it with pooling cls or mean; pooling "
            f"{_POOLER} is the architecture's own head"
        )
    auto = AutoModelForSequenceClassification if own_head else AutoModel
    try:
        kind = auto._model_mapping[type(config)]
    except KeyError:
        raise InputError(
            f"{cell.model}: transformers has no {config.model_type} model for texts; take an "
            "encoder"
        ) from None
    return kind, own_head


def _check_attention(cell: Cell, model_type: str, kind: Any) -> None:
    """Refuse an attention that the architecture or this environment does not have."""
    given = cell.attn_implementation
    if given == "sdpa" and not kind._supports_sdpa:
        raise InputError(
            f"attn_implementation sdpa: transformers has none for {model_type}; take eager"
        )
    if given == "flash_attention_2":
        if not kind._supports_flash_attn:
            raise InputError(
                f"attn_implementation {given}: transformers has none for {model_type}; take eager"
            )
        if not is_flash_attn_2_available():
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
    """Load the model once, and run it on a few tokens in each type.

    Raises:
        InputError: if weights are missing, are not those of the model, or are not finite, or if it
            can't compute in a type.
    """
    with _quiet():
        model = _loaded(job, draw=job.cell.init == "random").eval()
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
                f"({_line(error)}); take another"
            ) from error
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(
                f"{job.cell.model}: {name} holds NaN or infinite numbers; download it again"
            )


def check_vocabulary(job: Job, most: int) -> None:
    """Refuse a tokenizer with token ids that the model has no embeddings for.

    Args:
        most: the tokenizer's largest token id.
    """
    size = int(_config(job).vocab_size)
    if most >= size:
        raise InputError(
            f"{job.cell.model}: its tokenizer has token ids up to {most}, and its vocab_size is "
            f"{size}: they are of different models"
        )


def takes_types(model: Any, config: Any) -> bool:
    """Whether an encoder distinguishes the texts of a pair by token type."""
    accepted = inspect.signature(model.forward).parameters
    return "token_type_ids" in accepted and int(getattr(config, "type_vocab_size", 0) or 0) > 1


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws from torch's global generator with a seed, and leaves it as it was."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _draw_head(model: EncoderClassifier, seed: int, std: float) -> None:
    """Draw the head as `minbert.model.classifier.initialise` does: matrices are normal, biases 0,
    and the weights of norms 1."""
    generator = torch.Generator().manual_seed(seed)
    for owner, module in [] if _on_meta(model) else model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if f"{owner}.{name}" not in model.names["head"]:
                continue
            value = torch.zeros(parameter.shape)
            if value.dim() == 1 and name == "weight":  # of a norm
                value.fill_(1.0)
            elif value.dim() > 1:
                value.normal_(0.0, std, generator=generator)
            setattr(module, name, nn.Parameter(value))


def _on_meta(model: EncoderClassifier) -> bool:
    return next(model.get_submodule(model.prefix).parameters()).is_meta


def _adapt(model: EncoderClassifier, job: Job) -> None:
    """Add the cell's adapters, and make trainable what its mode trains."""
    cell = job.cell
    _check_layers(model, cell)
    model.mode = cell.mode
    base = cell.mode == "full"
    if cell.mode in METHODS:
        start = time.perf_counter()
        _add_adapters(model, job)
        model.adapter_init_s = time.perf_counter() - start
        base = cell.layers is not None and trains_base(cell.layers)
    elif cell.mode == BITFIT:
        model.names["adapter"] = {
            name
            for name, _ in model.named_parameters()
            if name.endswith("bias") and name not in model.names["head"]
        }
        if not model.names["adapter"]:
            raise InputError(
                f"mode {BITFIT}: the encoder of {cell.model} has no biases to train; take another "
                "mode"
            )
    adapter, head = model.names["adapter"], model.names["head"]
    for name, parameter in model.named_parameters():
        adapted = ".base_layer." in name or name in model.names["added"]
        trains = name in adapter or name in head or (base and not adapted)
        parameter.requires_grad_(trains)
    if cell.gradient_checkpointing == ON:
        # only now: PEFT would let gradients go on to the embeddings, which need none here
        vars(model)["model_of_library"].gradient_checkpointing_enable({"use_reentrant": False})


def linear_layers(model: EncoderClassifier) -> dict[str, nn.Linear]:
    """The linear layers of the encoder by name."""
    layers = dict(model.get_submodule(model.prefix).named_modules(prefix=model.prefix))
    return {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}


def target_layers(model: EncoderClassifier, cell: Cell) -> list[str]:
    """Names of the linear layers that carry adapters, all of them in the encoder's layers.

    Raises:
        InputError: with the names of the linear layers, if the layer set has no meaning for the
            architecture, or names of layers match none.
    """
    layers, architecture = str(cell.layers), ARCHITECTURES.get(model.model_type)
    place = r".*\.\d+\."
    if architecture is not None:
        place = re.escape(f"{model.prefix}.{architecture.layers}").replace(r"\{\}", r"\d+")
    names = [name for name in linear_layers(model) if re.match(place, name)]
    if is_layer_set(layers):
        if architecture is None:
            ends = _within_layers(names)
            raise InputError(
                f"layers {layers}: not defined for model_type {model.model_type}, whose linear "
                f"layers are {_listed(ends)}; name some in a grid file: layers = "
                f'["{"+".join(ends[:2])}"]'
            )
        ends_of = "|".join(map(re.escape, architecture.adapted(layers)))
        return [name for name in names if re.fullmatch(f"{place}({ends_of})", name)]
    targets = layers.split("+")
    for target in targets:
        if not any(_ends_in(name, target) for name in names):
            raise InputError(
                f"layers {layers}: {cell.model} has no linear layer whose name ends in {target}; "
                f"they are {_listed(_within_layers(names))}"
            )
    return [name for name in names if any(_ends_in(name, target) for target in targets)]


def _within_layers(names: Iterable[str]) -> list[str]:
    """Distinct names without what comes before and up to the layer's number."""
    return list(dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in names))


def _ends_in(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _listed(listed: list[str]) -> str:
    more = f" and {len(listed) - _MOST_NAMED} more" if len(listed) > _MOST_NAMED else ""
    return ", ".join(listed[:_MOST_NAMED]) + more


def _add_adapters(model: EncoderClassifier, job: Job) -> None:
    import peft

    cell, before = job.cell, _tensor_names(model)
    config = peft_config(model, job)
    on_meta = _on_meta(model)
    try:
        with _seeded(cell.seed), torch.device("meta") if on_meta else nullcontext():
            adapted = peft.get_peft_model(model.model_of_library, config, low_cpu_mem_usage=on_meta)
    except Exception as error:  # PEFT raises many kinds for what a configuration can't express
        if re.search("(no modules were targeted|target modules .* not found)", str(error), re.I):
            raise InputError(
                f"adapter_config: target_modules match no layer of {cell.model}, whose linear "
                f"layers are {_listed(_within_layers(linear_layers(model)))}"
            ) from error
        given = f"adapter_config ({config.peft_type.value})"
        what = given if cell.mode == PEFT else f"mode {cell.mode}"
        raise InputError(f"{what}: PEFT refuses it: {_line(error)}") from error
    vars(model)["peft_model"] = adapted  # for saving; the layers are in the model
    if model.own_head:  # whose children PEFT may have replaced
        for name, child in vars(model)["model_of_library"].named_children():
            model.add_module(name, child)
    if taken := sorted(model.names["head"] - _tensor_names(model)):
        raise InputError(
            f"adapter_config: it adapts {taken[0].rpartition('.')[0]}, which is of the head "
            "and trains whole; add it to exclude_modules"
        )
    if str(getattr(config, "init_lora_weights", "")).startswith(_RESIDUAL):
        _keep_first_factors(model)
    new = _tensor_names(model) - before
    model.names["added"] = {name for name in new if ".base_layer." not in name}
    model.names["adapter"] = {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.numel() and name not in model.names["head"]
    }
    if not model.names["adapter"]:
        raise InputError(f"mode {cell.mode}: the configuration adds nothing that trains")
    if cell.mode in LOW_RANK and cell.init_lora_weights == DEFAULT and not on_meta:
        _draw_factors(model, cell.seed)


def _tensor_names(model: nn.Module) -> set[str]:
    return {name for name, _ in chain(model.named_parameters(), model.named_buffers())}


def _keep_first_factors(model: nn.Module) -> None:
    """Keep the factors whose product was taken out of the base weights: they come from a
    decomposition, which another machine rounds differently."""
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "lora_A") and hasattr(layer, "get_base_layer"):
            for name, factor in ((_FIRST_A, layer.lora_A), (_FIRST_B, layer.lora_B)):
                layer.register_buffer(name, factor[_ADAPTER].weight.detach().clone())


def first_factors(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of the product that was taken out of the base weights, by names of layers."""
    return {
        name: (getattr(layer, _FIRST_A), getattr(layer, _FIRST_B))
        for name, layer in model.named_modules()
        if hasattr(layer, _FIRST_A)
    }


def peft_config(model: EncoderClassifier, job: Job) -> Any:
    """PEFT's configuration of a cell's adapters.

    Raises:
        InputError: if it is refused.
    """
    import peft

    cell = job.cell
    if cell.mode == PEFT:
        return _given_config(model, json.loads(job.adapter_config or "{}"))
    targets = target_layers(model, cell)
    if cell.mode in LOW_RANK:
        _check_rank(model, cell, targets)
    if not model.own_head:  # PEFT sees the encoder alone
        targets = [name.removeprefix(f"{model.prefix}.") for name in targets]
    if cell.mode in LOW_RANK:
        default = cell.init_lora_weights == DEFAULT
        return peft.LoraConfig(
            r=cell.rank,
            lora_alpha=1.0 if cell.alpha is None else cell.alpha,  # without one it is counted
            lora_dropout=cell.lora_dropout,
            target_modules=targets,
            use_rslora=cell.use_rslora == ON,
            use_dora=cell.mode == "dora",
            init_lora_weights=True if default else cell.init_lora_weights,
        )
    if cell.mode == "vera":
        return peft.VeraConfig(r=cell.rank, target_modules=targets, projection_prng_key=cell.seed)
    architecture = ARCHITECTURES.get(model.model_type)
    last = "" if architecture is None else architecture.other[-1]
    inputs = [name for name in targets if re.sub(r"^.*\d\.", "", name) == last]
    return peft.IA3Config(target_modules=targets, feedforward_modules=inputs)


def _check_rank(model: EncoderClassifier, cell: Cell, targets: list[str]) -> None:
    layers = linear_layers(model)
    for name in targets:
        width = min(layers[name].in_features, layers[name].out_features)
        if cell.rank is not None and cell.rank > width:
            raise InputError(
                f"rank {cell.rank} is above the width of {name} in {cell.model}, which is {width}; "
                f"take a rank of at most {width}"
            )


def _given_config(model: EncoderClassifier, values: dict[str, Any]) -> Any:
    """The configuration in an adapter_config.json."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    name = str(values.get("peft_type"))
    kinds = {str(kind.value): kind for kind in peft.PeftType}
    kind = PEFT_TYPE_TO_CONFIG_MAPPING.get(kinds.get(name))
    if kind is None:
        raise InputError(f"adapter_config: PEFT has no peft_type {name[:60]!r}")
    needs = (name, re.sub("_(niter|init).*", "", str(values.get("init_lora_weights"))))
    for given in _REFUSED.keys() & needs:
        raise InputError(f"adapter_config: {given} {_REFUSED[given]}; take another method")
    unknown = [key for key in values if key not in kind.__dataclass_fields__]
    if unknown:
        raise InputError(
            f"adapter_config: {name} of PEFT {peft.__version__} has no {', '.join(unknown)}; leave "
            "it out"
        )
    try:
        config = kind.from_peft_type(**{**values, "inference_mode": False, "task_type": None})
    except Exception as error:  # of many kinds
        raise InputError(f"adapter_config ({name}): PEFT refuses it: {_line(error)}") from error
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise InputError(
            f"adapter_config: {name} adds to the input or to the past of a decoder, and encoders "
            "here take texts as they are; take another method"
        )
    heads = {name for name, _ in model.named_children()} - {model.prefix} | {"score"}
    if others := sorted(set(getattr(config, "modules_to_save", None) or ()) - heads):
        raise InputError(
            f"adapter_config: modules_to_save has {others[0]}, which is not of the head; besides "
            "adapters the head alone trains, always: leave it out"
        )
    config.modules_to_save = None
    if getattr(config, "exclude_modules", "") is None:  # as PEFT does for a head it knows
        config.exclude_modules = sorted({n.rpartition(".")[0] for n in model.names["head"]})
    return config


@torch.no_grad()
def _draw_factors(model: EncoderClassifier, seed: int) -> None:
    """Draw every A as `adapters.low_rank.LowRankLinear.reset_parameters` does."""
    for name, parameter in model.named_parameters():
        owner, is_a, _ = name.partition(".lora_A.")
        if is_a:
            digest = hashlib.sha256(f"{seed} {owner}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5), generator=generator)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def parameter_groups(model: nn.Module) -> Groups:
    """As `Engine.parameter_groups`."""
    assert isinstance(model, EncoderClassifier)  # noqa: S101
    groups: Groups = {"adapter": {}, "base": {}, "head": {}}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = next((g for g in ("adapter", "head") if name in model.names[g]), "base")
            groups[group][name] = parameter
    return groups


def moving(model: nn.Module) -> set[str]:
    """As `Engine.moving`."""
    assert isinstance(model, EncoderClassifier)  # noqa: S101
    part = _MOVING.get(model.mode)
    return {name for name in model.names["adapter"] if part is not None and part in name}


def place_of(model: nn.Module, name: str) -> tuple[str, int | None] | None:
    """As `Engine.place_of`."""
    assert isinstance(model, EncoderClassifier)  # noqa: S101
    if not name.startswith(f"{model.prefix}."):
        return None
    layer = re.search(r"\.(\d+)\.", name) if _has_layers(model) else None
    if layer is not None:
        return model.prefix, int(layer[1])
    return None if any(norm in name for norm in _FINAL_NORMS) else (model.prefix, None)


def _has_layers(model: EncoderClassifier) -> bool:
    """Whether the layers have weights of their own."""
    architecture = ARCHITECTURES.get(model.model_type)
    return architecture is None or "{}" in architecture.layers


def _check_layers(model: EncoderClassifier, cell: Cell) -> None:
    """Refuse settings for single layers where all share their weights."""
    settings = {"layer_decay": cell.layer_decay != 1.0, "unfreeze": cell.unfreeze == ITERATIVE}
    for name, is_set in settings.items():
        if is_set and not _has_layers(model):
            raise InputError(
                f"{name} {getattr(cell, name)}: the layers of {model.model_type} share their "
                "weights, so that none trains by itself; leave it out"
            )
