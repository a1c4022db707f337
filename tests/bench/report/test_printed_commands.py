"""Every command that is printed, with hostile text in every text, run by a shell with stubs.

Columns come from the schema and commands from what is printed, so that new ones are covered.
"""

import html
import json
import random
import re
import shutil
import subprocess
from unittest import mock

import pytest

from bench import recommend
from bench.common.errors import InputError
from bench.common.messages import command_line
from bench.compare.__main__ import command as compare
from bench.grid.resume import how_to_go_on
from bench.plan.columns import BY_NAME, NAMES, format_value
from bench.plan.dataset import DataSpec
from bench.report.__main__ import main as report
from bench.results.facts import FACTS, DataFacts
from bench.results.rowfile import record
from bench.results.store import read_rows
from tests.bench.synthetic_rows import cell, result_row
from tests.hostile import check_line

HOSTILE = "a'\";touch PWNED;'$(touch PWNED)`touch PWNED`\ntouch PWNED\n|touch PWNED>PWNED\u202e #"
TEXTS = [*(name for name in NAMES if BY_NAME[name].kind is str)]
ROWS = [
    result_row(cell(*of, amp, seed), random.Random(seed))  # noqa: S311
    for of in (("full", None, None), ("head", None, None), ("lora", 8, "attn"))
    for amp in ("off", "bf16")
    for seed in (0, 1, 2)
]


def write(path, columns):
    """Write the rows with hostile text in some columns, and facts with such text."""
    texts = dict.fromkeys(columns, HOSTILE)
    fields = []
    for number, row in enumerate(ROWS):
        if "cell_id" in texts:  # else they were attempts at one cell
            texts["cell_id"] = f"{HOSTILE}{number}"
        fields.append([texts.get(name, format_value(row[name])) for name in NAMES])
    path.write_bytes(record(NAMES) + b"".join(map(record, fields)))
    facts = DataFacts(
        task=HOSTILE, problem="single_label", source=HOSTILE, train=9, dev=1,
        given=dict.fromkeys((*DataSpec.model_fields, HOSTILE), HOSTILE),
    )  # fmt: skip
    digest = HOSTILE if "data_digest" in columns else ROWS[0].data_digest
    FACTS.path(path).write_text(json.dumps({digest: facts.model_dump(mode="json")}))


def accepted(folder):
    """The columns in which hostile text is not refused with a line."""
    names = []
    for name in TEXTS:
        path = folder / "one.csv"
        write(path, [name])
        try:
            read_rows(path)
        except InputError as error:
            check_line(str(error), f"{path}, line 2: {name}")
        else:
            names.append(name)
    return names


def strings(value):
    """All texts in a JSON document."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else ():
        yield from strings(inner)
    for inner in value if isinstance(value, list) else ():
        yield from strings(inner)


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A function that runs the commands in a text, and returns those that the stubs saw."""
    folder = tmp_path_factory.mktemp("shell")
    stubs, seen = folder / "bin", folder / "seen"
    stubs.mkdir()
    for name in ("python", "minbert-bench"):
        (stubs / name).write_text(f'#!/bin/sh\necho "$0 $1 $2" >> {seen}\n')
        (stubs / name).chmod(0o755)
    (stubs / "touch").symlink_to("/usr/bin/touch")
    done = set()

    def run(text):
        inner = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
        plain = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
        lines = html.unescape(re.sub(r"</?(pre|code|p)[^>]*>", "\n", plain)).splitlines()
        for line in (*lines, *strings([json.loads(part) for part in inner])):
            found = re.search(r"\b(python|minbert-bench) .*", line)
            if found and found[0] not in done:
                done.add(found[0])
                subprocess.run(
                    ["/bin/sh", "-c", found[0]], cwd=folder, check=False, env={"PATH": str(stubs)},
                    stdin=subprocess.DEVNULL, capture_output=True,
                )  # fmt: skip
                assert not (folder / "PWNED").exists(), line
        return {line.rpartition("/")[2] for line in seen.read_text().splitlines()}

    return run


def printed(main, *arguments, capsys):
    """The output of a command in this process."""
    with mock.patch("sys.argv", ["x", *arguments]):
        main.main([*arguments], standalone_mode=False)
    return "".join(capsys.readouterr())


def test_no_text_of_a_row_runs_in_a_printed_command(tmp_path, monkeypatch, undrawn, capsys, shell):
    monkeypatch.chdir(tmp_path)
    columns = accepted(tmp_path)
    assert {"model", "task", "grid", "message", "machine"} <= {*columns}
    assert "device" not in columns
    for name in columns:
        write(tmp_path / "one.csv", [name])
        shell(printed(recommend.main, "--runs", "one.csv", capsys=capsys))
    named = tmp_path / f"{HOSTILE}.csv".replace("/", "-")
    write(named, columns)
    other = shutil.copy(named, tmp_path / f"other {named.name}").name
    text = printed(report, "--runs", named.name, "--code-version", HOSTILE, capsys=capsys)
    text += printed(report, "--runs", named.name, "--history", capsys=capsys)
    text += printed(compare, named.name, other, "--reports", "reports", capsys=capsys)
    text += "\n".join(path.read_text() for path in tmp_path.rglob("*.[hm][td]*"))
    text += "\n".join([command_line("ensemble", HOSTILE), *how_to_go_on([HOSTILE])])
    commands = ("grid", "report", "recommend", "compare", "ensemble")
    assert {f"python -m bench.{name}" for name in commands} <= shell(text)
