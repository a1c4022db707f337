"""Spans of characters of annotation tools, as words with tags."""

import json

import pytest

from bench.common.errors import InputError
from bench.examples.reading import read
from bench.examples.spans import WORD, annotated
from bench.export.snippets.answers import words_in
from bench.plan.dataset import DataSpec

TEXT = "🙂 Ann Bo saw Oslo."
WORDS = ("🙂 Ann Bo saw Oslo .", "hi")
SPANS = [(2, 8, "per"), (13, 17, "loc")]
TAGS = [[0, 3, 4, 0, 1, 0], [0, -1, -1, -1, -1, -1]]


def studio(begin, end, kind):
    value = {"start": begin + 1, "end": end + 1, "text": TEXT[begin:end], "labels": [kind]}
    return {"type": "labels", "value": value}  # counted in UTF-16


RELATION = {"type": "relation", "from_id": "a"}
OFFSETS = [{"start_offset": b, "end_offset": e, "label": k, "id": 1} for b, e, k in SPANS]
NONE = {"text": "hi"}
FORMS = {
    "doccano.jsonl": [{"id": 1, "text": TEXT, "label": SPANS}, {"id": 2, **NONE, "label": []}],
    "doccano-offsets.jsonl": [
        {"text": TEXT, "entities": OFFSETS, "relations": []}, {**NONE, "entities": []},
    ],
    "label-studio.json": [
        {"data": {"text": TEXT},
         "annotations": [{"result": [RELATION, *(studio(*span) for span in SPANS)]}]},
        {"data": NONE, "annotations": [{"result": []}]},
    ],
    "label-studio-min.json": [
        {"text": TEXT, "label": [studio(*span)["value"] for span in SPANS]}, {**NONE, "label": []},
    ],
    "spacy.json": [[TEXT, {"entities": SPANS}], ["hi", {"entities": []}]],
    "spacy-docs.jsonl": [
        {"text": TEXT, "ents": [{"start": b, "end": e, "label": k} for b, e, k in SPANS],
         "tokens": [{"id": 0}]},
        {**NONE, "ents": [], "tokens": []},
    ],
}  # fmt: skip


def write(tmp_path, name, records):
    path = tmp_path / name
    lines = "\n".join(json.dumps(record) for record in records)
    path.write_text(json.dumps(records, indent=1) if name.endswith(".json") else f"{lines}\n")
    return path


@pytest.mark.parametrize("name", FORMS)
def test_spans_of_tools_are_tags_of_words(tmp_path, name):
    data = read(DataSpec(path=str(write(tmp_path, name, FORMS[name]))))
    assert data.examples.text_a == WORDS
    assert data.examples.labels.tolist() == TAGS
    assert data.spec.classes == ("O", "B-loc", "I-loc", "B-per", "I-per")


def test_spans_that_can_not_be_read_leave_their_text_out(tmp_path):
    fine = {"text": TEXT, "label": [[2, 5, "per"]]}
    bad = [
        {"text": TEXT, "label": [[2, 8, "per"], [6, 12, "loc"]]},
        {"text": TEXT, "label": [[2, 80, "per"]]},
        {"text": TEXT, "label": [{"start": 2, "end": 5, "text": "Bob", "labels": ["per"]}]},
        {"text": TEXT},
    ]
    path = write(tmp_path, "a.jsonl", [*[fine] * 5, *bad])
    data = read(DataSpec(path=str(path), problem="token_classification"))
    assert data.examples.text_a == (WORDS[0],) * 5
    assert [note for note in data.notes if "left out" in note] == [
        "a.jsonl: 1 row with overlapping spans left out, first at line 6",
        "a.jsonl: 2 rows with a span that is not in its text left out, first at line 7",
        "a.jsonl: 1 row without spans left out, first at line 9",
    ]


def test_a_span_that_cuts_a_word_counts_the_whole_word(tmp_path):
    data = read(
        DataSpec(
            path=str(write(tmp_path, "a.jsonl", [{"text": "Annes dog", "label": [[0, 3, "per"]]}]))
        )
    )
    assert data.examples.labels.tolist() == [[1, 0]]
    assert "a.jsonl: 1 span cut a word; such words count as a whole" in data.notes


def test_words_are_those_of_an_exported_model():
    text = "Ann's e-mail: ann_b@x.org, 3.5 € – naïve"
    assert [match.span() for match in WORD.finditer(text)] == words_in(text)


def test_other_json_is_read_as_before(tmp_path):
    records = [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": ["x"]}]
    assert annotated(write(tmp_path, "a.jsonl", records)).columns == ("text", "label")
    table = annotated(write(tmp_path, "a.json", records))
    assert (table.columns, table.unit) == (("text", "label"), "record")
    (tmp_path / "b.json").write_text("[1, 2")
    with pytest.raises(InputError, match="begins as an array of JSON and is none"):
        annotated(tmp_path / "b.json")
