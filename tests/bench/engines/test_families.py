"""Engine minbert runs encoders as transformers does; what either engine saves is loaded again."""

from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adapters.peft_format import save_adapter
from bench.common.errors import InputError
from bench.engines.engine import engine_of
from bench.examples.tokens import tokenizer_of
from bench.export.formats.contents import write_tokenizer
from bench.plan.models import find_model
from bench.worker.probes.products import required
from bench.worker.saving import save_weights
from bench.worker.weights import load_trained
from minbert.data.batches import Batch
from minbert.data.tokenizer import Tokenizer
from minbert.model.checkpoint import load_encoder, save_checkpoint
from minbert.model.config import FAMILIES
from minbert.model.heads import ClassificationHead
from tests.encoders import KINDS, job
from tests.experiments import encoders_table as table
from tests.experiments.encoders_table import logits_of, losses_of, ours

OTHERS = [name for name in FAMILIES if name != "bert"]
POSITIONS = {"max_position_embeddings": 130, "type_vocab_size": 1}

CASES = [
    *(("bert", *each, {}) for each in (
        ("full", None, {}), ("full", None, {"pooling": "mean"}), ("head", None, {}),
        ("head", None, {"pooling": "mean"}), ("bitfit", None, {}),
        ("lora", "attn", {"use_rslora": "on"}), ("lora", "all-lin", {}), ("lora", "dense", {}),
        ("lora", "query+attention.output.dense", {"pooling": "cls"}),
        ("dora", "attn-only", {"pooling": "mean"}),
    )),
    ("bert", "dora", "all-lin-only", {}, {"head": "MaskedLM"}),  # without a pooler
    *((kind, *each, {}) for number, kind in enumerate(OTHERS) for each in (
        ("lora", "attn-only", {"pooling": ("cls", "mean")[number % 2]}), ("dora", "all-lin", {}),
    )),
]  # fmt: skip


def checkpoint(encoders, kind, **changes):
    positions = POSITIONS if FAMILIES[kind].first_position else {}
    return encoders(kind, **{"head": "SequenceClassification"} | positions | changes)


def by_minbert(a_job):
    return engine_of(ours(a_job).cell).build(ours(a_job)).train()


def batch(pad):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 400, (8, 20), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 9:] = mask[1, 15:] = 0
    types = torch.zeros_like(ids)
    types[:, 5:] = 1
    labels = torch.randint(0, 5, (8,), generator=generator)
    return ids.masked_fill(mask == 0, pad), mask, types, labels


@pytest.mark.parametrize(("kind", "mode", "layers", "changes", "saved"), CASES, ids=str)
def test_both_engines_agree(encoders, kind, mode, layers, changes, saved):
    """In first logits, 12 losses without dropout, and the products of a step."""
    settings = {"seed": 3, **changes}  # in whose order of examples 12 losses fall in every case
    theirs = job(checkpoint(encoders, kind, **saved), mode, layers, **settings)
    sides = (theirs, ours(theirs))
    models = [engine_of(side.cell).build(side).train() for side in sides]
    one, other = (sum(p.numel() for p in m.parameters() if p.requires_grad) for m in models)
    assert one == other
    given = batch(models[0].pad_id)
    with torch.no_grad():
        first = [model(*given[:3]) for model in models]
    torch.testing.assert_close(*first, rtol=0, atol=1e-5)
    if kind == "bert":
        whole = Batch(*given, int(given[1].sum()))
        one, other = (required(model, [whole], "off", torch.device("cpu")) for model in models)
        assert one == other
    losses = [losses_of(side, 12) for side in sides]
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-5 if kind == "bert" else 1e-4)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_saved_weights_load_in_transformers_and_here(encoders, tmp_path, kind, pooling):
    import transformers

    source = checkpoint(encoders, kind)
    a_job = job(source, "full", pooling=pooling)
    model = by_minbert(a_job).eval()
    ids, mask, types, _ = batch(model.pad_id)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
        logits = model(ids, mask, types)
    save_checkpoint(model, tmp_path)
    kinds = (transformers.AutoModel, transformers.AutoModelForSequenceClassification)
    theirs = kinds[pooling == "pooler"].from_pretrained(tmp_path).eval()
    given = {"token_type_ids": types} if model.takes_types else {}
    with torch.no_grad():
        output = theirs(ids, mask, **given)
        if pooling == "pooler":
            torch.testing.assert_close(output.logits, logits, rtol=0, atol=1e-5)
        again = by_minbert(a_job).eval()
        assert not load_encoder(again.bert, tmp_path)
        again.classifier.load_state_dict(model.classifier.state_dict())
        assert torch.equal(again(ids, mask, types), logits)
    tokenizer = tokenizer_of("minbert", source)
    if isinstance(tokenizer, Tokenizer):  # which an export writes anew
        write_tokenizer(SimpleNamespace(tokenizer=tokenizer, model=model, job=a_job), tmp_path)
        text = transformers.AutoTokenizer.from_pretrained(tmp_path)(["a film"], return_tensors="pt")
        assert len(text) == 2 + model.takes_types
        theirs(**text)


