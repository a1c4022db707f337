"""The action that compares a change with its base, step by step, in a small clone.

Cells of the clone come from a stand-in for bench.grid; tests/benchmarks/test_action.py trains.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.action import ACTION, ROOT, run_action
from tests.bench.fake_grid import make_side
from tests.bench.synthetic_rows import cell

CELLS = [
    (cell("full", None, None, "off"), [10.0, 10.1]),
    (cell("lora", 8, "attn-only", "off"), [8.0, 7.9]),
]
PIP = """
import sys, sysconfig
from pathlib import Path

packages = Path(sysconfig.get_path("purelib"))
info = packages / "minbert_bench-0.1.0.dist-info"
info.mkdir()
(info / "METADATA").write_text("Metadata-Version: 2.1\\nName: minbert-bench\\nVersion: 0.1.0\\n")
(packages / "editable.pth").write_text(sys.argv[-1])
"""
INPUTS = {"grid": "some", "rounds": "2", "max-slowdown": "10%"}
BAD_INPUTS = INPUTS | {"max-slowdown": "10"}


def git(checkout: Path, *arguments: str) -> str:
    """The output of a command of Git."""
    command = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments)
    done = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of two commits with this project's code, but for a stand-in for bench.grid."""
    folder = make_side(tmp_path / "checkout", CELLS)
    (folder / "bench" / "__init__.py").write_text(f"__path__.append({str(ROOT / 'bench')!r})\n")
    (folder / "pyproject.toml").touch()
    git(folder, "init", "--quiet")
    for commit in ("first", "second"):
        (folder / "README").write_text(commit)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", commit)
    return folder


def test_it_comments_that_nothing_is_worse_and_then_that_something_is(
    checkout: Path, tmp_path: Path
) -> None:
    event = {"event.pull_request.number": 5}
    hostile = {
        "grid": '$(touch pwned)"; touch pwned #',
        "options": "--data 'my `touch pwned` file'",
    }
    ended = run_action(checkout, tmp_path, INPUTS | hostile, event)
    assert ended.code == 0, ended.log
    assert not list(checkout.rglob("pwned"))
    body, calls = tmp_path / "gh" / "body", tmp_path / "gh" / "calls"
    assert body.read_text() == ended.summary
    assert "No regression" in ended.summary
    assert re.search("# checkout compared with [0-9a-f]{9}\n", ended.summary)
    assert "pr comment 5 --repo owner/name" in calls.read_text()

    side = json.loads((checkout / "side.json").read_text())
    [slower] = [one for one in side["cells"] if one["plan"]["mode"] == "lora"]
    slower["row"]["peak_rss_mib"] = str(2 * float(slower["row"]["peak_rss_mib"]))
    (checkout / "side.json").write_text(json.dumps(side))
    ended = run_action(checkout, tmp_path, INPUTS | hostile, event)
    assert ended.code == 1, ended.log
    assert re.search(r"regressions?:.* lora rank 8 on attn-only", body.read_text())
    assert "--method PATCH repos/owner/name/issues/comments/77" in calls.read_text()


def test_bad_input_fails_with_its_line_and_without_a_token_that_may_comment(
    checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "gh").mkdir()
    (tmp_path / "gh" / "refuses").touch()
    ended = run_action(checkout, tmp_path, BAD_INPUTS, {"event.pull_request.number": 5})
    assert ended.code == 2
    assert "error: --max-slowdown" in ended.log
    assert "Nothing was compared" in ended.summary
    assert "::notice::no comment" in ended.log


def test_options_that_are_no_words_fail(checkout: Path, tmp_path: Path) -> None:
    ended = run_action(checkout, tmp_path, INPUTS | {"options": "--data 'x"}, {})
    assert ended.code != 0
    assert "No closing quotation" in ended.log
    assert "No regression" not in ended.summary


