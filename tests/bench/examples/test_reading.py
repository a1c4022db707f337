"""The user's own data is read as it is meant, whatever the format."""

import subprocess
import sys
from functools import partial

import pytest

from bench.common.errors import InputError
from bench.examples.reading import read_test
from tests.bench.examples import tables
from tests.bench.examples.tables import TOPICS, need_data, read_file, write_csv, write_json_lines


def write_saved(path, columns):
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(dict(columns)).save_to_disk(path)
    return path


FORMATS = {
    "train.csv": write_csv, "train.tsv": partial(write_csv, delimiter="\t"),
    "train.jsonl": write_json_lines, "train.json": write_json_lines,
    "train.parquet": tables.write_parquet, "saved": write_saved,
}  # fmt: skip


@pytest.fixture(params=FORMATS)
def write(request, tmp_path):
    name = request.param
    if not name.endswith(("sv", "json", "jsonl")):
        need_data()
    return lambda columns: FORMATS[name](tmp_path / name, columns)


def test_numbers_are_a_regression_or_classes_in_their_order_and_no_word_is_missing(write):
    scores = [0.5, 1.0, 2.25, 1e-05, -3.5, 0.1]
    data = read_file(write({"text": TOPICS["text"], "score": scores}))
    assert (data.spec.problem, data.spec.classes) == ("regression", ())
    assert data.examples.labels.tolist() == scores
    for texts, labels, classes in (
        (TOPICS["text"], [9, 10, 9, -1, 10, -1], ("-1", "9", "10")),
        (["NA", "null", "None", "nan", "0012"], ["NA", "None", "01", "1", "NA"],
         ("01", "1", "NA", "None")),
    ):  # fmt: skip
        data = read_file(write({"text": texts, "label": labels}), text="text")
        assert data.examples.text_a == tuple(texts)
        assert data.spec.classes == classes
        assert tables.named_labels(data) == list(map(str, labels))


def test_pairs_and_groups_are_read(write):
    columns = {
        "Question1": list("abcd"), "question_2": list("efgh"),
        "is_duplicate": ["yes", "no", "yes", "no"], "author": ["x", None, "x", None],
    }  # fmt: skip
    data = read_file(write(columns), group="author")
    assert data.examples.text_b == ("e", "f", "g", "h")
    groups = data.examples.groups
    assert groups[0] == groups[2] == "x"
    assert len(set(groups)) == 3
    assert ", " in groups[1]
    chosen = data.spec
    assert (chosen.text, chosen.text_pair, chosen.label) == (*list(columns)[:2], "is_duplicate")


def test_a_column_of_lists_is_a_multi_label_problem(tmp_path):
    need_data()
    columns = {"text": ["a", "b", "c"], "labels": [["x", "y"], [], ["z"]]}
    for name in ("train.jsonl", "train.parquet", "saved"):
        data = read_file(FORMATS[name](tmp_path / name, columns))
        assert (data.spec.problem, data.spec.classes) == ("multi_label", ("x", "y", "z"))
        assert data.examples.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_several_labels_in_a_field_are_separated_in_a_validation_file_by_known_classes(tmp_path):
    for labels, note in (
        (["x | y", "z", "x|"], "labels are separated by `|`"),
        (["x;y", "z", "x"], "labels are separated by `;`"),
        (["x, y", "z", "x"], "labels are separated by `,`"),
        (['["x", "\\u0079"]', "['z']", '["x"]'], None),
    ):
        path = write_csv(tmp_path / "d.csv", {"text": ["a", "b", "c"], "label": labels})
        data = read_file(path, problem="multi_label")
        assert data.spec.classes == ("x", "y", "z")
        assert data.examples.labels.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]
        assert note is None or note in data.notes
    write_csv(path, {"text": list("abcd"), "label": ["x, y|z", "z", "x, y", "z"]})
    dev = write_csv(tmp_path / "dev.csv", {"text": ["e"], "label": ["x, y"]})
    data = read_file(path, problem="multi_label", validation=str(dev))
    assert data.spec.classes == ("x, y", "z")
    assert data.validation.labels.tolist() == [[1, 0]]


def test_columns_are_inferred(tmp_path):
    unused = {"note": ["n", "o"], "date": ["1", "2"]}
    for columns, text, label in (
        ({"REVIEW": list("ab"), "Stars": ["bad", "good"]}, "REVIEW", "Stars"),
        ({"id": ["1", "2"], "comment": list("ab"), "why": ["x", "y"]}, "comment", "why"),
        ({"y": ["x", "z"] * 2, "x": ["long one", "long b", "long c", "long d"]}, "x", "y"),
        ({"text": list("ab"), "label": ["x", "y"], **unused}, "text", "label"),
    ):
        data = read_file(write_csv(tmp_path / "d.csv", columns))
        assert (data.spec.text, data.spec.label, data.spec.text_pair) == (text, label, None)
        assert ("columns not used: `note`, `date`" in data.notes) == ("note" in columns)
        assert {f"text: column `{text}`", f"label: column `{label}`"} <= {*data.notes}
    assert data.notes[-1] == "problem: single_label, inferred, 2 classes: `x`, `y`"