@pytest.mark.parametrize("kind", OTHERS)
def test_adapters_load_in_peft(encoders, tmp_path, kind):
    import peft
    import transformers

    source = checkpoint(encoders, kind)
    model = by_minbert(job(source, "lora", "all-lin-only")).eval()
    ids, mask, types, _ = batch(model.pad_id)
    given = {"token_type_ids": types} if model.takes_types else {}
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=5, ignore_mismatched_sizes=True
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or name.startswith("classifier."):
                parameter.add_(0.03 * torch.randn(parameter.shape))
        save_adapter(model, tmp_path)
        theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()(ids, mask, **given).logits
        torch.testing.assert_close(theirs, model(ids, mask, types), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "changes", "reason"), [
    ("roberta", {"is_decoder": True}, "is_decoder True is not supported"),
    ("distilbert", {"activation": "silu"}, "hidden_act 'silu' is not supported"),
])  # fmt: skip
def test_what_only_transformers_has_is_left_to_it(encoders, kind, changes, reason):
    model = find_model(str(checkpoint(encoders, kind, **changes)), "pretrained", "auto")
    assert reason in model.why_not_minbert
    assert model.config.max_position_embeddings == 128
    other = find_model(str(checkpoint(encoders, kind)), "pretrained", "auto")
    assert other.why_not_minbert == ""
    assert other.config.max_position_embeddings == 128


def test_a_nonlinear_head_needs_another_pooling_where_the_own_head_is_not_berts(encoders):
    folder = checkpoint(encoders, "roberta")
    with pytest.raises(InputError, match="roberta has it with pooling cls or mean"):
        by_minbert(job(folder, "head", head="nonlinear"))
    assert isinstance(by_minbert(job(folder, "head")).classifier, ClassificationHead)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_makes_the_model_again(encoders, kind, tmp_path):
    for setting in table.SETTINGS[KINDS.index(kind) :: len(KINDS)]:
        a_job = setting.job(encoders(kind))
        check_loads(a_job, a_job, 2, tmp_path / setting.label)


def check_loads(a_job, loading, steps, folder):
    """Fail unless the model of a job has the same logits after it is loaded by another."""
    trainer, batches = table.trainer_of(a_job, steps)
    for batch in islice(batches, steps):
        trainer.step(batch)
    dev = table.planted(a_job, 32, 1)
    logits = logits_of(trainer.model, dev)
    folder.mkdir(parents=True)
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    save_weights(trainer.model, trained, folder)
    torch.manual_seed(5)
    loaded = load_trained(loading, folder)
    np.testing.assert_allclose(logits_of(loaded, dev), logits, rtol=0, atol=1e-5)


def test_another_decomposition_changes_nothing(encoders, tmp_path):
    """PiSSA's factors may come out otherwise where the weights are loaded."""
    [a_job] = [s.job(encoders("bert")) for s in table.SETTINGS if "PiSSA attn-only" in s.label]
    other = replace(a_job, cell=replace(a_job.cell, init_lora_weights="olora"))
    check_loads(a_job, other, 10, tmp_path / "cell")
