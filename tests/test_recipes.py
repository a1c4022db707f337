"""The recipes for schedulers in docs/cluster.md: valid YAML, and commands that can be given."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from bench.grid.__main__ import command as grid
from bench.plan.shards import INDEXES, Shard
from bench.results.merge import main as merge

PAGE = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text()
SECTION = PAGE.partition("## Any other scheduler\n")[2].partition("\n## ")[0]
KUBERNETES, SKYPILOT, DSTACK, GITHUB = map(
    yaml.safe_load, re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
)
SCRIPTS = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)


def commands(name):
    lines = re.findall(rf"minbert-bench {name} [^\n&]*[^\n& ]", SECTION.replace('"]', ""))
    return [line.partition("   ")[0] for line in lines]


def words(line, tmp_path, **environment):
    """The arguments of a command as its shell passes them on."""
    line = re.sub(r"\$\{\{ matrix\.\w+ \}\}", "$MATRIX", line)
    code = f'minbert-bench() {{ printf "%s\\n" "$@"; }}; {line}'
    done = subprocess.run(
        ["/bin/bash", "-uc", code], env={**os.environ, **environment}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


RANKS = {
    **dict.fromkeys((INDEXES[0], "PBS_ARRAY_INDEX", "SKYPILOT_NODE_RANK", "DSTACK_NODE_RANK"), "2"),
    "MATRIX": "2", "SKYPILOT_NUM_NODES": "8", "DSTACK_NODES_NUM": "8",
}  # fmt: skip


def test_each_command_of_a_shard_is_one_that_bench_grid_takes(tmp_path):
    lines = [line for line in commands("run") if "--shard" in line]
    assert len(lines) == 6
    for line in lines:
        options = grid.make_context("run", words(line, tmp_path, **RANKS)[1:]).params
        shard = Shard.parse(options["shard"], {INDEXES[0]: "2"})
        own = re.findall(r"\$\w+|\{\{.*?\}\}", line)
        assert (shard.index, shard.count) == (2 if own else 0, 3 if "matrix" in line else 8)
        assert str(options["runs"]).endswith("runs.csv")
        assert options["reports"] != Path("reports") or not own


def test_each_merge_is_of_the_files_that_shards_leave(tmp_path):
    for folder in ("0", "1", "shard-0", "shard-1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "runs.csv").touch()
    for line in commands("merge"):
        options = merge.make_context("merge", words(line, tmp_path)[1:]).params
        assert options["path"] == Path("runs.csv")
        assert len(options["files"]) in (2, 4)


def test_the_job_and_the_workflow_fit_the_schemas_of_kubernetes_and_github(tmp_path):
    kubernetes_validate.validate(KUBERNETES, kubernetes_validate.latest_version(), strict=True)
    path = tmp_path / "workflow.yml"
    workflow = {"on" if key is True else key: each for key, each in GITHUB.items()}  # YAML's `on`
    path.write_text(yaml.safe_dump(workflow))
    tool = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows")
    done = subprocess.run([*tool, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_schedulers_start_as_many_shards_as_their_commands_name():
    spec = KUBERNETES["spec"]
    pod = spec["template"]["spec"]
    [container], [volume] = pod["containers"], pod["volumes"]
    [mount] = container["volumeMounts"]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", 8)
    assert (pod["restartPolicy"], container["command"][:2]) == ("Never", ["sh", "-c"])
    assert (mount["name"], mount["mountPath"]) == (volume["name"], container["workingDir"])
    assert SKYPILOT["num_nodes"] == DSTACK["nodes"] == 8
    assert ([*SKYPILOT["file_mounts"]], DSTACK["type"]) == (["/bucket"], "task")
    assert any("#PBS -J 0-7\n" in script for script in SCRIPTS)

    shard, merging = GITHUB["jobs"]["shard"], GITHUB["jobs"]["merge"]
    assert shard["strategy"] == {"fail-fast": False, "matrix": {"index": [0, 1, 2]}}
    upload, download = shard["steps"][2], merging["steps"][1]
    assert upload["with"]["name"] == "shard-${{ matrix.index }}"
    assert (merging["needs"], download["with"]["pattern"]) == ("shard", "shard-*")
    assert upload["if"] == merging["if"] == "${{ !cancelled() }}"
    paths = merging["steps"][-1]["with"]["path"].split()
    assert {"runs.csv", "runs/", "runs.*.json", "reports/"} < {*paths}


@pytest.mark.parametrize("code", [0, 1])
def test_skypilot_copies_results_back_whatever_the_run_says_and_goes_on_from_them(tmp_path, code):
    bucket, place = tmp_path / "bucket", tmp_path / "place"
    script = SKYPILOT["run"].replace("/bucket", str(bucket))
    run = f"minbert-bench() {{ echo row >> results/runs.csv; return {code}; }}\n"
    for number in (1, 2):
        place.mkdir()
        done = subprocess.run(
            ["/bin/bash", "-euc", run + script], cwd=place, check=False, env=os.environ | RANKS
        )
        assert done.returncode == code
        assert (bucket / "2" / "runs.csv").read_text() == "row\n" * number
        shutil.rmtree(place)


def test_scripts_are_a_shell_s():
    for script in SCRIPTS:
        subprocess.run(["/bin/sh", "-n"], input=script, text=True, check=True)
        lines = [line for line in script.splitlines() if line[:1] != "#"]
        assert all(shlex.split(line, comments=True) for line in lines)
