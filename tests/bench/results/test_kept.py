"""Whose trained weights are kept, and how many of them."""

import pytest

from bench.common.errors import InputError
from bench.engines.engine import engine_of
from bench.plan.architectures import read_sizes
from bench.plan.cell import CANDIDATE
from bench.results import kept
from bench.results.kept import KeptWeights, keeps_by_default, largest_weights
from minbert.model.config import GEOMETRIES
from tests import encoders
from tests.bench.synthetic_rows import cell


def of(mode, layers=None, **changes):
    return cell(mode, 8 if layers else None, layers, "off", **changes)


@pytest.mark.parametrize(("which", "expected"), [
    (of("full"), False), (of("head"), True), (of("lora", "attn"), False),
    (of("lora", "attn-only"), True), (of("dora", "all-lin-only"), True),
    (of("dora", "all-lin-only", init="random"), False),
    (of("head", learning_rate_source=CANDIDATE), False),
])  # fmt: skip
def test_small_weights_of_models_that_have_learned_are_kept(tmp_path, which, expected):
    assert keeps_by_default(which) is expected
    assert KeptWeights(tmp_path / "runs.csv", every=False).keeps(which) is expected
    assert KeptWeights(tmp_path / "runs.csv", every=True).keeps(which)
    is_small = "-only" in str(which.layers) or which.mode == "head"
    assert (largest_weights(which, GEOMETRIES["minilm"]) < 5 * 2**20) == is_small


@pytest.mark.parametrize("kind", ["albert", "deberta-v2", "electra", "modernbert"])
def test_bounds_hold_for_engine_transformers(tmp_path, kind):
    encoders.need_transformers()
    folder = encoders.Checkpoints(tmp_path)(kind)
    modules = '["query", "value", "query_proj", "Wqkv", "Wi"]'
    loha = f'{{"peft_type": "LOHA", "r": 8, "target_modules": {modules}}}'
    for mode, layers in (("full", None), ("bitfit", None), ("dora", "all-lin-only"),
                         ("ia3", "all-lin"), ("vera", "attn-only"), ("peft", None)):  # fmt: skip
        job = encoders.job(folder, mode, layers, adapter_config=loha)
        try:
            model = engine_of(job.cell).build(job)
        except InputError:  # ModernBERT has no biases
            assert (kind, mode) == ("modernbert", "bitfit")
            continue
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert 4 * trained < largest_weights(job.cell, read_sizes(folder)), mode


def keep(folder, size):
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(size))
    return folder


def test_weights_are_kept_up_to_a_cap(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "CAP", 100)
    small, large = of("head"), of("full")
    keep(tmp_path / "runs" / "before", 40)
    for again in kept.AGAIN:  # those of exports don't count
        keep(tmp_path / "runs" / f"{again}1234", 1000)
    (tmp_path / "runs" / "plan.json").write_bytes(bytes(1000))
    weights = KeptWeights(tmp_path / "runs.csv", every=False)
    (tmp_path / "runs" / "none").mkdir()
    weights.add(tmp_path / "runs" / "none")
    weights.add(keep(tmp_path / "runs" / "first", 59))
    assert weights.keeps(small)
    assert weights.note(small) is None
    weights.add(keep(tmp_path / "runs" / "second", 1))
    assert not weights.keeps(small)
    assert weights.note(large) is None
    note = weights.note(small)
    assert note.startswith("from head-fp32-s0 on no weights are kept: those in ")
    assert "delete weights.safetensors files there, or keep all with --save-weights" in note
    assert weights.note(small) is None, "once"
    assert KeptWeights(tmp_path / "runs.csv", every=True).keeps(small)
    assert KeptWeights(tmp_path / "other.csv", every=False).keeps(small)
