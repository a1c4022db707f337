"""Adapters of every wrong kind: what is no adapter is refused, and the model is as it was."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from safetensors.torch import load_file, save_file
from torch import nn

from adapters.peft_config import parse
from adapters.peft_format import load_adapter, save_adapter
from minbert.errors import InputError
from tests.adapters.small import adapted_layers_of, adapted_model, base_model
from tests.hostile import (
    NEAR_THE_LIMIT,
    answer,
    changed,
    check_line,
    damaged,
    examples,
    nested,
    safetensors_bytes,
    sparse,
)

LINEAR = [
    f"bert.encoder.layer.{number}.{part}"
    for number in range(12)
    for part in ("attention.self.query", "attention.output.dense", "output.dense")
]
MODULES = [*LINEAR, "bert.pooler", "bert.pooler.dense", "classifier", "bert"]
VALUES: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "SEQ_CLS",
    "r": 4,
    "lora_alpha": 16,
    "target_modules": ["query", "output.dense"],
    "rank_pattern": {},
    "alpha_pattern": None,
    "modules_to_save": ["classifier"],
    "use_dora": False,
    "use_rslora": False,
    "bias": "none",
}
ADAPTER = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that was saved whole, beside full weights."""
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(adapted_model(mode="dora", layers="attn"), folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it that may be spoiled."""
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    """A model that no refusal may change."""
    return base_model()


def read(values: Any) -> Any:
    return parse(values, linear_names=LINEAR, module_names=MODULES)


def refused(folder: Path, model: nn.Module) -> str:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_adapter(model, folder)
    check_line(str(caught.value), folder)
    check_unchanged(model, before)
    return str(caught.value)


def check_unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    assert not adapted_layers_of(model)
    now = model.state_dict()
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in model.parameters())


# adapter_config.json


@examples(250)
@given(values=changed(VALUES))
def test_a_changed_configuration_is_right_or_refused(values: Any) -> None:
    if not isinstance(values, dict):
        return  # which its reader refuses before
    found = answer(lambda: read(values), InputError, "")
    if found is not None:
        assert found.parts
        for part in found.parts.values():
            assert isinstance(part.rank, int)
            assert abs(part.rank) <= 2**24
            assert abs(part.alpha) <= 1e12
        assert set(found.saved) <= {*MODULES}


@examples(40)
@given(content=damaged(json.dumps(VALUES, indent=1).encode()))
def test_a_damaged_configuration_is_refused_and_changes_nothing(
    folder: Path, plain: nn.Module, content: bytes
) -> None:
    """It names no layer of this model's adapter as it was saved, so whatever it says is wrong."""
    (folder / CONFIG).write_bytes(content)
    refused(folder, plain)


def test_nesting_of_any_depth_is_refused(folder: Path, plain: nn.Module) -> None:
    for depth in (*NEAR_THE_LIMIT[::10], 10_000, 200_000):
        for key in ("r", "more", "target_modules", "rank_pattern", "init_lora_weights"):
            text = json.dumps({**VALUES, key: 0}).replace(
                f'"{key}": 0', f'"{key}": {nested(depth)}'
            )
            (folder / CONFIG).write_text(text)
            with pytest.raises(InputError) as caught:
                load_adapter(plain, folder)
            check_line(str(caught.value), folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_alpha": float("nan")},
        {"lora_alpha": float("inf")},
        {"lora_alpha": 10**400},
        {"lora_alpha": -(10**400)},
        {"alpha_pattern": {"query": float("nan")}},
        {"r": 10**30},
        {"r": -(10**30)},
        {"r": float("nan")},
        {"rank_pattern": {"query": 10**30}},
        {"modules_to_save": ["../../x"]},
        {"modules_to_save": ["(a+)+$"]},
        {"modules_to_save": [f"m{number}" for number in range(10**5)]},
        {"target_modules": ["../../etc/passwd"]},
        {"target_modules": ["a" * 10**6]},
        {"target_modules": "a" * 10**6},
        {"rank_pattern": {f"a*{number}": 1 for number in range(10**4)}},
        {"two\nlines\x1b[2J": 1},
        {"x" * 10**6: 1},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_what_no_adapter_has_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        read({**VALUES, **changes})
    check_line(str(caught.value), "")


ENDLESS = [
    "(a+)+$", "(.*)*x", "(a|a)*b", "(?x)(a+) *", "((a)*)*", "(a+){50}b", ".*.*.*.*.*.*.*x",
    "(?:(?:a?){40}){40}", "(e|e)+(?#c)*", "(?P<a>e*)*(?P=a)", "(?:.?){30}e{30}x", "(e*\\))*",
    ".?" * 45 + "x", "(" * 600 + ")" * 600, "e{99999999999999999999}", "[", "(?i)e", "\\",
]  # fmt: skip


@pytest.mark.parametrize("pattern", ENDLESS, ids=lambda pattern: pattern[:20])
def test_a_pattern_that_takes_without_end_is_refused_at_once(pattern: str) -> None:
    begun = time.process_time()
    for changes in (
        {"target_modules": pattern},
        {"target_modules": [pattern]},
        {"rank_pattern": {pattern: 1}},
    ):
        with pytest.raises(InputError) as caught:
            read({**VALUES, **changes})
        check_line(str(caught.value), "")
    assert time.process_time() - begun < 1


# adapter_model.safetensors


@examples(40)
@given(mask=damaged(bytes(3000)))
def test_damaged_tensors_load_or_change_nothing(saved: Path, folder: Path, mask: bytes) -> None:
    """The damage that was done to zeros is done to the file: a mask says where."""
    content = bytearray((saved / ADAPTER).read_bytes())
    for place, value in enumerate(mask):
        if value and place < len(content):
            content[place] = value
    (folder / ADAPTER).write_bytes(content[: len(content) + min(0, len(mask) - 3000)])
    model = base_model()
    if answer(lambda: load_adapter(model, folder) or True, InputError, folder) is None:
        check_unchanged(model, base_model().state_dict())


@examples(40)
@given(entry=changed({"dtype": "F32", "shape": [4, 32], "data_offsets": [0, 512]}))
def test_a_changed_header_loads_or_changes_nothing(folder: Path, entry: Any) -> None:
    whole = (folder / ADAPTER).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    name = next(name for name in header if "lora_A" in name)
    header[name] = entry
    (folder / ADAPTER).write_bytes(safetensors_bytes(json.dumps(header), whole[8 + length :]))
    model = base_model()
    if answer(lambda: load_adapter(model, folder) or True, InputError, folder) is None:
        check_unchanged(model, base_model().state_dict())
    else:
        assert adapted_layers_of(model)


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.int64, torch.bool, torch.complex64])
def test_numbers_of_other_types_are_refused(
    folder: Path, plain: nn.Module, dtype: torch.dtype
) -> None:
    tensors = load_file(folder / ADAPTER)
    save_file({name: t.to(dtype) for name, t in tensors.items()}, folder / ADAPTER)
    assert "floating-point" in refused(folder, plain)


def test_names_of_tensors_are_shown_on_one_line(folder: Path, plain: nn.Module) -> None:
    tensors = {**load_file(folder / ADAPTER), "x\n\x1b[2J" * 1000: torch.zeros(1)}
    save_file(tensors, folder / ADAPTER)
    assert "unexpected" in refused(folder, plain)


def test_no_other_file_is_read_than_those_of_the_folder(folder: Path, plain: nn.Module) -> None:
    """The metadata says where full weights are; it says no path."""
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    tensors = load_file(folder / ADAPTER)
    for place in (str(outside), "../outside.safetensors"):
        save_file(tensors, folder / ADAPTER, {"format": "pt", "base_weights": place})
        assert "model.safetensors can't be read" in refused(folder, plain)


@pytest.mark.parametrize("name", [CONFIG, ADAPTER, "model.safetensors"])
def test_what_is_no_file_is_not_waited_for(folder: Path, plain: nn.Module, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, plain)


def test_a_configuration_of_gigabytes_is_not_read(folder: Path, plain: nn.Module) -> None:
    sparse(folder / CONFIG, 2**36)
    refused(folder, plain)
