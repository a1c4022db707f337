"""`python -m bench.predict`: an exported model's predictions for files of texts of every format."""

import csv
import io
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench.common.command import BAD_INPUT
from bench.export import predict
from bench.export.formats import SNIPPET
from tests.bench.export.small import CLASSES, expected_logits

TEXTS = ["The film", "not a bad film, but boring!", "good", "badly acted and badly cut"]


def run(*arguments):
    code: int = predict.command.main([str(word) for word in arguments], standalone_mode=False)
    return code


@pytest.fixture
def export(exports, tmp_path):
    """Exports as of `exports`, in a copy of whose folder the script must not run."""

    def copy(name, **settings):
        cell, folder = exports(name, **settings)
        own = shutil.copytree(folder, tmp_path / f"model-{name}")
        write(own / SNIPPET, "raise SystemExit('the folder must not run code')\n")
        return cell, own

    return copy


def described(folder, problem="single_label_classification", **more):
    folder.mkdir()
    names = {str(i): name for i, name in enumerate(more.pop("classes", CLASSES))}
    config = {"problem_type": problem, "id2label": names, "text_pairs": False, **more}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").touch()
    (folder / SNIPPET).touch()
    return folder


@pytest.fixture
def model(tmp_path):
    """A folder that looks like an exported one; its model is not loaded."""
    return described(tmp_path / "model")


@pytest.fixture
def answers(monkeypatch):
    """The texts that a stub in place of the model is given; it predicts their number of letters."""
    given: list[list[Any]] = []

    def load(*_):
        def answer(texts):
            given.append(list(texts))
            return [(CLASSES[len("".join(text)) % 3], (0.25, 0.5, 0.25)) for text in texts]

        return answer

    monkeypatch.setattr(predict, "_load", load)
    return given


def table(text):
    return list(csv.reader(io.StringIO(text)))


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def refused(*arguments):
    with pytest.raises(BAD_INPUT) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["transformers", "onnx", "sentence-transformers"])
