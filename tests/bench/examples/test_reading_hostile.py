"""Files that nobody meant to write: a right answer, or one line that says what is wrong."""

import codecs
import json
import os
import re
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.common.errors import InputError
from tests.bench.examples import tables
from tests.bench.examples.tables import TOPICS, need_data, read_file, write_csv, write_json_lines
from tests.hostile import TEXTS, answer, check_line, damaged, examples, nested

_GOOD = "text,label\nfine,a\nbad,b\nso so,a\n"
ANY_TEXT = st.text().map(lambda text: text.encode(errors="surrogatepass"))


def refusal(path, **settings):
    with pytest.raises(InputError) as caught:
        read_file(path, **settings)
    check_line(str(caught.value), path)
    return str(caught.value)


@pytest.fixture
def file(tmp_path):
    def write(content, name="train.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize(("name", "usual"), [("d.csv", ","), ("d.tsv", "\t")])
def test_a_wrong_delimiter_is_recognised(tmp_path, delimiter, name, usual):
    columns = {"text": ["a, b; c", "x|y\tz", "plain"], "label": ["u", "v", "u"]}
    data = read_file(write_csv(tmp_path / name, columns, delimiter))
    assert data.examples.text_a == tuple(columns["text"])
    assert any("fields are separated by" in note for note in data.notes) == (delimiter != usual)


def test_encodings_and_line_ends_of_every_kind(file):
    for content in (
        _GOOD.encode("utf-8-sig"), codecs.BOM_UTF16_BE + _GOOD.encode("utf-16-be"),
        _GOOD.encode("utf-16"), _GOOD.replace("\n", "\r\n").encode(),
        _GOOD.replace("\n", "\r").encode(), f"\n\n{_GOOD.rstrip()}".encode(),
    ):  # fmt: skip
        data = read_file(file(content))
        assert data.examples.text_a == ("fine", "bad", "so so")
        assert tables.named_labels(data) == ["a", "b", "a"]


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "is empty; a header and examples are expected"),
    (b"text,label\n", "only 0 of 0 rows can be used; are the file, --text and --label right?"),
    (b"text\nfine\n", "which column holds the label? --label COLUMN says it; there are `text`"),
    ("text,label\na,x\ncaf\u00e9,y\n".encode("latin-1"), "line 3: byte 0xE9 is not UTF-8"),
    (_GOOD.encode("utf-16-le"), "line 1: has a NUL byte"),
    (codecs.BOM_UTF16_LE + b"a", "is not UTF-16 as its byte order mark says"),
    (b"text,label\na,x\nb\0,y\n", "line 3: has a NUL byte"),
    (b"text,label\na,x\nb,x\n", "column `label`: all labels are the same, so there is nothing"),
    (b"text,label\n,x\na,\n", "1 row with an empty text left out, first at line 2, 1 row"),
    (b"text,text,label\na,b,x\n", "2 columns are called `text`"),
    (b'text,label\na,x\n"b,y\nc,x\n', "line 3: unexpected end of data; a field that begins"),
    (b"a b,c,d\n1,2,3\n", "which column holds the text? --text COLUMN says it; there are"),
    (b"text,u,v\na,1,2\n", "which column holds the label? --label COLUMN says it; there are"),
    (b"great film,good\nawful film,bad\nfine film,good\n", "first line looks like an example"),
    (b"text,label\na,1.0\nb,2.0\n", "has 2 distinct whole numbers, `1.0`, `2.0`: classes or"),
    (b"text,label\na,[1]\nb,[x]\n", "line 3: column `label` has `[x]`, which is no list of"),
])  # fmt: skip
def test_what_is_wrong_is_one_line(file, content, reason):
    assert reason in refusal(file(content))


