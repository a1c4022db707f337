"""The adapter_config.json files of mode peft, and which of their fields may reach PEFT.

PEFT reads some fields as names of modules to import, of files, or as regular expressions. So a
file is checked before PEFT sees it, by a list of the methods, their fields and types of values.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.common.errors import InputError
from bench.plan.cell import digest
from bench.plan.gridfile import Grid
from minbert.files import read_json

_TYPE: Final = "peft_type"
FILE: Final = "adapter_config.json"
_IGNORED: Final = (
    "base_model_name_or_path", "revision", "inference_mode", "task_type", "auto_mapping",
)  # fmt: skip
"""Fields that do not change what is trained."""
_LABELS: Final = (*_IGNORED[:-1], "peft_version", _TYPE)
"""Fields with any text."""
_NAMES: Final = (
    "target_modules", "exclude_modules", "modules_to_save", "layers_pattern", "feedforward_modules",
    "target_parameters",
)  # fmt: skip
"""Fields with names of modules, which PEFT may read as regular expressions."""
_COMMON: Final = (
    *("r", "alpha", "bias", "fan_in_fan_out", "init_weights", "layers_to_transform", "random_seed"),
    *("rank_pattern", "alpha_pattern", "projection_prng_key", "save_projection", "module_dropout"),
)
"""Fields of several methods."""
_METHODS: Final = dict(
    re.findall(
        r"\b([A-Z][A-Z0-9_]+)\b((?:\s+[a-z]\w*)*)",
        """
    ADAMSS num_subspaces subspace_rank use_asa asa_target_subspaces init_warmup final_warmup
    mask_interval asa_importance_beta asa_uncertainty_beta asa_schedule_exponent use_dynamic_rank
    svd_threshold BEFT BOFT boft_block_num boft_block_size boft_dropout boft_n_butterfly_factor
    C3A block_size block_size_pattern DEFT decomposition_method deft_dropout init_scale para
    DELORA delora_lambda lambda_pattern FOURIERFT n_frequency n_frequency_pattern random_loc_seed
    scaling FROD frod_dropout progressbar regularization_alpha runtime_offload_base_weight
    sparse_rate GLORA config_A_B config_C config_D_E GRALORA gralora_dropout gralora_k hybrid_r
    HIRA hira_dropout HRA apply_GS IA3 init_ia3_weights LN_TUNING LOHA rank_dropout
    use_effective_conv2d LOKR decompose_both decompose_factor rank_dropout rank_dropout_scale
    use_effective_conv2d LORA lora_alpha lora_dropout lora_bias use_rslora use_dora
    init_lora_weights loftq_config trainable_token_indices alora_invocation_tokens
    layer_replication ensure_weight_tying use_qalora qalora_group_size velora_config
    monteclora_config kasa_config use_bdlora MISS mini_r miss_dropout OFT block_share coft eps
    num_cayley_neumann_terms oft_block_size use_cayley_neumann OSF effective_rank
    target_svd_config PEANUT act_fn depth scaling PSOFT ab_svd_init cayley_neumann_eps
    num_cayley_neumann_terms psoft_alpha psoft_dropout psoft_mag_a psoft_mag_b psoft_orth
    psoft_svd psoft_svd_lowrank_niter use_cayley_neumann PVERA d_initial generator_seed
    pvera_dropout sample_at_inference RANDLORA randlora_alpha randlora_dropout sparse very_sparse
    ROAD group_size variant SHIRA mask_type SUPERTUNING lora_alpha lora_dropout
    save_precomputed_indices select_top sparsity TINYLORA init_v_bound projection_seed
    tinylora_dropout u weight_tying TRAINABLE_TOKENS token_indices UNILORA init_theta_d_bound
    proj_seed save_indices theta_d_length unilora_dropout VBLORA init_logits_std
    init_vector_bank_bound num_vectors save_only_topk_weights topk vblora_dropout vector_length
    VERA d_initial vera_dropout WAVEFT n_frequency n_frequency_pattern proportional_parameters
    random_loc_seed scaling use_idwt wavelet_family
    """,
    )
)
"""The methods of PEFT that can be used, each with its own fields. Their values are numbers, single
words, or lists or tables of these. Any other field has to be null, which is to leave it out."""
_PROMPT: Final = (
    "adds to the input or to the past of a decoder, and encoders here take texts as they are"
)
_UNSUITED: Final = {
    "ADALORA": "needs a call in each step",
    "LILY": "makes a text's output depend on the other texts in its batch",
    "POLY": "needs the id of a task in each step",
    "SHADOW": "needs the past of a decoder",
    "XLORA": "needs adapters that are trained already",
    **dict.fromkeys(("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING"), _PROMPT),
    **dict.fromkeys(("P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"), _PROMPT),
}
"""Methods of PEFT that a configuration does not suffice for, and why."""
_DEFAULTS: Final = {"megatron_core": "megatron.core"}
"""Values that PEFT writes into each file, of fields that are not used."""
_WORD: Final = re.compile(r"[A-Za-z0-9_]{1,40}")
_MOST: Final = 4
_LONGEST: Final = 200


@dataclass(frozen=True)
class AdapterConfigs:
    """Configurations: their names in cells by path, and their JSON by that name."""

    names: Mapping[str, str]
    texts: Mapping[str, str]


def read_adapter_configs(grid: Grid) -> AdapterConfigs:
    """The configurations that a grid names.

    Raises:
        InputError: for a file that can't be read or holds no configuration of PEFT.
    """
    names, texts = {}, {}
    for path in dict.fromkeys(path for axes in grid.cells for path in axes.adapter_config):
        values = read_json(Path(path))
        known: dict[str, Any] = {key: v for key, v in values.items() if key not in _IGNORED}
        check_adapter_config(known, f"adapter_config {path}")
        names[path] = f"{values[_TYPE].lower()} {digest(known, 8)}"
        texts[names[path]] = json.dumps(known, sort_keys=True)
    return AdapterConfigs(names, texts)


def check_adapter_config(values: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration that PEFT must not see.

    Args:
        where: the file, for the message.

    Raises:
        InputError: naming the field and the file.
    """
    method = values.get(_TYPE)
    if not isinstance(method, str):
        raise InputError(f'{where}: lacks {_TYPE}, such as "LOHA", so it is no {FILE} of PEFT')
    if method in _UNSUITED:
        raise InputError(f"{where}: {method} {_UNSUITED[method]}; take another method")
    if method not in _METHODS:
        raise InputError(
            f"{where}: {_TYPE} {method[:60]!r} is none of those that can be used: "
            f"{', '.join(_METHODS)}"
        )
    fields = {*_COMMON, *_NAMES, *_METHODS[method].split()}
    for key, value in values.items():
        if value is None or _DEFAULTS.get(key) == value:
            continue
        if key in _LABELS and isinstance(value, bool | str):
            continue
        if key not in fields:
            raise InputError(
                f"{where}: field {key[:60]!r} can't be used with {method}; leave it out"
            )
        if not _is_plain(value, names=key in _NAMES):
            what = (
                f"names of modules, or a regular expression of at most {_LONGEST} characters with "
                f"at most {_MOST} groups and repetitions, and no repetition of a group"
                if key in _NAMES
                else "numbers and single words"
            )
            raise InputError(f"{where}: field {key!r} has a value that can't be used; give {what}")


