"""The action that compares a change with its base, in a clone whose bench.grid is a stand-in."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.action import ACTION, ROOT, WORKFLOW, run_action, run_comment
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


def git(checkout, *arguments):
    command = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments)
    done = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
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


def stand_in(tmp_path, words, script):
    """Let a script run in place of Python where these are its first words."""
    python = tmp_path / "gh" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    otherwise = f'if [ "$1 $2" != "{words}" ]; then exec {sys.executable} "$@"; fi'
    python.write_text(f"#!/bin/sh\n{otherwise}\n{script}\n")
    python.chmod(0o755)


def test_it_comments_that_nothing_is_worse_and_then_that_something_is(checkout, tmp_path):
    event = {"event.pull_request.number": 5}
    inputs = INPUTS | {"grid": '$(touch pwned)"; touch pwned #'}
    inputs["options"] = "--data 'my `touch pwned` file'"
    ended = run_action(checkout, tmp_path, inputs, event)
    assert ended.code == 0, ended.log
    assert not list(checkout.rglob("pwned"))
    body, calls = tmp_path / "gh" / "body", tmp_path / "gh" / "calls"
    assert not body.exists(), "the job that runs the change's code comments nothing"
    comment = run_comment(tmp_path, ended.outputs["compare.id"], event)
    assert comment.code == 0, comment.log
    marker = f"<!-- bench.compare {ended.outputs['compare.id']} -->"
    assert body.read_text() == f"{marker}\n{ended.summary}"
    assert "No regression" in ended.summary
    assert re.search("# checkout compared with [0-9a-f]{9}\n", ended.summary)
    assert "pr comment 5 --repo owner/name" in calls.read_text()

    side = json.loads((checkout / "side.json").read_text())
    [slower] = [one for one in side["cells"] if one["plan"]["mode"] == "lora"]
    slower["row"]["peak_rss_mib"] = str(2 * float(slower["row"]["peak_rss_mib"]))
    (checkout / "side.json").write_text(json.dumps(side))
    ended = run_action(checkout, tmp_path, inputs, event)
    assert ended.code == 1, ended.log
    assert run_comment(tmp_path, ended.outputs["compare.id"], event).code == 0
    assert re.search(r"Worse:.* lora rank 8 on attn-only", body.read_text())
    assert "--method PATCH repos/owner/name/issues/comments/77" in calls.read_text()


def test_bad_input_fails_with_its_line_and_every_job_and_input_has_its_own_comment(
    checkout, tmp_path
):
    (tmp_path / "gh").mkdir()
    (tmp_path / "gh" / "refuses").touch()
    ids = set()
    for inputs, job in (({}, "a"), ({}, "b"), ({"max-work": "3%"}, "a")):
        event = {"job": job, "event.pull_request.number": 5}
        ended = run_action(checkout, tmp_path, BAD_INPUTS | inputs, event)
        assert ended.code == 2
        assert ("compared" if ids else "error: --max-slowdown") in ended.log
        stand_in(tmp_path, "-m bench.compare", "echo compared; exit 2")
        assert "Nothing was compared" in ended.summary
        assert f"** {job} **" in ended.summary
        ids.add(ended.outputs["compare.id"])
    assert len(ids) == 3
    ended = run_comment(tmp_path, ended.outputs["compare.id"], event)
    assert (ended.code, "::notice::no comment" in ended.log) == (0, True), "without a token"

    ended = run_action(checkout, tmp_path, INPUTS | {"options": "--data 'x"}, {})
    assert ended.code != 0
    assert "No closing quotation" in ended.log
    assert "No regression" not in ended.summary
    ended = run_action(checkout, tmp_path, INPUTS | {"base": "v9"}, {})
    assert ended.code == 2
    assert "::error::no commit v9 in this clone" in ended.log


def test_an_artifact_is_text_of_a_stranger(tmp_path):
    event, name = {"event.pull_request.number": 5}, "0123456789ab"
    folder = tmp_path / "runner" / "compare" / "reports"
    folder.mkdir(parents=True)
    (folder / "comment.md").write_bytes(b"<!-- bench.compare x -->\n@all \xff" + b"x" * 100_000)
    assert run_comment(tmp_path, name, event).code == 0
    marker, _, text = (tmp_path / "gh" / "body").read_text().partition("\n")
    assert marker == f"<!-- bench.compare {name} -->"
    assert not re.search("<!--|@all", text)
    assert len(text) < 65_000
    (folder / "comment.md").write_text("é@" * 50_000)
    assert run_comment(tmp_path, name, event).code == 0
    assert 59_000 < len((tmp_path / "gh" / "body").read_bytes()) < 65_000  # GitHub takes 65,536
    (tmp_path / "secret").write_text("secret")
    (folder / "comment.md").unlink()
    (folder / "comment.md").symlink_to(tmp_path / "secret")
    for bad in (name, "$(touch pwned)"):
        assert run_comment(tmp_path, bad, event).code == 1
    assert "secret" not in (tmp_path / "gh" / "body").read_text()
    assert not list(tmp_path.rglob("pwned"))


def test_no_job_has_both_code_of_a_pull_request_and_a_token_that_may_write():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        checkouts = [step for step in job["steps"] if "actions/checkout" in step.get("uses", "")]
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)
        writes = {of for of, may in job.get("permissions", {}).items() if may == "write"}
        runs = checkouts and any("run" in s or s["uses"].startswith(".") for s in job["steps"])
        assert not (runs and writes), name
        assert "secrets." not in str(job)
        assert writes <= ({"security-events"} if checkouts else {"pull-requests"})


def test_the_base_is_the_newest_commit_shared_with_the_target_in_an_environment_of_its_own(
    checkout, tmp_path
):
    """Where its dependencies are others."""

    def commit(*parents):
        words = [word for parent in parents for word in ("-p", parent)]
        return git(checkout, "commit-tree", *words, "-m", "more", "HEAD^{tree}")

    first, second = git(checkout, "rev-parse", "HEAD^", "HEAD").split()
    change = commit(commit(first))
    merge = commit(second, change)  # as actions/checkout has it
    git(checkout, "update-ref", "refs/remotes/origin/main", commit(second))
    stand_in(tmp_path, "-m bench.compare", "exit 2")
    for head, base in ((merge, second), (change, first)):
        git(checkout, "checkout", "--quiet", head)
        ended = run_action(checkout, tmp_path, BAD_INPUTS, {"base_ref": "main"})
        assert Path(ended.outputs["base.place"]).name == base[:9]

    make_side(checkout, [], refuses="no thanks")
    git(checkout, "commit", "--quiet", "--all", "--message", "third")
    (checkout / "pyproject.toml").write_text("[project]\n")
    pip = tmp_path / "pip" / "pip"
    pip.mkdir(parents=True)
    (pip / "__main__.py").write_text(PIP)
    copied = f'cp -r {pip} "$3"/lib/python*/site-packages'
    stand_in(tmp_path, "-m venv", f'{sys.executable} "$@" --without-pip && {copied}')
    ended = run_action(checkout, tmp_path, INPUTS | {"base": "HEAD"}, {})
    assert "error: BASE: no thanks" in ended.log
    assert re.fullmatch("[0-9a-f]{9}-venv", Path(ended.outputs["base.place"]).name)


def test_inputs_reach_scripts_by_the_environment_alone_and_are_documented():
    action = yaml.safe_load(ACTION.read_text())
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    steps = action["runs"]["steps"] + [step for job in jobs for step in job["steps"]]
    assert not [step for step in steps if "${{" in step.get("run", "")]
    text = (ROOT / "docs" / "comparing.md").read_text()
    lines = text.partition("| input | meaning |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    documented = [name for line in lines for name in re.findall("`(.*?)`", line.split(" | ")[0])]
    assert set(documented) == action["inputs"].keys()
    [(name, default)] = re.findall(r"^\| `([\w-]+)` \|.*by default (\d+)", "\n".join(lines), re.M)
    assert (name, default) == ("rounds", action["inputs"]["rounds"]["default"])