def test_predictions_are_the_models(name, export, tmp_path, capsys):
    cell, folder = export(name)
    logits = expected_logits(cell)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = [{"id": i, "text": text} for i, text in enumerate(cell.dev.text_a)]
    file = write(tmp_path / "dev.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    target = tmp_path / "out.csv"
    assert run(folder, file, "--to", target) == 0
    head, *lines = table(target.read_text(encoding="utf-8"))
    assert head == ["row", "prediction", "p_wrong", "p_right", "p_maybe"]
    assert [int(line[0]) for line in lines] == [*range(1, len(rows) + 1)]
    unusable = [i for i, row in enumerate(rows) if not row["text"].strip() or "\0" in row["text"]]
    assert len(unusable) == 2
    for i, (_, prediction, *values) in enumerate(lines):
        if i in unusable:
            assert (prediction, *values) == ("", "", "", "")
        else:
            assert prediction == CLASSES[int(logits[i].argmax())]
            np.testing.assert_allclose([float(value) for value in values], shares[i], atol=1e-4)
    err = capsys.readouterr().err
    assert "note: 1 row is without a prediction, with an empty text" in err
    assert "note: 1 row is without a prediction, with a NUL character" in err


def test_an_adapter_is_loaded_on_the_base_that_is_named(base, export, tmp_path):
    cell, folder = export("peft", on_hub=False)
    file = write(tmp_path / "texts.txt", "\n".join(cell.dev.text_a[:2]) + "\n")
    target = tmp_path / "out.csv"
    assert "is not on the hub; name its folder (--base)" in refused(folder, file, "--to", target)
    changed = tmp_path / "changed"
    shutil.copytree(base, changed)
    with (changed / "model.safetensors").open("ab") as weights:
        weights.write(b" ")
    assert "has changed" in refused(folder, file, "--to", target, "--base", changed)
    assert not target.exists()
    assert run(folder, file, "--to", target, "--base", base) == 0
    classes = [CLASSES[i] for i in expected_logits(cell)[:2].argmax(axis=1)]
    assert [line[1] for line in table(target.read_text())[1:]] == classes


@pytest.mark.parametrize("terminal", [False, True])
def test_names_of_classes_do_not_move_a_terminals_cursor(monkeypatch, terminal):
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stdout", stdout)
    with predict._output(None) as stream:
        predict._csv_writer(stream, ["a\x1b[2J\u202e"])
    text = stdout.buffer.getvalue().decode()
    name = r"a\x1b[2J\u202e" if terminal else "a\x1b[2J\u202e"
    assert text == f"row,prediction,p_{name}\n"


def test_eight_bit_weights_are_loaded_by_name(export, tmp_path):
    _, folder = export("onnx")
    _, merged = export("transformers")
    file, target = write(tmp_path / "a.txt", "\n".join(TEXTS)), tmp_path / "out.csv"
    assert run(folder, file, "--to", target) == 0
    exact = target.read_text()
    message = refused(merged, file, "--weights", "model-int8.onnx")
    assert message == "--weights model-int8.onnx: the model has one file of weights"
    (folder / "model.onnx").write_bytes(b"")
    assert run(folder, file, "--to", target, "--weights", "model-int8.onnx") == 0
    assert target.read_text() != exact
    assert "can't be loaded" in refused(folder, file, "--to", target)
    message = refused(folder, file, "--weights", "model-int4.onnx")
    assert message == "--weights model-int4.onnx: the model has model-int8.onnx and model.onnx"
    (folder / "config.json").write_text('{"problem_type": "", "id2label": {}, "text_pairs": 0}')
    message = refused(folder, file, "--to", target, "--weights", "model-int8.onnx")
    assert "can't predict: list index out of range" in message


@pytest.mark.parametrize(
    ("name", "content", "arguments"),
    [
        ("a.txt", "\n".join(TEXTS), []),
        ("a.csv", "id,review,stars\n" + "".join(f'{i},"{t}",5\n' for i, t in enumerate(TEXTS)), []),
        ("a.tsv", "x\ty\n" + "".join(f"{text}\t5\n" for text in TEXTS), ["--text", "x"]),
        ("a.csv", "anything\n" + "".join(f'"{text}"\n' for text in TEXTS), []),
        ("a.jsonl", "".join(f'{{"text": {json.dumps(text)}}}\n' for text in TEXTS), []),
    ],
)
def test_texts_come_from_files_as_bench_data_reads_them(
    name, content, arguments, model, tmp_path, answers, capsys
):
    assert run(model, write(tmp_path / name, content), *arguments) == 0
    assert sorted(answers[0]) == sorted(TEXTS)
    assert answers[0] == sorted(TEXTS, key=len)  # so that little is padded
    lines = table(capsys.readouterr().out)[1:]
    assert [line[1] for line in lines] == [CLASSES[len(text) % 3] for text in TEXTS]


def test_rows_keep_their_order_and_number_over_chunks(
    model, tmp_path, answers, monkeypatch, capsys
):
    monkeypatch.setattr(predict, "_CHUNK", 3)
    texts = ["", "aaaa", "b", "ccc", "dd", " ", "eeeeeeee"]
    file = write(tmp_path / "a.txt", "".join(f"{text}\n" for text in texts))
    assert run(model, file, "--json") == 0
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["row"] for record in records] == [1, 2, 3, 4, 5, 6, 7]
    expected = [CLASSES[len(text) % 3] if text.strip() else None for text in texts]
    assert [record["prediction"] for record in records] == expected
    assert "probabilities" not in records[0]
    assert records[1]["probabilities"] == {"wrong": 0.25, "right": 0.5, "maybe": 0.25}
    assert answers == [["b", "aaaa"], ["dd", "ccc"], ["eeeeeeee"]]
    assert err == "note: 2 rows are without a prediction, with an empty text\n"


def test_empty_fields_are_rows_and_blank_lines_are_not(
    model, tmp_path, answers, capsys, monkeypatch
):
    """As pandas numbers them; warnings of libraries are not shown."""
    stub = predict._load

    def load(*arguments):
        warnings.warn("this will change", FutureWarning, stacklevel=1)
        return stub(*arguments)

    monkeypatch.setattr(predict, "_load", load)
    file = write(tmp_path / "a.csv", 'text\na\n""\n\n  \n"  "\nbb\n')
    with warnings.catch_warnings(action="error"):
        assert run(model, file) == 0
    lines = table(capsys.readouterr().out)[1:]
    assert [line[:2] for line in lines] == [["1", "right"], ["2", ""], ["3", ""], ["4", "maybe"]]


