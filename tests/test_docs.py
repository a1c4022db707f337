"""README and docs say what the code does; a broken link or a load from elsewhere fails the site."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path

import pytest

from adapters.names import LAYER_SETS
from bench.plan import gridfile
from bench.plan.cell import ABOUT
from bench.plan.columns import NAMES
from bench.plan.gridfile import Axes, Rates, Settings, TaskDecays, TaskRates
from bench.plan.planning import Resolved, expand
from bench.results.rowfile import record
from bench.results.store import Store
from minbert.assets.__main__ import main as assets
from tests.components import COMPONENTS, need
from tests.experiments import encoders_table, reliability_page
from tests.experiments.runs_csv_page import page
from tests.tutorial import BLOCK, PAGE, digest, outputs

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


PRINT = "print it anew: python -m tests.experiments"


def test_pages_that_commands_write_are_as_they_would_write_them():
    """Of the schema, of the faults that the suite counted, and of the encoders that it trained."""
    assert read("docs/runs-csv.md") == page(), f"{PRINT}.runs_csv_page > docs/runs-csv.md"
    summaries = [json.loads(read(f"docs/{name}.json")) for name in ("faults", "slurm-faults")]
    for counts in summaries:
        bad = ("lost", "duplicated", "left_running", "wrong")
        assert [counts[name] for name in bad] == [0, 0, 0, 0]
    words = "docs/faults.json docs/slurm-faults.json > docs/reliability.md"
    assert read("docs/reliability.md") == reliability_page.page(*summaries), (
        f"{PRINT}.reliability_page {words}"
    )
    results = json.loads(read("docs/encoders.json"))
    assert all(row.get("accuracy", 1) >= 0.95 for row in results["trained"])
    assert all(row.get("difference", 0) <= 1e-5 for row in results["trained"])
    assert all(row["difference"] <= 1e-4 for row in results["parity"])
    assert read("docs/encoders.md") == encoders_table.page(results), (
        f"{PRINT}.encoders_table --page"
    )


def test_the_page_of_commands_has_each_command_on_assets():
    named = re.findall(r"`python -m minbert\.assets (\w+)", read("docs/commands.md"))
    assert set(named) == set(assets.commands)


def test_the_first_command_of_the_readme_can_append_to_the_committed_rows():
    """Rows of an older schema can be read, and not appended to."""
    assert (ROOT / "runs.csv").read_bytes().startswith(record(NAMES)), "python -m bench.rebuild"
    assert Store(ROOT / "runs.csv").rows


def test_readme_has_at_most_900_words_and_docs_45_000_besides_what_commands_write():
    """Commands write two whole pages, and what is between two comments of one name."""
    assert len(read("README.md").split()) <= 900
    written = re.compile(r"<!-- ([\w ]+) -->.*?<!-- \1 -->", re.S)
    pages = {page.name: written.sub("", page.read_text()) for page in (ROOT / "docs").glob("*.md")}
    words = {name: len(text.split()) for name, text in pages.items()}
    of_commands = words["runs-csv.md"] + words["encoders.md"]
    assert of_commands > 5000
    assert sum(words.values()) - of_commands <= 45_000


def test_ci_runs_the_test_command_of_the_readme_and_tests_that_exist():
    (shown,) = re.findall(r"^(pip install .*) && (python -m pytest)$", read("README.md"), re.M)
    lines = read(".ci/run").splitlines()
    assert f"retry {shown[0]}" in lines
    assert shown[1] in lines
    assert lines[-1] == "python -m pytest --benchmark-only"
    oldest = re.findall(r"\btests/[\w/.]+", read(".ci/oldest"))
    assert oldest
    assert not [path for path in oldest if not (ROOT / path).exists()]


def test_the_page_on_grid_files_has_each_key_and_its_default():
    before, _, several = read("docs/grid-files.md").partition("## Several tasks at once")
    settings, _, rates = before.partition("## Settings")[2].partition("\nRates in")
    for model, table in ((Settings, settings), (Rates, rates)):
        shown = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", table, re.MULTILINE))
        for name, field in model.model_fields.items():
            value = shown[name].strip("`")
            if name in ("learning_rates", "task_rates", "task_decays"):
                assert value == "see below"
            elif field.default is None:
                assert value == "none"
            else:
                assert tomllib.loads(f"value = {value}")["value"] == field.default
    factors = dict(re.findall(r"^\| `(\w+)` \| `([\d.]+)` \| none \|", several, re.MULTILINE))
    assert {part: float(factor) for part, factor in factors.items()} == dict(TaskRates())
    assert dict(TaskDecays()) == dict.fromkeys(factors)


def test_the_page_on_grid_files_has_each_axis_and_an_example_with_the_cells_that_it_says():
    text = read("docs/grid-files.md")
    table = text.partition("## Cells")[2].partition("\n## ")[0]
    rows = {row.split("`")[1]: row for row in table.splitlines() if row.startswith("| `")}
    assert rows.keys() == Axes.model_fields.keys()
    for key, others in (("mode", ()), ("amp", ("on",)), ("unfreeze", ())):
        assert all(f"`{value}`" in rows[key] for value in (*ABOUT[key].values, *others))
    assert all(f"`{value}`" in rows["layers"] for value in LAYER_SETS)

    example = text.partition("```toml\n")[2].partition("```")[0]
    grid = gridfile.parse(example, "docs/grid-files.md", "my-grid")
    resolved = Resolved(
        model="minilm", model_digest="0", pooling="mean", data_digest="0", amp_on="bf16",
        learning_rate_source="grid",
    )  # fmt: skip
    cells = expand(grid, resolved)
    assert [sum(cell.mode == mode for cell in cells) for mode in ("full", "lora")] == [3, 24]


def test_the_map_of_the_code_has_36_changes_and_names_files_that_are_there():
    table = read("docs/architecture.md").partition("## Where would I change")[2]
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", table, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 37))
    for _, change, places in rows:
        folder, names = ROOT, re.findall(r"`([\w./]+)`", places)
        assert names, change
        for name in names:
            path = ROOT / name
            if not path.exists():  # in the folder named before, or in one above
                path = next((up / name for up in folder.parents if (up / name).exists()), path)
            assert path.exists(), f"{change}: {name}"
            folder = path if path.is_file() else path / "file"


def prose(path):
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(text):
    """What a link to a heading of a page may end with, as GitHub makes it from the heading."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#{1,6} +(.+?)[ #]*$", text, re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w -]", "", shown.lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return names


