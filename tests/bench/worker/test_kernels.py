"""The setting kernels: a cell that is computed in torch's own operators."""

from dataclasses import replace

import pytest
import torch

from minbert.kernels.reference import is_reference, kernels
from tests.bench.tiny_cells import cell, ended, job_of


@pytest.mark.parametrize(
    ("mode", "layers", "amp"),
    [("dora", "all-lin", "off"), ("full", "", "bf16"), ("lora", "attn", "bf16")],
)
def test_a_cell_learns_the_same_on_both(tiny_checkpoint, tmp_path, mode, layers, amp):
    of = cell(tiny_checkpoint, mode, layers or "attn", amp=amp, dropout=0.0)
    runs = []
    for name in ("fast", "reference"):
        job = job_of(replace(of, kernels=name), tiny_checkpoint)
        runs.append(ended(job, tmp_path / name))
        assert not is_reference(), "what was entered is left"
    fast, reference = (torch.stack(run.losses) for run in runs)
    near = {"rtol": 1e-4, "atol": 1e-5} if amp == "off" else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(fast, reference, **near)
    assert amp == "off" or not torch.equal(fast, reference)
    kept = [run.columns["activations_mib"] for run in runs]
    assert kept[1] > 1.2 * kept[0], "autograd keeps more than the kernels do"


def test_there_are_no_other_kernels():
    with pytest.raises(ValueError, match="'odd'; there are fast, reference"), kernels("odd"):
        pass
