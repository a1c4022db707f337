"""Encoders besides BERT against transformers + PEFT: gates on ratios within this run."""

import pytest

from tests.experiments.encoder_steps import measure
from tests.minbert.peers import transformers

TIME = {"roberta": 0.8, "distilbert": 0.8, "deberta-v2": 0.95, "modernbert": 0.95}
"""The most that a step of LoRA in bf16 may take, in the time of transformers + PEFT."""
KEPT = {"roberta": 0.45, "distilbert": 0.45, "deberta-v2": 0.95, "modernbert": 0.75}
"""Likewise of what its forward pass keeps."""


@pytest.mark.parametrize("kind", TIME)
def test_steps_against_peft(benchmark, kind):
    transformers()
    benchmark.group = "encoders"
    result = benchmark.pedantic(measure, args=(kind, "lora", "bf16", 3, 2), rounds=1, iterations=1)
    ratio, low, _ = result["time"]
    benchmark.extra_info.update(time=ratio, low=low, kept=result["kept"])
    assert low <= TIME[kind]
    assert result["kept"] <= KEPT[kind]