def leads_nowhere(page, link):
    """Whether there is no such file beside a page, or no such heading in it."""
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    return not target.exists() or bool(anchor and anchor not in anchors(prose(target)))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere_and_no_blank_line_splits_a_table(path):
    """The site shows rows after it as text with bars."""
    text = prose(path)
    links = re.findall(r"\]\((?!https?://)([^)\s]+)", text)
    assert [link for link in links if leads_nowhere(path, link)] == []
    parts = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    assert [part for part in parts if not re.match(r".*\n\|[ :|-]+\|\n", part)] == []


def test_the_readme_has_the_least_and_the_largest_ratio_of_other_encoders():
    rows = json.loads(read("docs/encoder-steps.json"))["rows"]
    for kinds in (("roberta", "distilbert", "electra"), ("modernbert", "deberta-v2")):
        ratios = [row["time"][0] for row in rows if row["kind"] in kinds]
        least, largest = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
        assert re.search(rf"{least}\s+to\s+{largest}", read("README.md"))


@pytest.mark.parametrize(("links", "complaints"), [
    ("[a](#a-page) [b](b.md#b) [c](../README.md)", []),
    ("[a](#no-heading)\n\n[b](b.md#no-heading)\n\n[b](no-page.md)\n\n[c](../no-page.md)",
     [f"index.md:{line}: WARNING" for line in (3, 5, 7, 9)]),
    ("![a picture](https://example.org/a.png)", ["index.html loads from another host"]),
])  # fmt: skip
def test_links_that_lead_nowhere_and_a_load_from_elsewhere_fail_the_site(
    tmp_path, links, complaints
):
    need(find_spec("furo") is not None, COMPONENTS["docs"], component="docs")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "conf.py", tmp_path / "docs")
    (tmp_path / "README.md").write_text("# Read me\n")
    page = f"# A page\n\n{links}\n\n```{{toctree}}\nb\n```\n"
    for name, text in {"index.md": page, "b.md": "# B\n"}.items():
        (tmp_path / "docs" / name).write_text(text)
    command = (sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "docs", "site")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == bool(complaints), done.stderr
    assert [text for text in complaints if text not in done.stderr] == []


def test_no_output_of_the_tutorial_was_written_by_hand():
    blocks = [one for one in BLOCK.finditer(PAGE.read_text("utf-8")) if one["kind"]]
    assert len(blocks) > 5
    assert [one["shown"] for one in blocks if one["digest"] != digest(one)] == []


def test_commands_of_the_tutorial_without_times_print_what_is_on_its_page(tmp_path):
    lines = PAGE.read_text("utf-8").splitlines(), outputs(["same"], tmp_path).splitlines()
    changed = [
        f"line {n}: {new}" for n, (old, new) in enumerate(zip_longest(*lines), 1) if old != new
    ]
    assert changed == [], "python -m tests.tutorial writes the page again"
