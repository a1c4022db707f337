"""Kernels on fake GPU tensors are those of a GPU, and so is what formulae say of an absent GPU."""

from dataclasses import replace

import pytest
import torch

from adapters.names import LAYER_SETS
from bench.forecast.fake import count
from bench.forecast.trace import trace
from minbert.kernels.reference import KERNELS
from minbert.model.classifier import BertClassifier
from minbert.model.config import GEOMETRIES
from tests.bench.forecast.test_costs import job_of
from tests.bench.workloads import ONE, variant, workload
from tests.encoders import need_transformers
from tests.gpu.fake.gpu import Watch, batch_of, faked, model_of, trainer_of
from tests.gpu.kernels import count_ours, count_theirs

TWO = replace(GEOMETRIES["bert-base"], num_hidden_layers=2)

CLIP = [
    *("_foreach_norm.Scalar", "stack.default", "linalg_vector_norm.default", "add.Tensor"),
    *("reciprocal.default", "mul.Tensor", "clamp.default", "_foreach_mul_.Tensor"),
]
ADAMW = ["_foreach_add_.Scalar", "_fused_adamw_.default"]


def names_of_a_step(amp):
    """The operators of a step, without the namespace and views."""
    model = model_of("full", amp=amp)
    with faked(model):
        trainer = trainer_of(model, amp)
        with Watch() as watch:
            trainer.step(batch_of())
    return [name.removeprefix("aten.") for name in watch.names if "detach" not in name]


def test_a_step_launches_one_kernel_for_all_parameters_and_torchs_dropout():
    names = names_of_a_step("bf16")
    after = names[names.index(CLIP[0]) :]
    launched = [name for name in after if not name.startswith("zeros")]  # the state's
    assert launched == CLIP + 2 * ADAMW, "the encoder is a group, and the head"
    names = names_of_a_step("fp16")
    assert names.count("_amp_foreach_non_finite_check_and_unscale_.default") == 1
    assert names[-1] == "_amp_update_scale_.default"
    of_groups = [names.count(name) for name in (*ADAMW, "_foreach_sub_.List")]
    assert of_groups == [2, 2, 2], "AdamW skips a step by itself, and counts it back"
    names = names_of_a_step("off")
    # after embeddings, attention and the wide layer, and before the classifier; not attention's own
    assert names.count("native_dropout.default") == 4
    assert names.count("native_dropout_backward.default") == 4


@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_a_mask_is_converted_once_for_all_layers(amp):
    model = model_of("full", amp=amp, model=BertClassifier(TWO, 3, pooling="mean", dropout=0.1))
    with faked(model), Watch() as watch:
        trainer_of(model, amp).step(batch_of())
    attention = "aten._scaled_dot_product_efficient_attention.default"
    assert watch.names.count(attention) == TWO.num_hidden_layers == 2
    assert watch.names.count("aten.masked_fill_.Scalar") == 1
    assert not {"aten.where.self", "aten.constant_pad_nd.default"} & set(watch.names)


@pytest.mark.parametrize(("mode", "layers", "amp", "held"), [
    ("full", None, "off", False), ("head", None, "bf16", False),
    ("lora", "attn-only", "fp16", False), ("lora", "all-lin-only", "off", False),
    ("dora", "attn", "bf16", True), ("dora", "all-lin", "off", False),
    ("dora", "all-lin", "fp16", False),
])  # fmt: skip
def test_a_step_needs_at_most_what_plain_torch_needs(mode, layers, amp, held):
    """Of kernels, bytes moved and memory, with bert-base's widths, for 64 texts of 21 tokens.
    Ours holds the mask as a bias of rows of 24 numbers while the model runs."""
    bias_mib = 64 * 24 * (4 if amp == "off" else 2) / 2**20
    ours, plain = (count_ours(mode, layers, amp, name, TWO, held=held) for name in KERNELS)
    assert ours.kernels < plain.kernels
    assert ours.moved_mib <= plain.moved_mib
    assert ours.peak_mib <= plain.peak_mib + bias_mib


