"""Words with tags in files: columns, JSON lines, schemes, spans of tools, and bad input."""

import json

import pytest

from bench.common.errors import InputError
from bench.examples.checks import check
from bench.examples.own import find_source
from bench.examples.reading import read, read_test
from bench.examples.words import WORD
from bench.export.snippets.answers import words_in
from bench.plan.dataset import DataSpec
from minbert.data.tasks import Task, TaskData, load_task

IOB2 = "Ann\tB-per\nBo\tI-per\nsaw\tO\nOslo\tB-loc\n\nhi\tO\nEve\tB-per\nAl\tB-per\n"
CLASSES = ("O", "B-loc", "I-loc", "B-per", "I-per")


def read_text(tmp_path, text, name="train.conll", **spec):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read(DataSpec(path=str(tmp_path / name), **spec))


def check_tags(data, text_a, tags):
    assert data.examples.text_a == text_a
    assert data.examples.labels.tolist() == tags


SCHEMES = {
    "IOB2": IOB2,
    "IOB1, read as IOB2": "Ann I-per\nBo I-per\nsaw O\nOslo I-loc\n\nhi O\nEve I-per\nAl B-per\n",
    "IOBES, read as IOB2": "Ann B-per\nBo E-per\nsaw O\nOslo S-loc\n\nhi O\nEve S-per\nAl S-per\n",
    "BILOU, read as IOB2": "Ann B-per\nBo L-per\nsaw O\nOslo U-loc\n\nhi O\nEve U-per\nAl U-per\n",
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_columns_are_read_in_every_suffix_and_scheme(tmp_path, scheme):
    for suffix in ("conll", "txt", "bio", "tsv"):
        data = read_text(tmp_path, SCHEMES[scheme], f"a.{suffix}")
        check_tags(data, ("Ann Bo saw Oslo", "hi Eve Al"), [[3, 4, 0, 1], [0, 3, 3, -1]])
        assert (data.spec.problem, data.spec.classes) == ("token_classification", CLASSES)
        assert f"tags: {scheme}" in data.notes


def test_entities_that_begin_with_i_are_counted(tmp_path):
    for text, tags, note in (
        ("Ann S-per\nBo I-per\nC O\n", [1, 1, 0], "1 entity begins"),
        ("Ann I-per\nBo B-loc\nC I-per\n", [3, 1, 3], "2 entities begin"),
    ):
        data = read_text(tmp_path, text)
        assert data.examples.labels.tolist() == [tags]
        assert f"tags: {note} with I- after another tag; read as B-" in data.notes


def of_documents(tmp_path, name, count):
    """A file of documents of two texts."""
    path = tmp_path / f"{name}.conll"
    lines = (f"-DOCSTART- O\n\nAnn{n} B-per\n\n{name}{n} O\n\n" for n in range(count))
    path.write_text("".join(lines))
    return str(path)


def test_documents_stay_whole_in_a_split_and_are_known_if_both_files_have_them(tmp_path):
    source = find_source(None, DataSpec(path=of_documents(tmp_path, "x", 40)))
    data = load_task(source.task, source.folder)
    assert data.task.kind == "token_classification"
    assert len(data.dev) == 8
    assert not {*data.train.groups} & {*data.dev.groups}
    assert data.majority == 0.0

    (tmp_path / "c.conll").write_text("Bo B-per\n")
    train, marked, plain = (
        of_documents(tmp_path, "a", 3), of_documents(tmp_path, "b", 3), str(tmp_path / "c.conll")
    )  # fmt: skip
    data = read(DataSpec(path=train, validation=marked))
    assert data.examples.documents.tolist() == data.validation.documents.tolist()
    assert data.validation.documents.tolist() == [0, 0, 1, 1, 2, 2]
    assert not {*data.examples.groups} & {*data.validation.groups}
    assert read_test(data.spec.model_copy(update={"test": marked}))[0].documents is not None
    data = read(DataSpec(path=train, validation=plain))
    assert data.examples.documents is data.validation.documents is None
    assert read_test(data.spec.model_copy(update={"test": plain}))[0].documents is None


def test_texts_conflict_if_the_same_words_have_other_tags(tmp_path):
    data = read_text(tmp_path, "Hi O\n\nHi O\n. O\n\nAnn B-per\n\nAnn O\n\nBo O\n")
    task = Task("names", data.spec.classes, problem_name=data.spec.problem)
    conflicts = check(TaskData(task, data.examples, data.examples.taken([4]))).conflicts
    assert (conflicts.train, conflicts.dev) == (2, 0)
    assert conflicts.shown == ("B-per, O: Ann",)


def test_json_lines_have_lists(tmp_path):
    rows = [
        {"id": 1, "tokens": ["Ann", "New York", "x"], "ner_tags": ["B-per", "B-loc", "O"]},
        {"id": 2, "tokens": ["Ann"], "ner_tags": []},
        *({"id": 3, "tokens": [name], "ner_tags": ["O"]} for name in ("Bo", "Cy")),
    ]
    data = read_text(tmp_path, "\n".join(map(json.dumps, rows)), "a.jsonl")
    check_tags(data, ("Ann New\u00a0York x", "Bo", "Cy"), [[3, 1, 0], [0, -1, -1], [0, -1, -1]])
    note = "a.jsonl: 1 row with another number of tags than of words left out, first at line 2"
    assert note in data.notes
    numbers = [{**row, "ner_tags": [*range(len(row["tokens"]))]} for row in rows]
    text = "\n".join(map(json.dumps, numbers))
    named = read_text(tmp_path, text, "b.jsonl", classes=("O", "B-per", "I-per"))
    assert named.examples.labels.tolist() == [[0, 1, 2], *[[0, -1, -1]] * 3]
    with pytest.raises(InputError, match=r"column `ner_tags` has numbers; give the tags in their"):
        read_text(tmp_path, text, "b.jsonl")
    with pytest.raises(InputError, match="write the tags as names"):
        read_text(tmp_path, text, "b.jsonl", classes=("B-per", "I-per", "O"))


WRONG = {
    "Ann B-per\nBo\n": "train.conll, line 2: has 1 columns, and line 1 has 2",
    "# a\nAnn,B-per\n": "train.conll, line 2: ends with `Ann,B-per`, which is no tag",
    "Ann B-per\n\nBo NN O\n": "train.conll, line 3: has 3 columns, and line 1 has 2",
    "Ann B-per\nBo NOUN\n": "train.conll, line 2: ends with `NOUN`, which is no tag",
    "Ann\tB-per\n\tO\n": "train.conll, line 2: has a tag without a word",
    "Ann O\n": "every word has the tag O, so there is nothing to learn",
    "\n": "train.conll: is empty; a word and its tag are expected on each line",
    "a X\nb X\n": "all words have the tag X; nothing to learn",
}


@pytest.mark.parametrize("text", WRONG)
def test_bad_lines_are_refused_with_their_number(tmp_path, text):
    with pytest.raises(InputError) as caught:
        read_text(tmp_path, text)
    assert WRONG[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_type_that_training_lacks_is_refused(tmp_path):
    (tmp_path / "dev.conll").write_text("x O\n\ny O\nAnn B-org\n")
    with pytest.raises(InputError, match=r"dev.conll, line 3: .* type `org`, which no training"):
        read_text(tmp_path, IOB2, validation=str(tmp_path / "dev.conll"))
    (tmp_path / "dev.conll").write_text("Al O\nAnn I-loc\n")
    data = read_text(tmp_path, IOB2, validation=str(tmp_path / "dev.conll"))
    assert data.validation.labels.tolist() == [[0, 1]]
    spec = data.spec.model_copy(update={"test": str(tmp_path / "dev.conll")})
    assert read_test(spec)[0].labels.tolist() == [[0, 1]]


UNIVERSAL = """# sent_id = 1
1-2	don't	_	_	_	_	_	_	_	_
1	do	do	AUX	_	_	0	root	_	_
2	n't	not	PART	_	_	1	advmod	_	x=O

1	go	go	VERB	_	_	0	root	_	_
"""


@pytest.mark.parametrize(
    ("name", "text"), [("a.conllu", UNIVERSAL), ("a.conll", "do AUX\nn't PART\n\ngo VERB\n")]
)
def test_parts_of_speech_are_classes_of_words(tmp_path, name, text):
    data = read_text(tmp_path, text, name)
    check_tags(data, ("do n't", "go"), [[0, 1], [2, -1]])
    assert data.spec.problem == "word_classification"
    assert data.spec.classes == ("AUX", "PART", "VERB")
    (tmp_path / "test.conll").write_text("a X\n")
    spec = data.spec.model_copy(update={"test": str(tmp_path / "test.conll")})
    with pytest.raises(InputError, match="has the label `X`, which no training example has"):
        read_test(spec)


TEXT = "🙂 Ann Bo saw Oslo."
WORDS = ("🙂 Ann Bo saw Oslo .", "hi")
SPANS = [(2, 8, "per"), (13, 17, "loc")]


def studio(begin, end, kind):
    value = {"start": begin + 1, "end": end + 1, "text": TEXT[begin:end], "labels": [kind]}
    return {"type": "labels", "value": value}  # counted in UTF-16


NONE = {"text": "hi"}
OFFSETS = [{"start_offset": b, "end_offset": e, "label": k, "id": 1} for b, e, k in SPANS]
OF_STUDIO = [{"type": "relation", "from_id": "a"}, *(studio(*span) for span in SPANS)]
FORMS = {
    "doccano.jsonl": [{"id": 1, "text": TEXT, "label": SPANS}, {"id": 2, **NONE, "label": []}],
    "doccano-offsets.jsonl": [
        {"text": TEXT, "entities": OFFSETS, "relations": []}, {**NONE, "entities": []},
    ],
    "label-studio.json": [
        {"data": data, "annotations": [{"result": result}]}
        for data, result in (({"text": TEXT}, OF_STUDIO), (NONE, []))
    ],
    "label-studio-min.json": [
        {"text": TEXT, "label": [each["value"] for each in OF_STUDIO[1:]]}, {**NONE, "label": []},
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
    check_tags(data, WORDS, [[0, 3, 4, 0, 1, 0], [0, -1, -1, -1, -1, -1]])
    assert data.spec.classes == CLASSES


def test_spans_that_can_not_be_read_leave_their_text_out_and_one_may_cut_a_word(tmp_path):
    fine = {"text": TEXT, "label": [[2, 5, "per"]]}
    records = [
        *[fine] * 5, {"text": TEXT, "label": [[2, 8, "per"], [6, 12, "loc"]]},
        {"text": TEXT, "label": [[2, 80, "per"]]},
        {"text": TEXT, "label": [{"start": 2, "end": 5, "text": "Bob", "labels": ["per"]}]},
        {"text": TEXT}, {"text": "Annes dog", "label": [[0, 3, "per"]]},
    ]  # fmt: skip
    path = write(tmp_path, "a.jsonl", records)
    data = read(DataSpec(path=str(path), problem="token_classification"))
    assert data.examples.text_a == (*[WORDS[0]] * 5, "Annes dog")
    assert data.examples.labels[-1, :2].tolist() == [1, 0]
    assert [note for note in data.notes if note.startswith("a.jsonl: ")] == [
        "a.jsonl: 1 span cut a word; such words count as a whole",
        "a.jsonl: 1 row with overlapping spans left out, first at line 6",
        "a.jsonl: 2 rows with a span that is not in its text left out, first at line 7",
        "a.jsonl: 1 row without spans left out, first at line 9",
    ]


def test_words_are_those_of_an_exported_model():
    text = "Ann's e-mail: ann_b@x.org, 3.5 € – naïve"
    assert [match.span() for match in WORD.finditer(text)] == words_in(text)
