"""What each format can express: every kind of cell, written, loaded and compared."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from adapters.methods import METHODS, MODES, has_layers
from adapters.names import LAYER_SETS
from bench.export.check import labels_of, texts_of
from bench.export.formats import FORMATS, refusal
from minbert.model.classifier import POOLINGS
from minbert.model.heads import HEADS
from tests import encoders
from tests.bench.export.small import answer_here, expected_logits, exported, trained
from tests.bench.synthetic_rows import cell
from tests.experiments.pages import markdown_table

_OURS = [name for name, method in METHODS.items() if method.layer is not None]
METHOD_CASES = (*((mode, None) for mode in ("full", "head", "bitfit")), *product(_OURS, LAYER_SETS))
KINDS = ("classification", "multi_label", "regression")


@dataclass(frozen=True)
class Case:
    mode: str
    layers: str | None
    pooling: str
    head: str
    is_ours: bool = True

    @property
    def cell(self):
        how = {"pooling": self.pooling, "head": self.head}
        if not self.is_ours:
            return encoders.job(Path("roberta-tiny"), self.mode, self.layers, **how).cell
        return cell(self.mode, 4 if self.mode in METHODS else None, self.layers, "off", **how)

    def trained(self, base, kind="classification", pairs=False):
        """A cell of this kind on a base that the hub has."""
        how = {"pooling": self.pooling, "head": self.head, "kind": kind, "pairs": pairs}
        return trained(base, self.mode, self.layers, **how)

    @property
    def place(self):
        """Pooling and head as rows show them; a head that reads tokens has no pooling."""
        pooling = "cls or mean" if self.pooling in ("cls", "mean") else self.pooling
        return ("any" if HEADS[self.head].reads_tokens else pooling, self.head)


def library_cases():
    """All kinds of engine transformers, with one layer set."""
    places = [("pooler", "linear"), *product(("cls", "mean"), ("linear", "nonlinear"))]
    for (pooling, head), mode in product([*places, ("cls", "conv")], MODES):
        yield Case(mode, "attn-only" if has_layers(mode) else None, pooling, head, is_ours=False)


def cases():
    for (pooling, head), (mode, layers) in product(product(POOLINGS, HEADS), METHOD_CASES):
        yield Case(mode, layers, pooling, head)


def declared(of, name):
    """What the formats say of a cell: how one holds it, or which one to use."""
    if reason := refusal(name, of):
        return f"—, use {reason.rpartition(' ')[2]}"
    if of.mode not in METHODS:
        return "whole"
    return "adapter" if name == "peft" else "merged"


def observed(own, name):
    """How a format holds a cell, once it is written, loaded and compared by its logits."""
    how = declared(own.job.cell, name)
    if how.startswith("—"):
        return how
    with TemporaryDirectory() as place:
        folder = exported(own, name, Path(place, "out"))
        expected = expected_logits(own)
        answer = answer_here(folder, texts_of(own.dev), base=own.base)
        assert answer.logits.shape == expected.shape, folder
        assert answer.labels == labels_of(own.task, answer.logits), folder
        difference = np.abs(answer.logits - expected).max()
        assert difference <= 1e-4, f"{own.job.cell}: {name} differs by {difference}"
        if (folder / "adapter_model.safetensors").exists():
            return "adapter"
        return "merged" if own.job.cell.mode in METHODS else "whole"


def table(formats):
    """How the formats store each kind; kinds that are stored alike share a row."""
    rows = {}
    for case, how in formats.items():
        layers = rows.setdefault((*case.place, *how), {}).setdefault(case.mode, {})
        layers |= {case.layers if case.is_ours else None: None}
    lines = []
    for (pooling, head, *how), modes in rows.items():
        listed = []  # modes with their layers, those with all layer sets by the mode alone
        for mode, layers in modes.items():
            is_whole = set(layers) in ({None}, set(LAYER_SETS))
            listed += [mode] if is_whole else [f"{mode} on {each}" for each in layers]
        lines.append((pooling, head, ", ".join(listed), *how))
    return markdown_table(("pooling", "head", "trained", *FORMATS), lines)


def docs_tables():
    tables = [
        table({case: [declared(case.cell, name) for name in FORMATS] for case in kinds})
        for kinds in (cases(), library_cases())
    ]
    return f"engine `minbert`:\n\n{tables[0]}\nengine `transformers`:\n\n{tables[1]}"


def in_docs(page):
    return page.partition("<!-- formats -->")[2].partition("<!-- /formats -->")[0].strip() + "\n"
