"""Cells that learn tags of words, in both engines, against plain scripts around transformers."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2
from tokenizers.pre_tokenizers import ByteLevel

from bench.engines.engine import engine_of
from bench.examples import tokens
from bench.plan.cell import MINBERT
from minbert.data.problems import TOKEN_CLASSIFICATION
from minbert.data.tasks import Examples, Task, TaskData
from minbert.data.tasks.prepared import Prepared, write
from minbert.data.words import padded
from tests.bench.tiny_cells import ended
from tests.bench.worker.test_training_settings import Steps
from tests.encoders import KINDS, job

CLASSES = ("O", "B-film", "I-film", "B-person", "I-person")
WORDS = ("a", "good", "film", "about", "nothing", "unforgettable", "actors", "\u200b", ".")


def examples(seed, count):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 14, count)
    texts = [" ".join(rng.choice(WORDS, length)) for length in lengths]
    tags = padded([rng.choice(5, length, p=(0.6, 0.1, 0.1, 0.1, 0.1)) for length in lengths])
    return Examples(tuple(f"good {text}" for text in texts), None, np.insert(tags, 0, 0, axis=1))


TASK = Task("films", CLASSES, problem_name=TOKEN_CLASSIFICATION.name, is_own=True)
DATA = TaskData(TASK, examples(0, 48), examples(1, 20))


@pytest.fixture
def words(tmp_path):
    """The folder of prepared examples."""
    prepared = Prepared("films", TOKEN_CLASSIFICATION.name, CLASSES, DATA.digest)
    return write(tmp_path / "data", prepared, DATA)


def job_on(words, checkpoint, mode="full", layers=None, **changes):
    values = {
        "task": "films", "data_digest": DATA.digest[:16], "batch_size": 8, "max_dev": None,
        **changes,
    }  # fmt: skip
    return replace(job(checkpoint, mode, layers, **values), data=str(words))


def ours(theirs):
    """The same cell in engine minbert."""
    changes = {
        "engine": MINBERT, "engine_version": None, "kernels": "fast", "attn_implementation": None,
        "init_lora_weights": None,
    }  # fmt: skip
    return replace(theirs, cell=replace(theirs.cell, **changes))


def plain_losses(run, checkpoint, texts, labels, first):
    """Losses of full fine-tuning by transformers alone, on the batches of a run."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    cell = run.cell
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, ByteLevel):
        tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    model = AutoModelForTokenClassification.from_pretrained(
        checkpoint, num_labels=len(CLASSES), attn_implementation=cell.attn_implementation
    )
    model.load_state_dict(first)
    for name in vars(model.config):
        if "dropout" in name and isinstance(getattr(model.config, name), float):
            setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    trained = [*model.parameters()]
    decayed, others = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=cell.learning_rate,
    )
    losses = []
    orders = [order for epoch in range(cell.epochs) for order in run._order(epoch)]
    for step, [(_, indices)] in enumerate(orders):
        for group in optimizer.param_groups:
            group["lr"] = cell.learning_rate * run.factor(step)
        batch = tokenizer(
            [texts[i].split(" ") for i in indices], is_split_into_words=True, padding=True,
            truncation=True, max_length=cell.max_length, return_tensors="pt",
        )  # fmt: skip
        wanted = torch.full(batch["input_ids"].shape, -100)
        for row, index in enumerate(indices):
            before = None
            for place, word in enumerate(batch.word_ids(row)):
                if word is not None and word != before:
                    wanted[row, place] = int(labels[index][word])
                before = word
        loss = model(**batch, labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


class Run(Steps):
    """Keeps the first weights and the schedule."""

    def _train(self):
        from minbert.training.schedules import schedule_of

        self.first = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        steps = self._steps_per_epoch
        cell = self.cell
        self.factor = schedule_of(cell.schedule, steps * cell.epochs, cell.warmup, steps)
        return super()._train()


@pytest.mark.parametrize("kind", KINDS)
def test_50_losses_are_those_of_a_plain_script(words, encoders, kind, tmp_path):
    checkpoint = encoders(kind)
    run = ended(job_on(words, checkpoint, epochs=9, max_length=24), tmp_path / "cell", Run)
    losses = [float(loss) for loss in run.losses]
    assert len(losses) == 54
    state = vars(run.model)["model_of_library"].state_dict() | run.first
    train = DATA.train
    expected = plain_losses(run, checkpoint, train.text_a, train.labels, state)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=2e-5)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("kind", "mode", "layers", "changes"),
    [
        ("bert", "full", None, {}), ("bert", "head", None, {"pooling": "mean"}),
        ("bert", "dora", "all-lin-only", {"class_weights": "balanced"}),
        ("roberta", "lora", "attn", {"label_smoothing": 0.1}), ("distilbert", "bitfit", None, {}),
        ("electra", "full", None, {"gradient_accumulation_steps": 2}),
    ],
    ids=str,
)  # fmt: skip
def test_both_engines_agree(words, encoders, kind, mode, layers, changes, tmp_path):
    theirs = job_on(words, encoders(kind), mode, layers, epochs=4, **changes)
    kept = []
    for name, side in (("theirs", theirs), ("ours", ours(theirs))):
        kept.append(ended(side, tmp_path / name))
    for one, other in zip(kept[0].losses, kept[1].losses, strict=True):
        assert float(one) == pytest.approx(float(other), abs=1e-5)
    logits = [load_file(tmp_path / name / "predictions.safetensors")["logits"] for name in
              ("theirs", "ours")]  # fmt: skip
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-4)
    assert kept[0].columns["dev_score"] == kept[1].columns["dev_score"]