def test_named_classes_keep_their_order_and_one_of_validation_alone_is_refused(tmp_path):
    need_data()
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    names = ["zebra", "ant", "never"]
    features = Features(text=Value("string"), label=ClassLabel(names=names))
    splits = {
        name: Dataset.from_dict({"text": [f"{name} {n}" for n in range(4)], "label": of}, features)
        for name, of in (("train", [0, 1, 0, -1]), ("validation", [0, 2, 1, 1]), ("test", [1] * 4))
    }
    for path, save in (("saved", "save_to_disk"), ("d.parquet", "to_parquet")):
        getattr(splits["train"], save)(tmp_path / path)
        data = read_file(tmp_path / path)
        assert data.spec.classes == tuple(names)
        assert tables.named_labels(data) == ["zebra", "ant", "zebra"]
        assert "1 row without a label left out, first at record 4" in data.notes[-1]
    both = tmp_path / "both"
    DatasetDict(splits).save_to_disk(both)
    with pytest.raises(InputError, match=r"the label `never`, which no training example has"):
        read_file(both)
    data = read_file(both, classes=names)
    assert data.examples.text_a == ("train 0", "train 1", "train 2")
    assert data.validation.text_a == tuple(f"validation {n}" for n in range(4))
    assert data.validation.labels.tolist() == [0, 2, 1, 1]
    assert read_test(data.spec)[0].text_a == tuple(f"test {n}" for n in range(4))
    for file in (both / "test").glob("*.arrow"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="both: can't be read"):
        read_file(both, classes=names)


def test_nan_in_json_is_a_missing_value_and_infinity_is_none(tmp_path):
    rows = '{"text": "a", "score": 0.5}\n{"text": "b", "score": NaN}\n{"text": "c", "score": 1}\n'
    path = tmp_path / "d.jsonl"
    path.write_text(rows, encoding="utf-8")
    data = read_file(path)
    assert data.examples.labels.tolist() == [0.5, 1.0]
    assert data.notes[-1] == "d.jsonl: 1 row without a label left out, first at line 2"
    path.write_text(rows.replace("NaN", "Infinity"), encoding="utf-8")
    with pytest.raises(InputError, match="line 2: column `score` has `Infinity`, which is no"):
        read_file(path, problem="regression")


def test_a_validation_and_a_test_file_have_the_columns_and_classes_of_training(tmp_path):
    columns = {"a": ["long text", "b b"] * 2, "b": list("xyxy"), "g": list("1122")}
    train = write_csv(tmp_path / "train.csv", columns)
    rows = {"c": ["n", "n"], "b": ["y", "y"], "a": ["dev", ""], "g": [1, 2]}
    dev = write_json_lines(tmp_path / "valid.jsonl", rows)
    test = write_csv(tmp_path / "mine.tsv", {"a": ["t"], "b": ["x"]}, "\t")
    (tmp_path / "test.csv").write_bytes(b"\0")  # reading it would fail
    roles = {"text": "a", "label": "b", "group": "g"}
    for path, files in ((train, {"validation": str(dev), "test": str(test)}), (tmp_path, {})):
        data = read_file(path, **files, **roles)
        assert data.validation.text_a == ("dev",)
        assert data.validation.labels.tolist() == [1]
        assert (data.examples.groups, data.validation.groups) == (("1", "1", "2", "2"), ("1",))
        assert "valid.jsonl: 1 row with an empty text left out, first at line 2" in data.notes
        if files:
            tested, _ = read_test(data.spec)
            assert (tested.text_a, tested.labels.tolist()) == (("t",), [0])
    with pytest.raises(InputError, match="NUL byte"):
        read_test(data.spec)


def test_tabs_without_quoting_leave_quotes_in_the_texts(tmp_path):
    path = tmp_path / "d.tsv"
    path.write_text('text\tlabel\n"So" bad\ta\n"open\tb\nso "so"\ta\n', encoding="utf-8")
    data = read_file(path)
    assert data.examples.text_a == ('"So" bad', '"open', 'so "so"')
    assert any("quotes are part of the texts" in note for note in data.notes)
    path.write_text('text\tlabel\n"a\tx\nb\ty\nc"\tx\n', encoding="utf-8")
    assert read_file(path).examples.text_a == ('"a', "b", 'c"')
    path.write_text('text\tlabel\n"a ""so""\nb"\tx\nb\ty\n', encoding="utf-8")
    assert read_file(path).examples.text_a == ('a "so"\nb', "b")


def test_csv_needs_no_library_and_other_formats_say_what_to_install(tmp_path, monkeypatch):
    path = write_csv(tmp_path / "train.csv", TOPICS)
    code = (
        "import sys\nfrom bench.examples.reading import read\n"
        f"from bench.plan.dataset import DataSpec\nread(DataSpec(path={str(path)!r}))\n"
        "print({'torch', 'pandas', 'sklearn', 'pyarrow', 'datasets'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    for module in ("pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "d.parquet").touch()
    for path in (tmp_path / "d.parquet", "hub:user/set"):
        with pytest.raises(InputError, match=r"pip install -e '\.\[data\]'"):
            read_file(path)


def test_combinations_of_a_few_names_are_in_doubt_and_an_empty_list_is_no_class(tmp_path):
    columns = {"text": [f"text {number}" for number in range(20)]}
    labels = {"label": ["x|y", "y|z", "x", "y", "[]"] * 4}
    path = write_csv(tmp_path / "train.csv", columns | labels)
    with pytest.raises(InputError, match="several labels of a text, or one") as caught:
        read_file(path)
    assert "--problem multi_label or --problem single_label" in str(caught.value)
    data = read_file(path, problem="multi_label")
    assert data.spec.classes == ("x", "y", "z")
    rows = ["".join(map(str, row)) for row in data.examples.labels[:5]]
    assert rows == ["110", "011", "100", "010", "000"]
    assert len(read_file(path, problem="single_label").spec.classes) == 5
    topics = ["weather, and climate", "sports", "politics", "science"] * 5
    path = write_csv(tmp_path / "topics.csv", columns | {"label": topics})
    assert read_file(path).spec.problem == "single_label"
