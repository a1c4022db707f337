"""The user's own data is read as it is meant, whatever the format."""

import subprocess
import sys
from functools import partial

import pytest

from bench.common.errors import InputError
from bench.examples.reading import read_test
from bench.plan.dataset import DataSpec
from tests.bench.examples.tables import (
    TOPICS,
    named_labels,
    need_data,
    read_file,
    write_csv,
    write_json_lines,
    write_parquet,
)


def write_saved(path, columns):
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(dict(columns)).save_to_disk(path)
    return path


FORMATS = {
    "train.csv": write_csv,
    "train.tsv": partial(write_csv, delimiter="\t"),
    "train.jsonl": write_json_lines,
    "train.json": write_json_lines,
    "train.parquet": write_parquet,
    "saved": write_saved,
}


@pytest.fixture(params=FORMATS)
def write(request, tmp_path):
    """Writes columns in each format."""
    name = request.param
    if name in ("train.parquet", "saved"):
        need_data()
    return lambda columns: FORMATS[name](tmp_path / name, columns)


def test_words_are_classes_in_the_order_of_the_alphabet(write):
    data = read_file(write(TOPICS))
    assert data.spec.problem == "single_label"
    assert data.spec.classes == ("film", "money", "sport")
    assert data.examples.text_a == tuple(TOPICS["text"])
    assert named_labels(data) == TOPICS["label"]
    assert data.examples.text_b is data.validation is data.examples.groups is None
    assert data.notes[-3:] == (
        "text: column `text`",
        "label: column `label`",
        "problem: single_label, inferred, 3 classes: `film`, `money`, `sport`",
    )


def test_numbers_are_a_regression_or_classes_in_their_order(write):
    scores = [0.5, 1.0, 2.25, 1e-05, -3.5, 0.1]
    data = read_file(write({"text": TOPICS["text"], "score": scores}))
    assert (data.spec.problem, data.spec.classes) == ("regression", ())
    assert data.examples.labels.tolist() == scores
    data = read_file(write({"text": TOPICS["text"], "label": [9, 10, 9, -1, 10, -1]}))
    assert data.spec.classes == ("-1", "9", "10")
    assert named_labels(data) == ["9", "10", "9", "-1", "10", "-1"]


def test_words_that_programs_take_for_missing_are_labels_and_texts(write):
    texts, labels = ["NA", "null", "None", "nan", "0012"], ["NA", "None", "null", "nan", "NA"]
    columns = {"text": texts, "label": labels}
    data = read_file(write(columns), text="text")
    assert data.examples.text_a == tuple(columns["text"])
    assert data.spec.classes == ("NA", "None", "nan", "null")
    assert named_labels(data) == columns["label"]


def test_rows_without_a_label_or_text_are_left_out_and_counted(write):
    columns = {
        "text": ["one", " two ", None, "four", "five", "six"],
        "label": ["a", "b", "a", None, "b", None],
    }
    data = read_file(write(columns))
    assert data.examples.text_a == ("one", "two", "five")
    assert named_labels(data) == ["a", "b", "b"]
    empty, unlabelled = data.notes[-2:]
    assert "1 row with an empty text left out, first at " in empty
    assert "2 rows without a label left out, first at " in unlabelled


def test_pairs_and_groups_are_read(write):
    columns = {
        "Question1": ["a", "b", "c", "d"],
        "question_2": ["e", "f", "g", "h"],
        "is_duplicate": ["yes", "no", "yes", "no"],
        "author": ["x", None, "x", None],
    }
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


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (["x | y", "z", "x|"], "labels are separated by `|`"),
        (["x;y", "z", "x"], "labels are separated by `;`"),
        (["x, y", "z", "x"], "labels are separated by `,`"),
        (['["x", "\\u0079"]', "['z']", '["x"]'], None),
    ],
)
def test_several_labels_in_a_field_are_separated(tmp_path, labels, note):
    path = write_csv(tmp_path / "d.csv", {"text": ["a", "b", "c"], "label": labels})
    data = read_file(path, problem="multi_label")
    assert data.spec.classes == ("x", "y", "z")
    assert data.examples.labels.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert note is None or note in data.notes


def test_the_separator_of_a_validation_file_is_the_one_that_gives_known_classes(tmp_path):
    columns = {"text": list("abcd"), "label": ["x, y|z", "z", "x, y", "z"]}
    train = write_csv(tmp_path / "train.csv", columns)
    dev = write_csv(tmp_path / "dev.csv", {"text": ["e"], "label": ["x, y"]})
    data = read_file(train, problem="multi_label", validation=str(dev))
    assert data.spec.classes == ("x, y", "z")
    assert data.validation.labels.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("labels", "problem", "classes"),
    [
        (["1", "01", "2", "01"], "single_label", ("01", "1", "2")),
        (["1.0", "2.0", "1.0", "2.0"], "single_label", ("1.0", "2.0")),
        (["yes", "3", "no", "3"], None, ("3", "no", "yes")),
    ],
)
def test_classes_are_compared_by_their_text(tmp_path, labels, problem, classes):
    path = write_csv(tmp_path / "d.csv", {"text": list("abcd"), "label": labels})
    data = read_file(path, problem=problem)
    assert data.spec.classes == classes
    assert named_labels(data) == labels


