"""Kernels counted on fake GPU tensors are those that a GPU launches."""

import pytest

from bench.forecast.fake import count
from tests.bench.workloads import ONE, variant, workload
from tests.gpu.fake.gpu import Watch
from tests.gpu.fake.models import batch_of, faked, model_of, trainer_of

CLIP = [
    *("_foreach_norm.Scalar", "stack.default", "linalg_vector_norm.default", "add.Tensor"),
    *("reciprocal.default", "mul.Tensor", "clamp.default", "_foreach_mul_.Tensor"),
]
ADAMW = ["_foreach_add_.Scalar", "_fused_adamw_.default"]


def names_of_a_step(amp: str, mode: str = "full") -> list[str]:
    """The operators of a step, without the namespace and views."""
    model = model_of(mode, amp=amp)
    with faked(model):
        trainer = trainer_of(model, amp)
        with Watch() as watch:
            trainer.step(batch_of())
    return [name.removeprefix("aten.") for name in watch.names if "detach" not in name]


def test_clipping_and_adamw_are_launched_once_for_all_parameters() -> None:
    names = names_of_a_step("bf16")
    after = names[names.index(CLIP[0]) :]
    launched = [name for name in after if not name.startswith("zeros")]  # the state's
    assert launched == CLIP + 2 * ADAMW, "the encoder is a group, and the head"


def test_a_scaler_looks_at_all_gradients_at_once() -> None:
    names = names_of_a_step("fp16")
    assert names.count("_amp_foreach_non_finite_check_and_unscale_.default") == 1
    assert names[-1] == "_amp_update_scale_.default"
    of_groups = [names.count(name) for name in (*ADAMW, "_foreach_sub_.List")]
    assert of_groups == [2, 2, 2], "AdamW skips a step by itself, and counts it back"


def test_masks_of_dropout_are_drawn() -> None:
    names = names_of_a_step("off")
    # after embeddings, attention and the wide layer, and before the classifier; attention's own is
    # its kernel's
    assert names.count("rand_like.default") == names.count("ge.Scalar") == 4


def test_a_cell_on_a_gpu_owns_what_it_does_on_a_cpu() -> None:
    which = variant("lora", 2, "attn-only", amp="fp16")
    [on_gpu], [on_cpu] = (
        count(workload(device=device), ONE, which)[""] for device in ("cuda:0", "cpu")
    )
    for name in ("weights_mib", "optimizer_mib"):
        assert getattr(on_gpu, name) == getattr(on_cpu, name) > 0
    assert on_gpu.step.gflop == pytest.approx(on_cpu.step.gflop, rel=0.2)
    assert on_gpu.step.kernels > 0
