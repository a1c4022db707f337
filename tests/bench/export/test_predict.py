"""`python -m bench.predict`: an exported model's predictions for files of texts of every format."""

import csv
import io
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.common.command import BAD_INPUT
from bench.export import predict
from bench.export.formats import SNIPPET, Format
from bench.plan.metrics import WORDS
from tests.bench.export.small import CLASSES, expected_logits

SEVERAL, NUMBER = "multi_label_classification", "regression"


def run(*arguments):
    return predict.command.main([*map(str, arguments)], standalone_mode=False)


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
    given = []

    def answer(texts):
        given.append(list(texts))
        warnings.warn("this will change", FutureWarning, stacklevel=1)
        return [(CLASSES[len("".join(text)) % 3], (0.25, 0.5, 0.25)) for text in texts]

    monkeypatch.setattr(predict, "_load", lambda *_: answer)
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


@pytest.mark.parametrize("name", ["transformers", "sentence-transformers"])
def test_predictions_are_the_models(name, export, tmp_path, capsys):
    cell, folder = export(name)
    logits = expected_logits(cell)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = [json.dumps({"text": text}) for text in cell.dev.text_a]
    target = tmp_path / "out.csv"
    assert run(folder, write(tmp_path / "dev.jsonl", "\n".join(rows)), "--to", target) == 0
    head, *lines = table(target.read_text(encoding="utf-8"))
    assert head == ["row", "prediction", "p_wrong", "p_right", "p_maybe"]
    assert [int(line[0]) for line in lines] == [*range(1, len(rows) + 1)]
    answers = [line for line in lines if line[1:] != [""] * 4]
    assert len(answers) == len(rows) - 2
    for row, prediction, *values in answers:
        assert prediction == CLASSES[logits[int(row) - 1].argmax()]
        np.testing.assert_allclose(np.array(values, float), shares[int(row) - 1], atol=1e-4)
    err = capsys.readouterr().err
    for why in ("an empty text", "a NUL character"):
        assert f"note: 1 row is without a prediction, with {why}" in err


def test_an_adapter_is_loaded_on_the_base_that_is_named(base, export, tmp_path):
    cell, folder = export("peft", on_hub=False)
    file = write(tmp_path / "texts.txt", "\n".join(cell.dev.text_a[:2]) + "\n")
    target = tmp_path / "out.csv"
    assert "is not on the hub; name its folder (--base)" in refused(folder, file, "--to", target)
    changed = shutil.copytree(base, tmp_path / "changed")
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
    file, target = write(tmp_path / "a.txt", "The film\ngood\nnot a bad film"), tmp_path / "out.csv"
    assert run(folder, file, "--to", target) == 0
    exact = target.read_text()
    assert refused(merged, file, "--weights", "model-int8.onnx").endswith("one file of weights")
    (folder / "model.onnx").write_bytes(b"")
    assert run(folder, file, "--to", target, "--weights", "model-int8.onnx") == 0
    assert target.read_text() != exact
    assert "can't be loaded" in refused(folder, file, "--to", target)
    has = "the model has model-int8.onnx and model.onnx"
    assert refused(folder, file, "--weights", "model-int4.onnx").endswith(has)
    (folder / "config.json").write_text('{"problem_type": "", "id2label": {}, "text_pairs": 0}')
    message = refused(folder, file, "--to", target, "--weights", "model-int8.onnx")
    assert "can't predict: list index out of range" in message


def test_rows_keep_their_order_over_chunks(model, tmp_path, answers, monkeypatch, capsys):
    """Within a chunk texts are by length, so that little is padded."""
    monkeypatch.setattr(predict, "_CHUNK", 3)
    monkeypatch.setattr(predict, "_PATIENCE_S", -1.0)
    texts = ["", "aaaa", "b", "ccc", "dd", " ", "eeeeeeee"]
    file = write(tmp_path / "a.tsv", "x\ty\n" + "".join(f'"{text}"\t5\n' for text in texts))
    with warnings.catch_warnings(action="error"):  # of libraries, which are not shown
        assert run(model, file, "--json", "--text", "x") == 0
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["row"] for record in records] == [1, 2, 3, 4, 5, 6, 7]
    expected = [CLASSES[len(text) % 3] if text.strip() else None for text in texts]
    assert [record["prediction"] for record in records] == expected
    assert "probabilities" not in records[0]
    assert records[1]["probabilities"] == {"wrong": 0.25, "right": 0.5, "maybe": 0.25}
    assert answers == [["b", "aaaa"], ["dd", "ccc"], ["eeeeeeee"]]
    assert err == "note: 2 rows are without a prediction, with an empty text\n"


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


@pytest.mark.parametrize(("problem", "classes", "answer", "line", "prediction"), [
    (SEVERAL, CLASSES, (["wrong", "maybe"], (0.9, 0.1, 0.7)), "1,wrong|maybe,0.9,0.1,0.7",
     ["wrong", "maybe"]),
    (SEVERAL, ["a|b", "c", "=d"], (["a|b", "c"], (0.9, 0.8, 0.2)),
     '1,"[""a|b"", ""c""]",0.9,0.8,0.2', ["a|b", "c"]),
    (SEVERAL, CLASSES, ([], (0.1, 0.1, 0.2)), "1,,0.1,0.1,0.2", []),
    (NUMBER, ["x"], (-2.5, (-2.5,)), "1,-2.5", -2.5),
    ("", ["=d", "-1"], ("=d", (0.9, 0.1)), "1,'=d,0.9,0.1", "=d"),  # no formula of a sheet
    ("", ["=d", "-1"], ("-1", (0.1, 0.9)), "1,-1,0.1,0.9", "-1"),
])  # fmt: skip
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
    none = write(tmp_path / "c.txt", "\n \n")
    (tmp_path / "other").mkdir()
    for arguments, message in (
        ([tmp_path / "no", file], "there is no such folder"),
        ([tmp_path / "other", file], "holds no exported model"),
        ([model, write(tmp_path / "b.txt", "")], "b.txt: holds no text"),
        ([model, none], "none of 2 rows can be predicted (2 with an empty text)"),
        ([model, write(tmp_path / "d.csv", "text\nfine\n" + '"open\n' * 3)], "d.csv, line 3:"),
        ([model, write(tmp_path / "e.csv", "a,b,c\n1,2,3\n")], "which column holds the text?"),
    ):
        assert message in refused(*arguments, "--to", target)
        assert not [*tmp_path.glob("*out*")]
    assert "is an input file; name another" in refused(model, file, "--to", file)
    assert "--to: " in refused(model, file, "--to", tmp_path / "no" / "out.csv")
    inside = model / "new.csv"
    assert "is in the model's folder; name a file els" in refused(model, file, "--to", inside)
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


