"""Engine minbert runs the encoders that are like BERT as transformers does, and saves them so that
it loads them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F  # noqa: N812

from adapters.peft_format import save_adapter
from bench.common.errors import InputError
from bench.engines.engine import engine_of
from bench.examples.tokenizers import tokenizer_of
from bench.export.formats.contents import write_tokenizer
from bench.plan.models import find_model
from minbert.data.tokenizer import Tokenizer
from minbert.model.checkpoint import load_encoder, save_checkpoint
from minbert.model.families import FAMILIES
from minbert.model.heads import ClassificationHead
from tests.encoders import job

OTHERS = [name for name in FAMILIES if name != "bert"]
POSITIONS = {"max_position_embeddings": 130, "type_vocab_size": 1}


def checkpoint(encoders, kind, **changes):
    positions = POSITIONS if FAMILIES[kind].first_position else {}
    return encoders(kind, head="SequenceClassification", **positions, **changes)


def by(engine, a_job):
    """The model of a job of engine transformers, by an engine."""
    ours = {
        "engine": "minbert", "engine_version": None, "kernels": "fast", "attn_implementation": None,
        "own_kernels": None,
    }  # fmt: skip
    cell = replace(a_job.cell, **ours) if engine == "minbert" else a_job.cell
    return engine_of(cell).build(replace(a_job, cell=cell)).train()


def batch(pad):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 400, (8, 20), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 9:] = mask[1, 15:] = 0
    types = torch.zeros_like(ids)
    types[:, 5:] = 1
    labels = torch.randint(0, 5, (8,), generator=generator)
    return ids.masked_fill(mask == 0, pad), mask, types, labels


@pytest.mark.parametrize("kind", FAMILIES)
def test_logits_and_losses_are_those_of_transformers(encoders, kind):
    """In every pooling; 1e-5 at first, and 1e-4 in 50 steps without dropout."""
    settings = [("pooler", "lora", "attn-only"), ("cls", "dora", "all-lin"), ("mean", "full", None)]
    for pooling, mode, layers in settings:
        a_job = job(checkpoint(encoders, kind), mode, layers, pooling=pooling)
        models = [by(engine, a_job) for engine in ("transformers", "minbert")]
        ids, mask, types, labels = batch(models[0].pad_id)
        losses = []
        for model in models:
            trained = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, 1e-3)
            with torch.no_grad():
                losses.append([model(ids, mask, types)])
            for _ in range(50):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(ids, mask, types), labels)
                loss.backward()
                optimizer.step()
                losses[-1].append(loss.detach())
        (first, *theirs), (ours_first, *ours) = losses
        torch.testing.assert_close(ours_first, first, rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=0, atol=1e-4)
        assert theirs[-1] < theirs[0] / 2


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_saved_weights_load_in_transformers_and_here(encoders, tmp_path, kind, pooling):
    import transformers

    source = checkpoint(encoders, kind)
    a_job = job(source, "full", pooling=pooling)
    model = by("minbert", a_job).eval()
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
        again = by("minbert", a_job).eval()
        assert not load_encoder(again.bert, tmp_path)
        again.classifier.load_state_dict(model.classifier.state_dict())
        assert torch.equal(again(ids, mask, types), logits)


@pytest.mark.parametrize("kind", OTHERS)
def test_adapters_load_in_peft(encoders, tmp_path, kind):
    import peft
    import transformers

    source = checkpoint(encoders, kind)
    model = by("minbert", job(source, "lora", "all-lin-only")).eval()
    ids, mask, types, _ = batch(model.pad_id)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or name.startswith("classifier."):
                parameter.add_(0.03 * torch.randn(parameter.shape))
        logits = model(ids, mask, types)
    save_adapter(model, tmp_path)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=5, ignore_mismatched_sizes=True
    )
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    given = {"token_type_ids": types} if model.takes_types else {}
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids, mask, **given).logits, logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("roberta", {"is_decoder": True}, "is_decoder True is not supported"),
        ("roberta", {"add_cross_attention": True, "is_decoder": True}, "is_decoder True"),
        ("electra", {"hidden_act": "silu"}, "hidden_act 'silu' is not supported"),
        ("distilbert", {"activation": "silu"}, "hidden_act 'silu' is not supported"),
    ],
)
def test_what_only_transformers_has_is_left_to_it(encoders, kind, changes, reason):
    model = find_model(str(checkpoint(encoders, kind, **changes)), "pretrained", "auto")
    assert reason in model.why_not_minbert
    assert model.config.max_position_embeddings == 128
    other = find_model(str(checkpoint(encoders, kind)), "pretrained", "auto")
    assert other.why_not_minbert == ""
    assert other.config.max_position_embeddings == 128


def test_weights_that_the_table_of_names_lacks_are_never_loaded_in_part(encoders, tmp_path):
    from safetensors.torch import save_file

    source = checkpoint(encoders, "distilbert")
    tensors = load_file(source / "model.safetensors")
    name = "distilbert.transformer.layer.0.attention.q_lin.weight"
    tensors[name.replace("q_lin", "query")] = tensors.pop(name)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    model = by("minbert", job(source, "head"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"missing: \S+q_lin.weight; unexpected: "):
        load_encoder(model.bert, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_nonlinear_head_needs_another_pooling_where_the_own_head_is_not_berts(encoders):
    a_job = job(checkpoint(encoders, "roberta"), "head", head="nonlinear")
    with pytest.raises(InputError, match="roberta has it with pooling cls or mean"):
        by("minbert", a_job)
    assert isinstance(
        by("minbert", job(checkpoint(encoders, "roberta"), "head")).classifier, ClassificationHead
    )


@pytest.mark.parametrize(("kind", "inputs"), [("bert", 3), ("distilbert", 2)])
def test_an_exported_tokenizer_gives_what_the_model_takes(encoders, tmp_path, kind, inputs):
    import transformers

    source = checkpoint(encoders, kind)
    a_job = job(source, "head")
    tokenizer = tokenizer_of("minbert", source)
    assert isinstance(tokenizer, Tokenizer)
    model = by("minbert", a_job)
    write_tokenizer(SimpleNamespace(tokenizer=tokenizer, model=model, job=a_job), tmp_path)
    save_checkpoint(model, tmp_path)
    given = transformers.AutoTokenizer.from_pretrained(tmp_path)(["a film"], return_tensors="pt")
    assert len(given) == inputs
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)(**given)
