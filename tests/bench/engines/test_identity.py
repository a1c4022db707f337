"""A file added to a checkpoint changes its digest, or nothing that is loaded."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.engines import transformers as engine
from minbert.errors import InputError
from minbert.files import model_digest
from tests.encoders import job


def names_that_are_looked_for(folder, monkeypatch):
    seen, real = set(), os.stat

    def noted(path, *given, **options):
        if isinstance(path, str | os.PathLike) and Path(path).parent == folder:
            seen.add(Path(path).name)
        return real(path, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", noted)
        engine.build(job(folder, "full"))
    return seen


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_more_changes_the_digest_or_no_tensor(encoders, tmp_path, monkeypatch, weights):
    folder = encoders("roberta", pickled=weights != "model.safetensors").resolve()
    tensors = load_file(encoders("roberta") / "model.safetensors")
    loaded, digest = engine.build(job(folder, "full")).state_dict(), model_digest(folder)
    names = names_that_are_looked_for(folder, monkeypatch)
    assert {"adapter_config.json", weights} <= names
    names |= {"model.safetensors.index.json", "pytorch_model.bin.index.json", "modeling.py"}
    others = {name: torch.rand_like(tensor) for name, tensor in tensors.items()}
    shard = "shard.safetensors"
    index = {"metadata": {}, "weight_map": dict.fromkeys(others, shard)}
    outcomes = set()
    for name in sorted(names - {path.name for path in folder.iterdir()}):
        changed = tmp_path / "changed"
        shutil.copytree(folder, changed)
        save_file(others, changed / shard, {"format": "pt"})
        save_file(others, changed / "adapter_model.safetensors", {"format": "pt"})
        match name.partition(".")[2]:
            case "safetensors":
                save_file(others, changed / name, {"format": "pt"})
            case "bin":
                torch.save(others, changed / name)
            case "py":
                (changed / name).write_text("raise SystemExit")
            case _:
                adapter = {"peft_type": "LORA", "target_modules": ["query"], "vocab_size": 9}
                (changed / name).write_text(json.dumps(index | adapter))
        try:
            if model_digest(changed) != digest:
                outcomes.add("digest")
            else:
                now = engine.build(job(changed, "full")).state_dict()
                assert all(torch.equal(now[key], loaded[key]) for key in loaded), name
                outcomes.add("equal")
        except InputError:
            outcomes.add("refused")
        shutil.rmtree(changed)
    assert {"equal", "refused"} <= outcomes