def test_stdin_has_a_text_on_each_line_and_the_command_stops_with_its_reader(
    export, model, answers
):
    _, folder = export("onnx")
    command = [sys.executable, "-m", "bench.predict", str(folder), "-"]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1)
    process.stdout.close()
    assert process.communicate(b"film\n" * 5000) == (b"", b"")
    assert process.returncode == 0
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, input=b"a\n", stdout=full, stderr=-1, check=False)
    message = b"error: stdout can't be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (1, message)
    given = "The film\n\nCafé\n".encode()
    done = CliRunner().invoke(predict.command, [str(model), "-"], given, standalone_mode=False)
    assert [line[0] for line in table(done.stdout)] == ["row", "1", "2", "3"]
    assert done.stderr == "note: 1 row is without a prediction, with an empty text\n"


@pytest.mark.parametrize(("name", "part"), [
    ("peft", "config.json"), ("sentence-transformers", "0_Transformer/config.json"),
])  # fmt: skip
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


@pytest.mark.parametrize(("part", "change"), [
    ("2_Dense/config.json", {"activation_function": "torch.evil.Evil"}),
    ("2_Dense/config.json", {"use_residual": True}),
    ("modules.json", {"type": "sentence_transformers.evil.Evil"}),
    ("modules.json", {"path": "../model-sentence-transformers/2_Dense"}),
    ("0_Transformer/sentence_bert_config.json", {"model_args": {"subfolder": "x"}}),
    ("0_Transformer/config.json", {"_attn_implementation": "evil/kernel"}),
    ("0_Transformer/config.json", {"text_config": [{"attn_implementation": "flash"}]}),
    ("0_Transformer/config.json", {"transformers_weights": "../model.safetensors"}),
])  # fmt: skip
def test_modules_are_checked_before_they_load(part, change, export, tmp_path, monkeypatch):
    _, folder = export("sentence-transformers")
    monkeypatch.setattr(Format, "script", lambda _: pytest.fail("it is loaded"))
    values = json.loads((folder / part).read_text())
    (values[2] if part == "modules.json" else values).update(change)
    write(folder / part, json.dumps(values))
    message = refused(folder, write(tmp_path / "a.txt", "a\n"))
    assert message.startswith(f"{folder / part}: ")
    assert next(iter(change)) in message or "attn_implementation" in message


def test_spans_of_files_are_predicted(exports, tmp_path, capsys):
    own, out = exports("transformers", mode="full", layers=None, kind=WORDS)
    text = " ".join(own.dev.text_a[:3])
    (tmp_path / "a.txt").write_text(f"{text}\n\n{own.dev.text_a[3]}\n")
    lists = [{"tokens": text.split(" ")}, {"tokens": []}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lists)))
    (tmp_path / "a.conll").write_text("\n".join(f"{word} O" for word in text.split(" ")))
    rows = {}
    for name in ("a.txt", "a.jsonl", "a.conll"):
        assert run(out, tmp_path / name, "--to", tmp_path / "out.csv") == 0
        rows[name] = [*csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text("utf-8")))]
    assert rows["a.conll"] == rows["a.jsonl"]
    for row in rows["a.conll"]:
        assert row["type"] == "film"
        assert text[int(row["begin"]) : int(row["end"])] == row["text"]
        assert 0.3 < float(row["score"]) <= 1
    assert {row["row"] for row in rows["a.txt"]} <= {"1", "3"}
    capsys.readouterr()
    assert run(out, tmp_path / "a.jsonl", "--json") == 0
    one, other = map(json.loads, capsys.readouterr().out.splitlines())
    begins = [str(each["begin"]) for each in one["entities"]]
    assert begins == [row["begin"] for row in rows["a.jsonl"]]
    assert other == {"row": 2, "entities": None}

    # words beyond the model's length are read in windows, or counted
    words = " ".join(own.dev.text_a[:7]).split(" ")
    write(tmp_path / "long.jsonl", json.dumps({"tokens": words}))
    begins = {}
    for flags in ((), ("--window-stride", "3"), ("--window-stride", "0")):
        assert run(out, tmp_path / "long.jsonl", "--json", *flags) == 0
        written = capsys.readouterr()
        assert ("beyond the model's length" in written.err) == ("3" not in flags)
        begins[flags] = [each["begin"] for each in json.loads(written.out)["entities"]]
    cut, read, zero = begins.values()
    assert cut == zero
    assert len(read) > len(cut)
    assert max(read) > 4 * own.job.cell.max_length > max(cut, default=0)
    message = refused(out, tmp_path / "long.jsonl", "--window-stride", "90")
    assert "can't predict: tokenizer stride set to 90" in message
