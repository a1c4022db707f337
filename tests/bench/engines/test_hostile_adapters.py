"""No adapter_config.json makes PEFT import, read or run what it names."""

import dataclasses
import json
import sys
import warnings
from collections import OrderedDict
from contextlib import suppress
from itertools import product
from types import SimpleNamespace

import pytest
from torch import nn

from bench.common.errors import InputError
from bench.export.predict import command
from bench.plan.adapter_configs import check_adapter_config, read_adapter_configs
from bench.plan.gridfile import load
from minbert.files import model_digest
from tests.encoders import need_transformers
from tests.hostile import check_line

LORA = {"peft_type": "LORA", "target_modules": ["query"]}
HOSTILE = LORA | {"megatron_config": {}, "megatron_core": "megatron.evil"}
GRID = '[[cells]]\nmode = ["peft"]\nadapter_config = ["a.json"]\n'


def test_no_field_of_any_method_imports_what_it_names(monkeypatch):
    """Each field of each method names a module, which is looked for where nothing refuses it."""
    need_transformers()
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    looked_for = []
    finder = SimpleNamespace(find_spec=lambda name, *_: looked_for.append(name))
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])

    def give(config, values):
        looked_for.clear()
        model = nn.Sequential(OrderedDict(query=nn.Linear(16, 16)))
        with suppress(Exception), warnings.catch_warnings(action="ignore"):  # PEFT's own refusals
            peft.get_peft_model(model, config.from_peft_type(**values))
        return any(name.partition(".")[0] in ("evil", "megatron") for name in looked_for)

    megatron = {"megatron_config": {"a": 1}, "megatron_core": "megatron.evil"}
    assert give(peft.LoraConfig, LORA | megatron), "without the check"
    reached = refused = 0
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        values = ("evil", ["megatron.evil"], {"megatron.evil": "evil"})
        fields = product([field.name for field in dataclasses.fields(config)], values)
        for change in [*({name: value} for name, value in fields), megatron]:
            given = {"peft_type": str(kind.value), "target_modules": ["query"], **change}
            try:
                check_adapter_config(given, "a.json")
            except InputError as error:
                refused += 1
                check_line(str(error), "a.json")
            else:
                reached += 1
                assert not give(config, given), given
    assert reached > 100
    assert refused > 500


def test_every_door_refuses_it_with_a_line(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    (tmp_path / "a.json").write_text(json.dumps(HOSTILE))
    with pytest.raises(InputError, match=r"a\.json: field 'megatron_config' can't be used"):
        read_adapter_configs(load(str(tmp_path / "grid.toml")))
    (tmp_path / "a.json").unlink()
    (tmp_path / "a.json").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"a\.json: is a link"):
        read_adapter_configs(load(str(tmp_path / "grid.toml")))
    model = tmp_path / "model"
    model.mkdir()
    (model / "adapter_config.json").write_text(json.dumps(HOSTILE))
    config = {"id2label": {"0": "a", "1": "b"}, "problem_type": "x", "text_pairs": False}
    (model / "config.json").write_text(json.dumps(config))
    (tmp_path / "texts.txt").write_text("a\n")
    words = [str(model), str(tmp_path / "texts.txt")]
    (model / "predict.py").touch()
    for also in ("nothing", "model.safetensors"):  # an adapter, and a model with an adapter
        (model / also).touch()
        with pytest.raises(InputError, match=r"megatron_config|an adapter besides the model"):
            command.main(words, standalone_mode=False)


@pytest.mark.parametrize(("change", "refused"), [
    ({"target_modules": r".*\.layer\.\d+\.attention\.self\.(query|value)"}, False),
    ({"rank_pattern": {r"layer\.1\..*": 4}}, False),
    ({"base_model_name_or_path": "a/b", "task_type": "SEQ_CLS"}, False),
    ({"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil.evil"}}, False),
    ({"target_modules": "(a+)+$"}, True),
    ({"target_modules": ".*.*.*.*.*x"}, True),
    ({"rank_pattern": {"(a|a)*$": 4}}, True),
    ({"layers_pattern": "(?:a|a)(?:a|a)(?:a|a)(?:a|a)(?:a|a)"}, True),
    ({"r": {"x": {"y": {}}}}, True),
    ({"unknown": 1}, True),
])  # fmt: skip
def test_regular_expressions_end_and_values_are_plain(change, refused):
    if not refused:
        check_adapter_config(LORA | change, "a.json")
        return
    with pytest.raises(InputError, match=f"a.json: field '{next(iter(change))}'"):
        check_adapter_config(LORA | change, "a.json")


def test_a_checkpoint_that_names_other_files_is_refused(tmp_path):
    config = {"model_type": "roberta", "configuration_files": []}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="configuration_files names other files"):
        model_digest(tmp_path)