@pytest.mark.parametrize(
    ("columns", "text", "label"),
    [
        ({"REVIEW": list("ab"), "Stars": ["bad", "good"]}, "REVIEW", "Stars"),
        ({"id": ["1", "2"], "comment": list("ab"), "why": ["x", "y"]}, "comment", "why"),
        ({"y": ["x", "z"] * 2, "x": ["long one", "long b", "long c", "long d"]}, "x", "y"),
        (
            {"text": list("ab"), "label": ["x", "y"], "note": ["n", "o"], "date": ["1", "2"]},
            "text",
            "label",
        ),
    ],
)
def test_columns_are_inferred(tmp_path, columns, text, label):
    data = read_file(write_csv(tmp_path / "d.csv", columns))
    assert (data.spec.text, data.spec.label, data.spec.text_pair) == (text, label, None)
    assert ("columns not used: `note`, `date`" in data.notes) == ("note" in columns)


def test_named_classes_keep_their_order_and_one_that_only_validation_has_is_refused_unless_given(
    tmp_path,
):
    need_data()
    import datasets

    datasets.disable_progress_bars()
    names = ["zebra", "ant", "never"]
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=names)
    )
    train, dev = (
        datasets.Dataset.from_dict({"text": list("abcd"), "label": labels}, features)
        for labels in ([0, 1, 0, -1], [0, 2, 1, 1])
    )
    train.save_to_disk(tmp_path / "saved")
    train.to_parquet(tmp_path / "d.parquet")
    for path in (tmp_path / "saved", tmp_path / "d.parquet"):
        data = read_file(path)
        assert data.spec.classes == tuple(names)
        assert named_labels(data) == ["zebra", "ant", "zebra"]
        assert "1 row without a label left out, first at record 4" in data.notes[-1]
    both = tmp_path / "both"
    datasets.DatasetDict({"train": train, "validation": dev}).save_to_disk(both)
    with pytest.raises(InputError, match=r"the label `never`, which no training example has"):
        read_file(both)
    data = read_file(both, classes=names)
    assert data.validation.labels.tolist() == [0, 2, 1, 1]


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


def test_a_saved_dictionary_gives_train_and_validation_and_never_test(tmp_path):
    need_data()
    import datasets

    datasets.disable_progress_bars()
    splits = {
        name: datasets.Dataset.from_dict({"text": [f"{name} 1", f"{name} 2"], "label": ["a", "b"]})
        for name in ("train", "validation", "test")
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "saved" / "test").glob("*.arrow"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="saved: can't be read"):
        read_file(tmp_path / "saved")
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "again")
    data = read_file(tmp_path / "again")
    assert data.examples.text_a == ("train 1", "train 2")
    assert data.validation.text_a == ("validation 1", "validation 2")
    assert read_test(data.spec)[0].text_a == ("test 1", "test 2")


def test_a_folder_gives_train_and_validation_whatever_their_formats(tmp_path):
    write_csv(tmp_path / "train.csv", TOPICS)
    write_json_lines(tmp_path / "valid.jsonl", {"text": ["goal"], "label": ["sport"]})
    (tmp_path / "test.csv").write_bytes(b"\0")  # reading it would fail
    data = read_file(tmp_path)
    assert data.validation.text_a == ("goal",)
    assert data.validation.labels.tolist() == [2]
    with pytest.raises(InputError, match="NUL byte"):
        read_test(data.spec)


def test_a_validation_and_a_test_file_have_the_columns_and_classes_of_training(tmp_path):
    columns = {"a": ["long text", "b b"] * 2, "b": list("xyxy"), "g": list("1122")}
    train = write_csv(tmp_path / "train.csv", columns)
    rows = {"c": ["n", "n"], "b": ["y", "y"], "a": ["dev", ""], "g": [1, 2]}
    dev = write_json_lines(tmp_path / "dev.jsonl", rows)
    test = write_csv(tmp_path / "test.tsv", {"a": ["t"], "b": ["x"]}, "\t")
    roles = {"text": "a", "label": "b", "group": "g"}
    data = read_file(train, validation=str(dev), test=str(test), **roles)
    assert data.validation.text_a == ("dev",)
    assert data.validation.labels.tolist() == [1]
    assert (data.examples.groups, data.validation.groups) == (("1", "1", "2", "2"), ("1",))
    assert "dev.jsonl: 1 row with an empty text left out, first at line 2" in data.notes
    tested, _ = read_test(data.spec)
    assert (tested.text_a, tested.labels.tolist()) == (("t",), [0])


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


def test_csv_needs_no_heavy_library(tmp_path):
    path = write_csv(tmp_path / "train.csv", TOPICS)
    code = (
        "import sys\nfrom bench.examples.reading import read\n"
        f"from bench.plan.dataset import DataSpec\nread(DataSpec(path={str(path)!r}))\n"
        "print({'torch', 'pandas', 'sklearn', 'pyarrow', 'datasets'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_without_the_extra_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    for module in ("pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "d.parquet").touch()
    for path in (tmp_path / "d.parquet", "hub:user/set"):
        with pytest.raises(InputError, match=r"pip install -e '\.\[data\]'"):
            read_file(path)


def test_the_spec_that_comes_back_reads_the_same(tmp_path):
    path = write_csv(tmp_path / "train.csv", TOPICS)
    spec = read_file(path).spec
    assert spec == DataSpec(
        path=str(path), text="text", label="label", problem="single_label",
        classes=("film", "money", "sport"),
    )  # fmt: skip
    assert read_file(spec.path).examples.labels.tolist() == [2, 1, 0, 2, 1, 0]
    data = read_file(path, classes=("sport", "film", "art", "money"))
    assert data.spec.classes == ("sport", "film", "art", "money"), "as given, with one that lacks"
    assert data.examples.labels.tolist() == [0, 3, 1, 0, 3, 1]


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
