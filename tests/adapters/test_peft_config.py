"""PEFT's adapter_config.json as plain data."""

import json
from typing import Any

import pytest

from adapters.layer import Part
from adapters.peft_config import AdapterConfig, parse
from adapters.peft_format import build_config
from minbert.errors import InputError
from tests.adapters.small import need_peft

_ENDINGS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
LINEAR = [
    *(f"bert.encoder.layer.{n}.{ending}" for n in (1, 11) for ending in _ENDINGS),
    "bert.pooler.dense",
    "classifier",
]
MODULES = [*LINEAR, "bert.pooler", "bert.embeddings", "bert"]


def read(**changes: Any) -> AdapterConfig:
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "r": 4,
        "lora_alpha": 16,
        "target_modules": ["query"],
        **changes,
    }
    return parse(config, linear_names=LINEAR, module_names=MODULES)


def test_target_modules_hold_endings_of_names() -> None:
    assert [*read(target_modules=["dense"]).parts] == [n for n in LINEAR if n.endswith(".dense")]
    assert [*read(target_modules=["output.dense"]).parts] == [
        n for n in LINEAR if n.endswith("output.dense")
    ]
    full = "bert.encoder.layer.1.output.dense"
    assert [*read(target_modules=[full]).parts] == [full]


def test_what_is_saved_whole_has_no_adapter() -> None:
    config = read(target_modules=["dense", "classifier"], modules_to_save=["pooler"])
    assert "bert.pooler.dense" not in config.parts
    assert "classifier" not in config.parts
    assert config.saved == ["classifier", "bert.pooler"]
    assert read(task_type=None).saved == []


def test_what_is_built_reads_back_the_same() -> None:
    parts = [Part(name=LINEAR[n], rank=4, alpha=2.5, rslora=True) for n in (0, 2, 6)]
    config = build_config(mode="dora", parts=parts, modules_to_save=["classifier"], base_model="x")
    again = parse(json.loads(json.dumps(config)), linear_names=LINEAR, module_names=MODULES)
    assert again == AdapterConfig("dora", {part.name: part for part in parts}, ["classifier"])


@pytest.mark.parametrize("changes", [{"rank": 8}, {"alpha": 2.5}, {"rslora": True}])
def test_adapters_of_several_ranks_or_scales_are_not_saved(changes: dict[str, Any]) -> None:
    parts = [
        Part(**{"name": n, "rank": 4, "alpha": 16.0, **(changes if n == LINEAR[0] else {})})
        for n in LINEAR[:2]
    ]
    with pytest.raises(InputError, match="one rank and one scale"):
        build_config(mode="lora", parts=parts, modules_to_save=[], base_model=None)


def test_every_default_of_peft_is_accepted() -> None:
    need_peft()
    from peft import LoraConfig

    defaults = LoraConfig(task_type="SEQ_CLS", target_modules=["query"]).to_dict()
    values = json.loads(json.dumps(defaults, default=list))
    assert parse(values, linear_names=LINEAR, module_names=MODULES).parts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": "all"}, "sets bias, which"),
        ({"bias": "lora_only"}, "sets bias, which"),
        ({"lora_bias": True}, "sets lora_bias, which"),
        ({"fan_in_fan_out": True}, "sets fan_in_fan_out, which"),
        ({"layers_to_transform": [1]}, "sets layers_to_transform, which"),
        ({"layers_to_transform": 0}, "sets layers_to_transform, which"),
        ({"exclude_modules": ["key"]}, "sets exclude_modules, which"),
        ({"layer_replication": [[0, 1]]}, "sets layer_replication, which"),
        ({"trainable_token_indices": [1]}, "sets trainable_token_indices, which"),
        ({"an_option_of_tomorrow": "yes"}, "sets an_option_of_tomorrow, which"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": ["pissa"]}, "init_lora_weights is"),
        ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA'"),
        ({"peft_type": ["LORA"]}, "peft_type is"),
        ({"task_type": "CAUSAL_LM"}, "task_type is 'CAUSAL_LM'"),
        ({"task_type": ["SEQ_CLS"]}, "task_type is"),
        ({"target_modules": ["nothing"]}, "names no linear layer"),
        ({"target_modules": ".*query"}, r"target_modules is '\.\*query'.* valid list"),
        ({"target_modules": None}, "target_modules is None"),
        ({"target_modules": [1]}, r"target_modules is \[1\]"),
        ({"modules_to_save": "classifier"}, "modules_to_save is 'classifier'"),
        ({"target_modules": [".*query"]}, "target_modules is"),
        ({"rank_pattern": {"query": 8}}, "sets rank_pattern, which"),
        ({"alpha_pattern": {"query": 8}}, "sets alpha_pattern, which"),
        ({"r": "4"}, "r is '4'"),
        ({"r": 4.0}, "r is 4.0"),
        ({"r": True}, "r is True"),
        ({"r": 0}, "r is 0"),
        ({"r": None}, "r is None"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"use_dora": "yes"}, "use_dora is 'yes'"),
        ({"use_rslora": None}, "use_rslora is None"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read(**changes)
    assert "\n" not in str(raised.value)
