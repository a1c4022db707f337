"""No adapter_config.json makes PEFT import, read or run what it names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.export.predict import command
from bench.plan.adapter_configs import check_adapter_config, read_adapter_configs
from bench.plan.gridfile import load
from minbert.files import model_digest
from tests.encoders import Checkpoints, need_transformers

ROOT = Path(__file__).parents[3]
LORA = {"peft_type": "LORA", "target_modules": ["query"]}
HOSTILE = LORA | {"megatron_config": {}, "megatron_core": "megatron.evil"}
GRID = '[[cells]]\nmode = ["peft"]\nadapter_config = ["a.json"]\n'
EVERY_FIELD = """
import dataclasses, sys, warnings
import peft, torch
from importlib.abc import MetaPathFinder
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from bench.common.errors import InputError
from bench.plan.adapter_configs import check_adapter_config

warnings.simplefilter("ignore")
seen = set()

class Watch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("evil", "megatron"):
            seen.add(name)

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.query = torch.nn.Linear(16, 16)

    def forward(self, x):
        return self.query(x)

sys.meta_path.insert(0, Watch())
values = ("evil", ["megatron.evil"], {"megatron.evil": "evil"})
reached = refused = 0

def give(config, given):
    try:
        peft.get_peft_model(Model(), config.from_peft_type(**given))
    except Exception:
        pass  # PEFT's own refusals

for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
    base = {"peft_type": str(kind.value), "target_modules": ["query"]}
    megatron = {"megatron_config": {"a": 1}, "megatron_core": "megatron.evil"}
    changes = [{field.name: v} for field in dataclasses.fields(config) for v in values]
    for change in [*changes, megatron]:
        given = {**base, **change}
        try:
            check_adapter_config(given, "a.json")
        except InputError as error:
            refused += 1
            assert "a.json" in str(error) and len(str(error).splitlines()) == 1, error
        else:
            reached += 1
            give(config, given)
print(reached, refused, *sorted(seen))
give(peft.LoraConfig, {"peft_type": "LORA", "target_modules": ["query"], **megatron})
print(*sorted(seen))
"""


@pytest.fixture
def modules(tmp_path):
    """A folder with the modules that configurations name."""
    (tmp_path / "megatron").mkdir()
    for name in ("evil.py", "megatron/__init__.py", "megatron/evil.py"):
        (tmp_path / name).touch()
    return tmp_path


def test_no_field_of_any_method_imports_what_it_names(modules):
    need_transformers()
    done = subprocess.run(
        [sys.executable, "-c", EVERY_FIELD],
        cwd=modules, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    checked, unchecked = done.stdout.splitlines()
    reached, refused, *imported = checked.split()
    assert (int(reached) > 100, int(refused) > 500, imported) == (True, True, [])
    assert "megatron.evil" in unchecked.split(), "without the check it would be imported"


def test_every_door_refuses_it_with_a_line(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    (tmp_path / "a.json").write_text(json.dumps(HOSTILE))
    with pytest.raises(InputError, match=r"a\.json: field 'megatron_config' can't be used"):
        read_adapter_configs(load(str(tmp_path / "grid.toml")))
    (tmp_path / "a.json").unlink()
    os.mkfifo(tmp_path / "pipe")
    for never_ends in (Path("/dev/zero"), tmp_path / "pipe"):
        (tmp_path / "a.json").symlink_to(never_ends)
        with pytest.raises(InputError, match=r"a\.json: is no regular file"):
            read_adapter_configs(load(str(tmp_path / "grid.toml")))
        (tmp_path / "a.json").unlink()
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


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"target_modules": r".*\.layer\.\d+\.attention\.self\.(query|value)"}, False),
        ({"target_modules": "all-linear"}, False),
        ({"rank_pattern": {r"layer\.1\..*": 4}}, False),
        ({"base_model_name_or_path": "a/b", "task_type": "SEQ_CLS"}, False),
        ({"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil.evil"}}, False),
        ({"target_modules": "(a+)+$"}, True),
        ({"exclude_modules": "(.*.*)*x"}, True),
        ({"target_modules": ".*.*.*.*.*x"}, True),
        ({"rank_pattern": {"(a|a)*$": 4}}, True),
        ({"layers_pattern": "(?:a|a)(?:a|a)(?:a|a)(?:a|a)(?:a|a)"}, True),
        ({"r": {"x": {"y": {}}}}, True),
        ({"unknown": 1}, True),
    ],
)
def test_regular_expressions_end_and_values_are_plain(change, refused):
    if not refused:
        check_adapter_config(LORA | change, "a.json")
        return
    with pytest.raises(InputError, match=f"a.json: field '{next(iter(change))}'"):
        check_adapter_config(LORA | change, "a.json")


def test_a_checkpoint_with_an_adapter_or_a_pointer_is_refused(tmp_path):
    need_transformers()
    folder = Checkpoints(tmp_path)("roberta")
    config = folder / "config.json"
    before = model_digest(folder)
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    with pytest.raises(InputError, match="has an adapter"):
        model_digest(folder)
    (folder / "adapter_config.json").unlink()
    assert model_digest(folder) == before
    config.write_text(json.dumps({**json.loads(config.read_text()), "configuration_files": []}))
    with pytest.raises(InputError, match="configuration_files names other files"):
        model_digest(folder)