def test_pairs_take_two_columns(tmp_path, answers, capsys):
    pairs = described(tmp_path / "pairs", text_pairs=True)
    file = write(tmp_path / "a.csv", "id,sentence1,sentence2,note\n1,a b,c,x\n2,d,,x\n")
    assert run(pairs, file) == 0
    assert answers == [[("a b", "c")]]
    assert [line[:2] for line in table(capsys.readouterr().out)[1:]] == [["1", "right"], ["2", ""]]
    assert run(pairs, file, "--text", "sentence2", "--text-pair", "note") == 0
    assert answers[1] == [("c", "x")]
    one = write(tmp_path / "a.txt", "a\n")
    assert "which columns hold the two texts of each pair? --text COLUMN" in refused(pairs, one)
    assert "are the same column" in refused(pairs, file, "--text", "note", "--text-pair", "note")
    single = described(tmp_path / "single")
    assert "the model takes single texts" in refused(single, file, "--text-pair", "note")
    assert "which column holds the text? --text COLUMN" in refused(single, file)


SEVERAL, NUMBER = "multi_label_classification", "regression"


@pytest.mark.parametrize(
    ("problem", "classes", "answer", "line", "prediction"),
    [
        (SEVERAL, CLASSES, (["wrong", "maybe"], (0.9, 0.1, 0.7)), "1,wrong|maybe,0.9,0.1,0.7",
         ["wrong", "maybe"]),
        (SEVERAL, ["a|b", "c", "=d"], (["a|b", "c"], (0.9, 0.8, 0.2)),
         '1,"[""a|b"", ""c""]",0.9,0.8,0.2', ["a|b", "c"]),
        (SEVERAL, CLASSES, ([], (0.1, 0.1, 0.2)), "1,,0.1,0.1,0.2", []),
        (NUMBER, ["x"], (-2.5, (-2.5,)), "1,-2.5", -2.5),
        ("", ["=d", "-1"], ("=d", (0.9, 0.1)), "1,'=d,0.9,0.1", "=d"),  # no formula of a sheet
        ("", ["=d", "-1"], ("-1", (0.1, 0.9)), "1,-1,0.1,0.9", "-1"),
    ],
)  # fmt: skip
def test_several_labels_and_numbers(
    tmp_path, monkeypatch, capsys, problem, classes, answer, line, prediction
):
    folder = described(tmp_path / "model", problem, classes=classes)
    file = write(tmp_path / "a.txt", "t\n")
    monkeypatch.setattr(predict, "_load", lambda *_: lambda _texts: [answer])
    assert run(folder, file) == 0
    assert capsys.readouterr().out.splitlines()[-1] == line
    assert run(folder, file, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["prediction"] == prediction
    assert ("probabilities" in record) == (problem != NUMBER)


def test_bad_input_is_one_line_and_leaves_no_file(model, tmp_path, answers):
    file, target = write(tmp_path / "a.txt", "x\n"), tmp_path / "out.csv"
    empty, none = write(tmp_path / "b.txt", ""), write(tmp_path / "c.txt", "\n \n")
    broken = write(tmp_path / "d.csv", "text\nfine\n" + '"open\n' * 3)
    other = tmp_path / "other"
    other.mkdir()
    for arguments, message in (
        ([tmp_path / "no", file], "there is no such folder"),
        ([other, file], "holds no exported model"),
        ([model, tmp_path / "no.txt"], "there is no such file"),
        ([model, other], "is a folder; name a file"),
        ([model, write(tmp_path / "a.doc", "x")], "its format is not known by its suffix; known"),
        ([model, empty], "b.txt: holds no text"),
        ([model, none], "none of 2 rows can be predicted (2 with an empty text)"),
        ([model, broken], "d.csv, line 3:"),
        ([model, write(tmp_path / "e.csv", "a,b,c\n1,2,3\n")], "which column holds the text?"),
        ([model, write(tmp_path / "f.csv", "text,b\n")], "f.csv: holds no text"),
        ([model, file, "--text", "txt"], "--text `txt` is no column; nearest of 1: `text`"),
    ):
        assert message in refused(*arguments, "--to", target)
        assert sorted(path.name for path in tmp_path.glob("*out*")) == []
    assert "is an input file; name another" in refused(model, file, "--to", file)
    assert "--to: " in refused(model, file, "--to", tmp_path / "no" / "out.csv")
    for inside in (model / "model.safetensors", model / "new.csv"):
        assert "is in the model's folder; name a file els" in refused(model, file, "--to", inside)
    assert (model / "model.safetensors").stat().st_size == 0
    write(target, "earlier")
    refused(model, none, "--to", target)
    assert target.read_text() == "earlier"
    (model / "config.json").write_text("{}")
    assert "does not describe an exported model" in refused(model, file)


def test_a_missing_library_is_named_with_the_command(model, tmp_path, monkeypatch):
    file = write(tmp_path / "a.txt", "a\n")
    assert "is a whole model and needs none" in refused(model, file, "--base", str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "needs transformers: pip install -e '.[transformers]'" in refused(model, file)


def test_the_command_reads_stdin_and_stops_with_its_reader(export):
    _, folder = export("onnx")
    command = [sys.executable, "-m", "bench.predict", str(folder), "-"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(b"film\n" * 5000)
    assert (process.returncode, err) == (0, b"")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, input=b"a\n", stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (
        1, b"error: stdout can't be written (No space left on device)\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "numbers", "message"),
    [
        ("The film\n\nCafé\n".encode(), ["row", "1", "2", "3"], ""),
        (b"caf\xe9\n", [], "stdin, line 1: byte 0xE9 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_stdin_has_a_text_on_each_line(model, answers, given, numbers, message):
    done = CliRunner().invoke(predict.command, [str(model), "-"], given, standalone_mode=False)
    assert [line[0] for line in table(done.stdout)] == numbers
    assert str(done.exception or "") == message
    assert message or done.stderr == "note: 1 row is without a prediction, with an empty text\n"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("peft", "config.json"),
        ("transformers", "config.json"),
        ("sentence-transformers", "0_Transformer/config.json"),
    ],
)
def test_no_code_of_a_folder_is_run(name, part, base, export, tmp_path, monkeypatch):
    """Not even where transformers would ask on the terminal, and take a line of stdin for yes."""
    _, folder = export(name, on_hub=False)
    file, ran = folder / part, tmp_path / "ran"
    write(file.with_name("evil.py"), f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    classes = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer")
    evil = {"model_type": "evil", "tokenizer_class": "Evil",
            "auto_map": dict.fromkeys(classes, "evil.Evil")}  # fmt: skip
    file.write_text(json.dumps(json.loads(file.read_text()) | evil))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"y\n" * 50)))
    option = ["--base", base] if name == "peft" else []
    assert refused(folder, write(tmp_path / "a.txt", "a\n"), *option)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("part", "at", "change"),
    [
        ("2_Dense/config.json", (), {"activation_function": "torch.evil.Evil"}),
        ("2_Dense/config.json", (), {"use_residual": True}),
        ("modules.json", (2,), {"type": "sentence_transformers.evil.Evil"}),
        ("modules.json", (2,), {"path": "../model-sentence-transformers/2_Dense"}),
        ("0_Transformer/sentence_bert_config.json", (), {"model_args": {"subfolder": "x"}}),
        ("0_Transformer/config.json", (), {"_attn_implementation": "evil/kernel"}),
        ("0_Transformer/config.json", (), {"text_config": [{"attn_implementation": "flash"}]}),
        ("0_Transformer/config.json", (), {"transformers_weights": "../model.safetensors"}),
    ],
)  # fmt: skip
def test_modules_are_checked_before_the_library_sees_them(
    part, at, change, export, tmp_path, monkeypatch
):
    _, folder = export("sentence-transformers")
    file, ran = write(tmp_path / "a.txt", "a\n"), []

    class Evil(torch.nn.Tanh):
        def __init__(self):
            super().__init__()
            ran.append(part)

        load = classmethod(lambda cls, *_, **__: cls())

    for name in ("torch.evil", "sentence_transformers.evil"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(Evil=Evil))
    values = json.loads((folder / part).read_text())
    inner = values
    for key in at:
        inner = inner[key]
    inner |= change
    write(folder / part, json.dumps(values))
    message = refused(folder, file)
    assert message.startswith(f"{folder / part}: ")
    assert next(iter(change)) in message or "attn_implementation" in message
    assert not ran
