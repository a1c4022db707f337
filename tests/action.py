"""Runs the scripts among the steps of an action and of a job, as a runner would."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
ACTION = ROOT / ".github" / "actions" / "compare" / "action.yml"
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
GH = """#!/usr/bin/env bash
# Stands in for GitHub's command: $GH holds the body of the one comment, and a log of calls.
echo "$*" >> "$GH/calls"
if [ -e "$GH/refuses" ]; then echo "HTTP 403: Resource not accessible" >&2; exit 1; fi
for argument in "$@"; do
  case "$argument" in
    --paginate) if [ -e "$GH/body" ]; then echo 77; fi ;;
    body=@*) cp "${argument#body=@}" "$GH/body" ;;
  esac
  if [ "${before:-}" = --body-file ]; then cp "$argument" "$GH/body"; fi
  before=$argument
done
"""


class Ended(NamedTuple):
    """The last exit code, the job's summary, what all steps printed, and outputs by `ID.NAME`."""

    code: int
    summary: str
    log: str
    outputs: Mapping[str, str]


def run_action(
    checkout: Path, folder: Path, inputs: Mapping[str, str], event: Mapping[str, Any]
) -> Ended:
    """Run the scripts of the action in a checkout until one fails, where `event` has values of the
    context `github`. The folder gets the runner's files, and in `gh` those of GitHub's command."""
    action = yaml.safe_load(ACTION.read_text())
    context = {f"github.{name}": str(value) for name, value in event.items()}
    for name, about in action["inputs"].items():
        context[f"inputs.{name}"] = inputs.get(name, about.get("default", ""))
    return _run(action["runs"]["steps"], context, checkout, folder)


def run_comment(folder: Path, id: str, event: Mapping[str, Any]) -> Ended:  # noqa: A002
    """Run the job that comments the artifact of an action that was run in the same folder."""
    job = yaml.safe_load(WORKFLOW.read_text())["jobs"]["comment"]
    context = {f"github.{name}": str(value) for name, value in event.items()}
    context["needs.compare.outputs.id"] = id
    reports, artifact = folder / "runner" / "compare" / "reports", folder / "runner" / "artifact"
    shutil.rmtree(artifact, ignore_errors=True)
    shutil.copytree(reports, artifact, symlinks=True)
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    return _run(job["steps"], context, empty, folder)


def _run(
    steps: Iterable[dict[str, Any]], context: dict[str, str], checkout: Path, folder: Path
) -> Ended:
    runner, gh = folder / "runner", folder / "gh"
    for place in (runner, gh / "bin"):
        place.mkdir(parents=True, exist_ok=True)
    (gh / "bin" / "gh").write_text(GH)
    (gh / "bin" / "gh").chmod(0o755)
    python = Path(sys.executable).parent
    summary, output = runner / "summary.md", runner / "output"
    summary.write_text("")
    env = {
        **os.environ, "PATH": f"{gh / 'bin'}:{python}:{os.environ['PATH']}", "GH": str(gh),
        "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output),
        "GITHUB_REPOSITORY": "owner/name", "RUNNER_TEMP": str(runner),
    }  # fmt: skip
    code, log, outputs = 0, "", {}
    for step in steps:
        if "run" not in step or not holds(step.get("if", "true"), context):
            continue
        assert step["shell"] == "bash"
        output.write_text("")
        values = {name: filled(text, context) for name, text in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],  # noqa: S607
            cwd=checkout, env=env | values, text=True, check=False, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        code, log = done.returncode, log + done.stdout
        if code != 0:
            break
        for line in output.read_text().splitlines():
            name, _, value = line.partition("=")
            outputs[f"{step['id']}.{name}"] = value
            context[f"steps.{step['id']}.outputs.{name}"] = value
    return Ended(code, summary.read_text(), log, outputs)


def filled(text: str, context: Mapping[str, str]) -> str:
    """A text with its expressions replaced: the first value of each that is not empty."""

    def value(match: re.Match[str]) -> str:
        terms = (term.strip() for term in match[1].split("||"))
        values = (t[1:-1] if t.startswith("'") else context.get(t, "") for t in terms)
        return next(filter(None, values), "")

    return re.sub(r"\$\{\{(.*?)\}\}", value, text)


def holds(condition: str, context: Mapping[str, str]) -> bool:
    """Whether all terms of a condition hold: `name == 'text'`, or a value that is not empty."""
    for term in condition.split("&&"):
        name, is_equal, text = (part.strip() for part in term.partition("=="))
        value = name if name == "true" else context.get(name, "")
        if value != text.strip("'") if is_equal else not value:
            return False
    return True