def test_every_job_and_every_other_input_has_its_own_comment(
    checkout: Path, tmp_path: Path
) -> None:
    more: list[tuple[dict[str, str], str]] = [({}, "a"), ({}, "b"), ({"max-work": "3%"}, "a")]
    ids = []
    for inputs, job in more:
        ended = run_action(checkout, tmp_path, BAD_INPUTS | inputs, {"job": job})
        assert f"** {job} **" in ended.summary
        ids.append(ended.outputs["compare.id"])
        assert ended.summary.startswith(f"<!-- bench.compare {ids[-1]} -->\n")
    assert len(set(ids)) == len(ids)


def test_the_base_is_the_newest_commit_shared_with_the_target(
    checkout: Path, tmp_path: Path
) -> None:
    def commit(*parents: str) -> str:
        words = [word for parent in parents for word in ("-p", parent)]
        return git(checkout, "commit-tree", *words, "-m", "more", "HEAD^{tree}")

    first, second = git(checkout, "rev-parse", "HEAD^", "HEAD").split()
    change = commit(commit(first))
    merge = commit(second, change)  # as actions/checkout has it
    git(checkout, "update-ref", "refs/remotes/origin/main", commit(second))
    for head, base in ((merge, second), (change, first)):
        git(checkout, "checkout", "--quiet", head)
        ended = run_action(checkout, tmp_path, BAD_INPUTS, {"base_ref": "main"})
        assert Path(ended.outputs["base.place"]).name == base[:9]


def test_a_base_that_is_not_there_is_named(checkout: Path, tmp_path: Path) -> None:
    ended = run_action(checkout, tmp_path, INPUTS | {"base": "v9"}, {})
    assert ended.code == 2
    assert "::error::no commit v9 in this clone" in ended.log


def test_a_base_of_other_dependencies_has_its_own_environment(
    checkout: Path, tmp_path: Path
) -> None:
    make_side(checkout, [], refuses="no thanks")
    git(checkout, "commit", "--quiet", "--all", "--message", "third")
    (checkout / "pyproject.toml").write_text("[project]\n")
    python, pip = tmp_path / "gh" / "bin" / "python", tmp_path / "pip" / "pip"
    for folder in (python.parent, pip):
        folder.mkdir(parents=True)
    (pip / "__main__.py").write_text(PIP)
    python.write_text(f"""#!/bin/sh
if [ "$1 $2" != "-m venv" ]; then exec {sys.executable} "$@"; fi
{sys.executable} "$@" --without-pip && cp -r {pip} "$3"/lib/python*/site-packages
""")
    python.chmod(0o755)
    ended = run_action(checkout, tmp_path, INPUTS | {"base": "HEAD"}, {})
    assert "error: BASE: no thanks" in ended.log
    assert re.fullmatch("[0-9a-f]{9}-venv", Path(ended.outputs["base.place"]).name)


def test_inputs_reach_scripts_by_the_environment_alone() -> None:
    workflow = ROOT / ".github" / "workflows" / "ci.yml"
    steps = yaml.safe_load(ACTION.read_text())["runs"]["steps"]
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    steps += [step for job in jobs for step in job["steps"]]
    assert not [step for step in steps if "${{" in step.get("run", "")]
    used = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d|\./\.github/actions/compare", u) for u in used)


def test_inputs_and_their_defaults_are_documented() -> None:
    text = (ROOT / "docs" / "comparing.md").read_text()
    lines = text.partition("| input | meaning |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    documented = {
        name: meaning
        for names, meaning in (line.strip("| ").split(" | ") for line in lines)
        for name in re.findall("`(.*?)`", names)
    }
    inputs = yaml.safe_load(ACTION.read_text())["inputs"]
    assert documented.keys() == inputs.keys()
    defaults = {
        name: default[1]
        for name, meaning in documented.items()
        if (default := re.search(r"by default (\d+)", meaning))
    }
    assert defaults == {"rounds": inputs["rounds"]["default"]}
