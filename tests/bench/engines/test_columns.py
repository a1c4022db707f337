"""The columns of cells of engine transformers."""

import json
from types import SimpleNamespace

from bench.engines import transformers as engine
from bench.plan import gridfile
from bench.plan.adapter_configs import read_adapter_configs
from bench.plan.cell import MINBERT, TRANSFORMERS
from bench.plan.planning import Resolved, expand
from tests.encoders import job

GRID = """
[[cells]]
mode = ["lora"]
rank = [4]
layers = ["attn-only"]
settings = {engine = "transformers", attn_implementation = "eager", init_lora_weights = "pissa"}
[[cells]]
mode = ["peft"]
adapter_config = ["loha.json", "other.json"]
settings = {engine = "transformers"}
[[cells]]
mode = ["lora"]
rank = [4]
layers = ["attn-only"]
"""


def test_settings_of_the_engine_are_those_of_the_grid_file(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    config = {"peft_type": "LOHA", "r": 4, "target_modules": ["query"]}
    (tmp_path / "loha.json").write_text(json.dumps({**config, "inference_mode": True}))
    (tmp_path / "other.json").write_text(json.dumps({**config, "r": 8}))
    grid = gridfile.load(str(tmp_path / "grid.toml"))
    names, texts = read_adapter_configs(grid)
    resolved = Resolved(
        "minilm", "m", "mean", "d", "bf16", "grid",
        engine_version="transformers 5, peft 1", attention="sdpa", adapters=names,
    )  # fmt: skip
    cells = expand(grid, resolved)
    by_mode = {(cell.mode, cell.engine): cell for cell in cells}
    lora = by_mode["lora", TRANSFORMERS]
    assert (lora.engine_version, lora.attn_implementation) == ("transformers 5, peft 1", "eager")
    assert (lora.init_lora_weights, lora.kernels) == ("pissa", None)
    ours = by_mode["lora", MINBERT]
    assert (ours.engine_version, ours.attn_implementation, ours.adapter) == (None, None, None)
    assert ours.init_lora_weights == "default"
    names = {cell.adapter for cell in cells if cell.mode == "peft"}
    assert len(names) == 2
    assert all(str(name).startswith("loha ") for name in names)
    assert {json.loads(texts[str(name)])["r"] for name in names} == {4, 8}
    assert by_mode["peft", TRANSFORMERS].attn_implementation == "sdpa"


def test_the_first_values_of_adapters_are_timed(encoders, monkeypatch):
    times = iter([10.0, 12.5])
    monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=times.__next__))
    model = engine.build(job(encoders("roberta"), "lora", "attn-only", init_lora_weights="pissa"))
    assert {"adapter_init_s": model.adapter_init_s} == {"adapter_init_s": 2.5}
    assert engine.build(job(encoders("roberta"), "full")).adapter_init_s is None
