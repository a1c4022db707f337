"""Our kernels in encoders of transformers: what PEFT computes, from less that is kept."""

import pytest
import torch

from bench.common.errors import InputError
from bench.engines import transformers
from bench.engines.engine import engine_of
from bench.worker.probes.memory import SavedTensors
from tests.bench.engines.test_transformers import logits_of
from tests.encoders import KINDS, job
from tests.minbert.kernels.test_fast_path import Names, force_gpu


def build(encoders, kind, mode, **changes):
    a_job = job(encoders(kind), mode, "all-lin-only", **changes)
    return engine_of(a_job.cell).build(a_job).train()


@pytest.mark.parametrize("kind", [*KINDS, "roformer"])
def test_they_agree_with_peft_in_every_architecture(encoders, kind):
    options = {"use_rslora": "on"}, {"lora_fa": "on"}, {"lora_dropout": 0.1}
    for mode, more in zip(("lora", "lora", "dora"), options, strict=True):
        transformers.check_own_kernels(job(encoders(kind), mode, "all-lin-only", **more))
        theirs, ours = (build(encoders, kind, mode, own_kernels=s, **more) for s in ("off", "on"))
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert any(hasattr(module, "own") for module in ours.modules())
        trained = [name for name, p in ours.named_parameters() if p.requires_grad]
        assert any(".lora_A." in name for name in trained) is ("lora_fa" not in more)


@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_on_a_gpu_they_agree_with_peft_too(encoders, mode, monkeypatch):
    force_gpu(monkeypatch)
    with Names() as names:
        transformers.check_own_kernels(
            job(encoders("bert"), mode, "all-lin-only", rank=3, use_rslora="on")
        )
    assert "_linear_pointwise" not in names.calls, "oneDNN is for the CPU"


@pytest.mark.parametrize("pad", [0, 800])
def test_the_check_takes_any_id_of_padding(encoders, pad):
    folder = encoders("modernbert", pad_token_id=pad)
    transformers.check_own_kernels(job(folder, "lora", "all-lin-only"))


@pytest.mark.parametrize("mode", ["lora", "dora"])
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_steps_keep_less_and_give_the_same(encoders, mode, amp):
    ids = torch.randint(10, 200, (16, 60), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids).tril(50)
    for kind in ("bert", "modernbert"):
        kept, logits = {}, {}
        for switch in ("off", "on"):
            model = build(encoders, kind, mode, own_kernels=switch, dropout=0.1)
            saved = SavedTensors(model)
            with torch.autocast("cpu", torch.bfloat16, enabled=amp != "off"):
                with saved.counting():
                    loss = model(ids, mask).square().sum()
                loss.backward()
                kept[switch] = saved.mib
                with torch.no_grad():
                    logits[switch] = model.eval()(ids, mask).float()
        assert kept["on"] < 0.8 * kept["off"], kind
        rounding = 1e-5 if amp == "off" else 3e-2
        torch.testing.assert_close(logits["on"], logits["off"], rtol=rounding, atol=rounding)


def test_lora_fa_keeps_three_quarters_of_lora_at_128_tokens(encoders):
    """With `minilm`'s layers and no dropout, for which torch's attention keeps its weights."""
    ids, kept = torch.randint(10, 200, (4, 128)), []
    folder = encoders("bert", hidden_size=384, intermediate_size=1536, num_attention_heads=12)
    for lora_fa in ("off", "on"):
        a_job = job(folder, "lora", "all-lin-only", lora_fa=lora_fa, dropout=0.0)
        saved = SavedTensors(model := engine_of(a_job.cell).build(a_job).train())
        with saved.counting():
            model(ids, torch.ones_like(ids))
        kept.append(saved.mib)
    assert kept[1] <= 0.75 * kept[0]


def test_padding_that_sees_no_token_in_its_window_makes_no_nan(encoders):
    """Of ModernBERT's local attention, beyond the window behind the last token."""
    ids = torch.randint(10, 200, (2, 60), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(60)[None] < torch.tensor([[5], [60]])).long()
    theirs, ours = (build(encoders, "modernbert", "lora", own_kernels=s) for s in ("off", "on"))
    logits = ours(ids, mask)
    torch.testing.assert_close(logits, theirs(ids, mask), rtol=1e-5, atol=1e-5)
    logits.sum().backward()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("what", ["scale", "norm"])
def test_a_kernel_that_differs_is_refused_before_the_first_cell(encoders, monkeypatch, what):
    from bench.engines import own_kernels

    if what == "scale":
        wrong = property(lambda layer: layer.layer.lora_B["default"].weight[None] * 1.01)
        monkeypatch.setattr(own_kernels._Lora, "lora_B", wrong)
    else:
        monkeypatch.setattr(own_kernels._LayerNorm, "forward", lambda _norm, x: x * 1.001)
    with pytest.raises(InputError, match=r"^own_kernels: \S+ differs from PEFT's by "):
        transformers.check_own_kernels(job(encoders("bert"), "lora", "all-lin-only"))


def test_what_peft_does_besides_training_stays_its_own(encoders):
    model = build(encoders, "bert", "lora", own_kernels="on").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
        adapted = logits_of(model)
        peft_model = vars(model)["peft_model"]
        with peft_model.disable_adapter():
            plain = logits_of(model)
        peft_model.merge_adapter()
        torch.testing.assert_close(logits_of(model), adapted)
        assert not torch.allclose(plain, adapted)