SIZES = {
    "bert": {"num_hidden_layers": 1, "intermediate_size": 3072},
    "modernbert": {  # a layer with global attention and one with local
        "num_hidden_layers": 2, "intermediate_size": 1152, "global_attn_every_n_layers": 2,
        "pad_token_id": 0,
    },
}  # fmt: skip


def save_config(kind, folder):
    """A folder with the configuration of an encoder of width 768 and few layers."""
    from transformers import AutoConfig

    AutoConfig.for_model(
        kind, hidden_size=768, num_attention_heads=12, vocab_size=30_522, **SIZES[kind]
    ).save_pretrained(folder / kind)
    return folder / kind


@pytest.mark.parametrize(("mode", "rs"), [("lora", "on"), ("dora", "off")])
@pytest.mark.parametrize("kind", SIZES)
def test_our_kernels_in_engine_transformers_need_less_than_pefts_layers(kind, mode, rs, tmp_path):
    """Of kernels and bytes moved, for every mode and layer set in one of the encoders, and every
    layer set in both precisions. Not of memory: in fp32 LoRA keeps its merged weights until the
    backward pass, which are more than what PEFT's layers keep of texts as short as these."""
    need_transformers()
    folder = save_config(kind, tmp_path)
    first = ((kind == "bert") + (mode == "dora")) % 2
    precisions = ("off", "bf16") if mode == "lora" else ("bf16", "off")
    for amp, layers in zip(precisions, LAYER_SETS[first::2], strict=True):
        theirs, ours = (
            count_theirs(mode, layers, amp, 21, folder, use_rslora=rs, own_kernels=own)
            for own in ("off", "on")
        )
        assert ours.kernels < theirs.kernels, layers
        assert ours.moved_mib < theirs.moved_mib, layers


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("branch", [{"lora_dropout": 0.1}, {"lora_fa": "on"}])
@pytest.mark.parametrize("mode", ["lora", "dora"])
def test_a_side_branch_is_pefts_on_a_gpu_unless_ours_saves_bytes(mode, branch, amp, tmp_path):
    """It takes more of the host's time than PEFT's."""
    need_transformers()
    from bench.engines.own_kernels import SAVED

    folder = save_config("bert", tmp_path)
    theirs, ours, chosen = (
        count_theirs(
            mode, "all-lin-only", amp, 21, folder, device=device, own_kernels=own, **branch
        )
        for own, device in (("off", "cuda:0"), ("on", "cpu"), ("on", "cuda:0"))
    )
    saves = theirs.moved_mib >= SAVED * ours.moved_mib
    assert chosen == (ours if saves else theirs) != (theirs if saves else ours)


def test_a_cell_on_a_gpu_owns_what_it_does_on_a_cpu():
    which = variant("lora", 2, "attn-only", amp="fp16")
    [on_gpu], [on_cpu] = (
        count(workload(device=device), ONE, which)[""] for device in ("cuda:0", "cpu")
    )
    for name in ("weights_mib", "optimizer_mib"):
        assert getattr(on_gpu, name) == getattr(on_cpu, name) > 0
    assert on_gpu.step.gflop == pytest.approx(on_cpu.step.gflop, rel=0.2)
    assert on_gpu.step.kernels > 0


@pytest.mark.parametrize("which", [
    variant("full"), variant("head", amp="bf16"), variant("dora", 8, "all-lin-only", "bf16"),
])  # fmt: skip
def test_memory_is_that_on_fake_tensors_of_a_gpu(which, monkeypatch):
    job = job_of(which, device="cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stood_in = trace(job)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    faked = trace(job)
    for batch, length in ((8, 512), (64, 128)):
        expected = sum(faked.tensors_mib(batch, length))
        assert sum(stood_in.tensors_mib(batch, length)) == pytest.approx(expected, rel=0.01)