def _is_plain(value: object, *, names: bool, depth: int = 2) -> bool:
    """Whether a value has numbers and single words alone, or names of modules."""
    if isinstance(value, str):
        return _is_bounded(value) if names else _WORD.fullmatch(value) is not None
    if depth and isinstance(value, list):
        return all(_is_plain(each, names=names, depth=depth - 1) for each in value)
    if depth and isinstance(value, dict) and not names:
        own = all(_is_plain(each, names=False, depth=depth - 1) for each in value.values())
        return own and all(map(_is_bounded, value))
    return value is None or (not names and isinstance(value, bool | int | float))


def _is_bounded(pattern: str) -> bool:
    """Whether a regular expression takes a short time on the name of any module.

    Each repetition and each group of alternatives multiplies the ways to match a name.
    """
    bare = re.sub(r"\\.|\(\?:", lambda match: "(" if match[0] == "(?:" else "", pattern)
    ways = sum(map(bare.count, "*+?{("))
    is_nested = re.search(r"\)[*+?{]", bare) is not None
    return len(pattern) <= _LONGEST and pattern.isprintable() and ways <= _MOST and not is_nested


def check_adapters(folder: Path, *, adapts: bool) -> None:
    """Check the folder of a model before a library loads it, which would load adapters unasked.

    Args:
        adapts: whether the model is an adapter, whose configuration is in the folder itself.

    Raises:
        InputError: for an adapter in another place, or as `check_adapter_config`.
    """
    for path in sorted(folder.rglob(FILE)):
        if not adapts or path.parent != folder:
            raise InputError(
                f"{path}: an adapter besides the model; remove it, or use {path.parent}"
            )
        check_adapter_config(read_json(path), str(path))