def named(tags):
    return [[CLASSES[tag] for tag in row if tag >= 0] for row in tags.tolist()]


def test_a_cell_keeps_predictions_of_words_and_scores_entities(words, encoders, tmp_path):
    of = ours(job_on(words, encoders("bert"), epochs=12, held_out=0.25, early_stopping=2,
                     amp="bf16", dropout=0.1, max_length=12))  # fmt: skip
    run = ended(of, tmp_path / "cell", Steps)
    kept = load_file(tmp_path / "cell" / "predictions.safetensors")
    np.testing.assert_array_equal(kept["labels"], DATA.dev.labels)
    assert kept["labels"].dtype == np.int16
    assert kept["logits"].shape == (DATA.dev.words, len(CLASSES))
    every = [word for text in DATA.dev.text_a for word in text.split(" ")]
    assert len(every) == DATA.dev.words
    no_tokens = np.array(every) == "\u200b"
    assert no_tokens.any()
    assert not kept["logits"][no_tokens].any(), "a word without tokens has no logits"
    lost = ~kept["logits"].any(axis=1)
    assert lost.sum() > no_tokens.sum(), "max_length cuts some"
    guess = DATA.dev.labels.copy()
    guess[guess >= 0] = kept["logits"].argmax(axis=1)
    expected = f1_score(named(DATA.dev.labels), named(guess), mode="strict", scheme=IOB2)
    assert run.columns["dev_metric"] == "entity_f1"
    assert run.columns["dev_score"] == expected
    sides = tokens.make(DATA, of.cell, encoders("bert"), words)
    assert sides[""][1].words_lost == lost.sum()
    [note] = [n for n in tokens.cut_notes(DATA, of.cell, encoders("bert"), words) if "words" in n]
    expected = f"{lost.sum()} words of dev are cut or without a token, and count as predicted O"
    assert note == expected
    assert len(run.train[""]) == 36


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_kept_cell_loads_again(words, encoders, mode, tmp_path):
    from bench.worker.weights import load_trained

    layers = "attn-only" if mode == "lora" else None
    of = replace(job_on(words, encoders("bert"), mode, layers, epochs=2), keep=True)
    for name, side in (("theirs", of), ("ours", ours(of))):
        run = ended(side, tmp_path / name)
        again = load_trained(side, tmp_path / name)
        assert run.model.heads[""].by_token
        ids = torch.arange(5, 15)[None]
        assert again(ids).shape == (1, 10, len(CLASSES))
        with torch.no_grad():
            assert torch.allclose(again(ids), run.model.eval()(ids), atol=1e-6)
        assert engine_of(side.cell).skeleton(side).heads[""].outputs == len(CLASSES)


def test_compiled_code_learns_the_same(words, encoders, monkeypatch, tmp_path):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    of = ours(job_on(words, encoders("bert"), max_length=32))
    losses = []
    for name, value in (("plain", "off"), ("compiled", "on")):
        side = replace(of, cell=replace(of.cell, compile=value))
        losses.append([float(loss) for loss in ended(side, tmp_path / name).losses])
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-5)