def test_wrong_settings_are_one_line(file):
    for settings, reason in (
        ({"text": "txt"}, "--text `txt` is no column; nearest of 2: `text`, `label`"),
        ({"label": "LABEL"}, "--label `LABEL` is no column; nearest of 2: `label`, `text`"),
        ({"group": "zzz"}, "--group `zzz` is no column; nearest of 2"),
        ({"text": "label", "label": "label"}, "have two roles"),
        ({"problem": "regression"}, "line 2: column `label` has `a`, which is no finite number"),
        ({"classes": ("b", "c")}, "line 2: column `label` has the label `a`, which the given"),
        ({"classes": ("a", "b", "a")}, "the classes `a`, `b`, `a` have one of them twice"),
    ):
        assert reason in refusal(file(_GOOD), **settings)
    with pytest.raises(InputError, match="is for data sets on the hub"):
        read_file(file(_GOOD), config="x")
    for label in ("inf", "nan", "1e999", "1_000", "\u0663", "0x1"):
        line = refusal(file(f"text,label\na,1\nb,{label}\n"), problem="regression")
        assert re.search("line 3: column `label` has `.*no finite number", line)


def test_ragged_rows_are_left_out_and_lines_counted(file):
    rows = '"a\nb, ""c""\r\n",x\nb,y,z\nc,y\nd\n\ne,x\nf,\n'
    data = read_file(file(f"text,label\n{rows}"))
    assert data.examples.text_a == ('a\nb, "c"', "c", "e")
    count, unlabelled = data.notes[-2:]
    assert "2 rows with another number of fields than the header left out, first at line 5" in count
    assert unlabelled.endswith("1 row without a label left out, first at line 10")


def test_broken_json_is_left_out_or_refused(file):
    good = [json.dumps({"text": text, "label": text}) for text in "abcdef"]
    broken = [
        '{"text": "x"', "[1]", nested(100_000), '{"text": "\\ud800", "label": "a"}',
        '{"text": "\\u0000", "label": "a"}', "9" * 5000,
    ]  # fmt: skip
    for line in broken:
        data = read_file(file("\n".join([*good, line]), "d.jsonl"))
        assert data.examples.text_a == tuple("abcdef")
        assert ": 1 row " in data.notes[-1]
        assert data.notes[-1].endswith(" left out, first at line 7")
    assert "only 1 of 7 rows can" in refusal(file("\n".join([good[0], *broken]), "d.jsonl"))
    array = ",\n".join(good)
    for content in ("[]", ""):
        assert "no line is a JSON object" in refusal(file(content, "d.json"))
    for content in (f"[{array}", f"[{nested(100_000)}]"):
        assert "begins as an array of JSON and is none" in refusal(file(content, "d.json"))
    for content in (f"[{array}]", f"[\n{array}\n]"):
        assert read_file(file(content, "d.json")).examples.text_a == tuple("abcdef")
    mixed = read_file(file(f"[{array}, 1, null, [2]]", "d.json"))
    assert mixed.notes[-1] == "d.json: 3 rows that are no JSON objects left out, first at record 7"
    text = '{"text": {"a": 1}, "label": "x"}'
    assert "1 row with nested or binary values left out" in refusal(file(text, "d.jsonl"))


def test_lists_in_place_of_a_text_and_labels_that_training_lacks_are_refused(tmp_path):
    path = tmp_path / "d.jsonl"
    write_json_lines(path, {"text": [["a"], ["b"]], "label": ["x", "y"]})
    assert "2 rows with a list in place of a text left out, first at line 1" in refusal(path)
    write_json_lines(path, {"text": ["a", "b"], "label": [["x"], ["y"]]})
    for problem in ("single_label", "regression"):
        assert "holds lists: --problem multi_label" in refusal(path, problem=problem)
    write_json_lines(path, {"text": ["a"], "labels": [[0, 1, 0]]})
    assert "line 1: column `labels` has a 0 or 1 for each class" in refusal(path)

    train = write_csv(tmp_path / "train.csv", TOPICS)
    dev = write_csv(tmp_path / "dev.csv", {"text": ["a", "b"], "label": ["sport", "sports"]})
    with pytest.raises(InputError, match="line 3: column `label` has the label `sports`, which no"):
        read_file(train, validation=str(dev))
    write_csv(dev, {"text": ["a"], "labels": ["x"]})
    with pytest.raises(InputError, match="--label `label` is no column; nearest of 2: `labels`"):
        read_file(train, validation=str(dev))


