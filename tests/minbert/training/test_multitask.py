"""Several tasks on one encoder or two: what goes where, and what does not matter."""

import numpy as np
import pytest
import torch

from minbert.data.batches import collate, plan_epoch
from minbert.data.encoded import Encoded
from minbert.model.classifier import BertClassifier, HeadConfig, initialise
from minbert.model.config import GEOMETRIES
from minbert.model.heads import pair_features
from minbert.training.trainer import logits_of
from tests.minbert.peers import sizes

HEADS = {
    "sst": HeadConfig(outputs=5),
    "quora": HeadConfig(outputs=1, pairs=True),
    "sts": HeadConfig(outputs=1, pairs=True),
}
CPU = torch.device("cpu")
CONFIG = sizes(12, 2, 2, 24, 60, 16)


def model(encoders=2, head="nonlinear", pooling="mean"):
    found = BertClassifier(
        CONFIG, HEADS, encoders=encoders, head=head, pooling=pooling, dropout=0.1
    )
    initialise(found, seed=0)
    return found.eval()


def texts(count=6, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 12, count)
    total = int(lengths.sum())
    return Encoded(
        rng.integers(1, 60, total, dtype=np.int32),
        np.zeros(total, dtype=np.int8),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def batch(part, indices):
    sides = [texts(seed=1), texts(seed=2)] if HEADS[part].pairs else [texts(seed=1)]
    return collate(sides, np.arange(6) % 2, indices, 0, CPU, part=part)


def size(encoders, head):
    """Parameters of the paper's model on bert-base; no memory is taken for them."""
    found = BertClassifier(
        GEOMETRIES["bert-base"], HEADS, encoders=encoders, head=head, pooling="pooler", dropout=0.3
    )
    return sum(parameter.numel() for parameter in found.parameters())


def test_with_two_encoders_of_bert_base_it_has_about_226_million_parameters():
    encoder = 109_482_240
    comparison = (4 * 768 + 1 + 1) * 1536 + (1536 + 1) * 768
    heads = 3 * (768 + 1) * 768 + (768 + 1) * (5 + 1 + 1)
    assert size(2, "nonlinear") == 2 * encoder + comparison + heads
    assert size(2, "nonlinear") / 1e6 == pytest.approx(226, abs=1)
    assert size(1, "nonlinear") == encoder + comparison + heads


@pytest.mark.parametrize(
    ("encoders", "head", "pooling"),
    [(1, "linear", "mean"), (2, "nonlinear", "pooler"), (1, "conv", "pooler"), (2, "conv", "mean")],
)
def test_each_task_has_its_logits_and_an_example_does_not_see_the_others(encoders, head, pooling):
    of = model(encoders, head, pooling)
    for part, expected in HEADS.items():
        together = logits_of(of, batch(part, [0, 1, 2, 3, 4, 5]))
        assert together.shape == (6, expected.outputs)
        assert together.dtype == torch.float32
        alone = torch.cat([logits_of(of, batch(part, [index])) for index in range(6)])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def gradients(of, part):
    of.zero_grad()
    logits_of(of, batch(part, [0, 1, 2])).sum().backward()
    return {name: p.grad is not None for name, p in of.named_parameters()}


def test_with_two_encoders_pairs_and_sentences_train_apart():
    of = model(encoders=2)
    of_sentences, of_pairs = gradients(of, "sst"), gradients(of, "sts")
    for name in of_sentences:
        if name.startswith("bert."):
            assert (of_sentences[name], of_pairs[name]) == (True, False)
        elif name.startswith(("bert_pairs.", "comparison.", "classifier.sts")):
            assert (of_sentences[name], of_pairs[name]) == (False, True)
    assert not any(of_pairs[name] for name in of_pairs if name.startswith("classifier.quora"))


def test_one_encoder_trains_by_every_task_and_the_comparison_by_those_on_pairs():
    of = model(encoders=1)
    assert of.bert_pairs is None
    for task, head in HEADS.items():
        trained = gradients(of, task)
        assert all(trained[name] for name in trained if name.startswith("bert."))
        compared = {trained[name] for name in trained if name.startswith("comparison.")}
        assert compared == {head.pairs}


def test_features_are_as_defined():
    a, b = (torch.randn(4, 3, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    found = pair_features(a, b)
    assert found.shape == (4, 13)
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    expected = torch.cat([a, b, (a - b).abs(), a * b, cosine[:, None]], dim=1)
    torch.testing.assert_close(found, expected)


def test_a_batch_of_pairs_holds_first_texts_then_second_ones():
    one, other = texts(seed=1), texts(seed=2)
    found = collate([one, other], np.arange(6) / 2, [4, 2], 0, CPU, part="sts")
    assert found.token_type_ids is None
    assert found.labels.tolist() == [2.0, 1.0]
    for row, (encoded, index) in enumerate([(one, 4), (one, 2), (other, 4), (other, 2)]):
        ids = encoded.input_ids[encoded.offsets[index] : encoded.offsets[index + 1]]
        assert found.input_ids[row, : len(ids)].tolist() == ids.tolist()
        assert found.input_ids[row, len(ids) :].eq(0).all()
    assert found.tokens == int(found.attention_mask.sum())


def test_an_epoch_has_every_example_of_every_task_once():
    lengths = {"sst": np.arange(3, 13), "sts": np.arange(4, 27)}
    plan = plan_epoch(lengths, 4, np.random.default_rng(0), "by-length", "sequential")
    assert [name for name, _ in plan] == ["sst"] * 3 + ["sts"] * 6
    for task, of in lengths.items():
        found = [indices for name, indices in plan if name == task]
        assert sorted(np.concatenate(found)) == list(range(len(of)))