def test_many_classes_are_classes_only_with_two_examples_each(tmp_path):
    count = 2000
    numbers = range(2 * count)
    columns = {"text": [f"text {n}" for n in numbers], "label": [f"c{n % count}" for n in numbers]}
    assert len(read_file(write_csv(tmp_path / "many.csv", columns)).spec.classes) == count
    half = {name: values[: count + 100] for name, values in columns.items()}
    path = write_csv(tmp_path / "ids.csv", half)
    assert "2,000 distinct labels in 2,100 examples, as ids" in refusal(path)
    assert len(read_file(path, problem="single_label").spec.classes) == count


def test_a_line_of_megabytes_is_refused_before_it_is_read(file):
    path = file(b"text,label\n" + b"x" * 5_000_000 + b",a\n")
    assert "line 2: has over 1,048,576 characters" in refusal(path)
    path = file(b'text,label\n"' + b"x\n" * 2_000_000)
    assert "line 2: a row has over 1,048,576 characters" in refusal(path)


def test_paths_that_are_no_files_or_that_one_may_not_read_are_refused(tmp_path, file, monkeypatch):
    for path in (tmp_path / "none.csv", "/dev/zero", "a" * 300):
        assert "there is no such file" in refusal(path)
    assert "no file train.csv" in refusal(tmp_path)
    assert "its format is not known by its suffix" in refusal(file(_GOOD, "data.xlsx"))
    path = file(_GOOD)
    with pytest.raises(InputError, match=r"--validation .*: is a folder; name a file"):
        read_file(path, validation=str(tmp_path))
    file(_GOOD, "train.tsv")
    assert "train.csv and train.tsv are there" in refusal(tmp_path)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything
        denied = PermissionError(13, "Permission denied")
        monkeypatch.setattr(Path, "open", mock.Mock(side_effect=denied))
    assert "can't be read (Permission denied)" in refusal(path)


def test_broken_and_nested_parquet_is_refused(tmp_path, file):
    need_data()
    path = tables.write_parquet(tmp_path / "d.parquet", TOPICS)
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[:-20], whole[20:], _GOOD.encode()):
        assert "can't be read (" in refusal(file(content, "d.parquet"))
    tables.write_parquet(path, {"text": [b"a", b"b"], "label": ["x", "y"]})
    assert "only 0 of 2 rows can be used; 2 rows with nested or binary values" in refusal(path)
    tables.write_parquet(path, {"text": ["a"], "label": [{"x": 1}]})
    assert "1 row with nested or binary values" in refusal(path)


@pytest.mark.parametrize("text", [text for text in TEXTS if not re.search("[\0\ud800]", text)])
def test_hostile_names_and_labels_give_printable_lines(tmp_path, text):
    path = write_csv(tmp_path / "d.csv", {text: ["a", "b"], "u": ["c", "d"], "v": ["e", "f"]})
    refusal(path)
    path = write_csv(tmp_path / "d.csv", {"text": [text, "b", "c"], "label": [text, text, "y"]})
    data = read_file(path)
    assert data.examples.text_a[0] == text.strip()
    assert all(note.isprintable() for note in data.notes)


@pytest.mark.parametrize("name", ["train.csv", "d.tsv", "d.jsonl"])
@examples(80)
@given(content=damaged(_GOOD.encode()) | ANY_TEXT)
def test_a_damaged_file_or_any_text_is_read_or_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    data = answer(lambda: read_file(path), InputError, path)
    assert data is None or len(data.examples) == len(data.examples.labels) > 0
