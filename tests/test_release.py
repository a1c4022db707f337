"""What a release is built from: the version, the files, the workflow, and forms beside the code."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.components import need
from tests.test_action import git

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HATCH = PROJECT["tool"]["hatch"]
BASE = HATCH["version"]["fallback-version"].removesuffix(".dev0")
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted(GITHUB.glob("actions/*/action.yml"))
RELEASE = yaml.safe_load((GITHUB / "workflows" / "release.yml").read_text())["jobs"]


def run(*words, cwd, check=True, **environment):
    return subprocess.run(
        [*map(str, words)], cwd=cwd, env={**os.environ, **environment}, capture_output=True,
        text=True, check=check, timeout=120,
    )  # fmt: skip


def copy(folder, names=("pyproject.toml", *HATCH["build"]["targets"]["sdist"]["include"])):
    """Files of this project as a zip download has them: without git."""
    folder.mkdir()
    for name in names:
        if (ROOT / name).is_dir():
            left_out = shutil.ignore_patterns("__pycache__", "_build")
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
        else:
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def build(tree, *targets, **environment):
    """The paths of the wheel and the sdist, in this order."""
    words = [word for target in targets for word in ("--target", target)]
    command = (sys.executable, "-m", "hatchling", "build", *words)
    run(*command, cwd=tree, SOURCE_DATE_EPOCH="1767225600", **environment)
    return sorted((tree / "dist").iterdir())


def test_a_wheel_and_an_sdist_are_the_same_bytes_wherever_they_are_built(tmp_path):
    paths = build(copy(tmp_path / "tree"), "wheel", "sdist")
    built, names = {path.suffix: path for path in paths}, [path.name for path in paths]
    assert names == [f"minbert_bench-{BASE}.dev0{end}" for end in ("-py3-none-any.whl", ".tar.gz")]
    again = copy(tmp_path / "again")
    for path in again.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(path.stat().st_mode & 0o700)
    for path in build(again, "wheel", "sdist"):
        assert path.read_bytes() == built[path.suffix].read_bytes(), path.name
    shutil.unpack_archive(built[".gz"], tmp_path, filter="data")
    [unpacked] = tmp_path.glob("minbert_bench-*")
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    context = copy(tmp_path / "context", [line[1:] for line in lines if line.startswith("!")])
    for place in (unpacked, context):
        [wheel] = build(place, "wheel")
        assert wheel.read_bytes() == built[".whl"].read_bytes(), place.name
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        metadata = opened.read(f"minbert_bench-{BASE}.dev0.dist-info/METADATA").decode()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert set(re.findall(r"^Import-Name: (.+)$", metadata, re.MULTILINE)) == tops
    assert {"bench/plan/columns.toml", "bench/report/style.css"} < {*names}, "no modules"


def commit(folder):
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "a change")


def test_the_version_is_that_of_the_last_tag(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def version():
        return run(sys.executable, "-m", "hatchling", "version", cwd=tmp_path).stdout.strip()

    assert version() == f"{BASE}.dev0", "without git"
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    assert version() == f"{BASE}.dev1", "without a tag"
    git(tmp_path, "tag", "v7.8.9")
    assert version() == "7.8.9"
    commit(tmp_path)
    assert version() == "7.8.9.post1.dev1"
    git(tmp_path, "tag", "v8.0.0rc1")
    assert version() == "8.0.0rc1"


FORMS = [
    *(("github-workflows", path) for path in WORKFLOWS),
    *(("github-actions", path) for path in ACTIONS),
    *(("github-issue-forms", path) for path in GITHUB.glob("ISSUE_TEMPLATE/*.yml")),
    ("citation-file-format", ROOT / "CITATION.cff"),
]


@pytest.mark.parametrize(("schema", "path"), FORMS, ids=[path.name for _, path in FORMS])
def test_files_fit_their_schemas(schema, path):
    tool = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}")
    done = run(*tool, path, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_has_no_finding_of_hadolint():
    tool = shutil.which("hadolint", path=Path(sys.executable).parent)
    need(tool is not None, "hadolint, which the extra test has on x86")
    done = run(tool, "--no-color", ROOT / "Dockerfile", cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_citation_and_the_form_for_gpus_are_those_of_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PROJECT["project"]
    assert (citation["title"], citation["license"]) == (project["name"], project["license"])
    assert citation["abstract"] == project["description"]
    assert citation["keywords"] == project["keywords"]
    form = (GITHUB / "ISSUE_TEMPLATE" / "gpu.yml").read_text()
    commands = re.findall(r"python -m bench\.doctor --.+json", form)
    assert len(commands) == 2
    page = (ROOT / "docs" / "doctor.md").read_text()
    assert all(f"\n{command}\n" in page for command in commands)


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.name)
def test_actions_of_others_are_pinned_by_commit(path):
    used = re.findall(r"uses: (.+)", path.read_text())
    others = [each for each in used if not each.startswith("./")]
    assert others
    for each in others:
        assert re.fullmatch(r"(actions|github|pypa)/[a-z/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)


def test_only_jobs_that_build_nothing_may_write_or_sign():
    def writes(job):
        return {name for name, right in job["permissions"].items() if right == "write"}

    assert {name: writes(job) for name, job in RELEASE.items()} == {
        "build": set(), "publish": {"id-token"},
        "release": {"attestations", "contents", "id-token"},
    }  # fmt: skip
    assert not any("checkout" in str(RELEASE[name]) for name in ("publish", "release"))
    assert [RELEASE[name]["needs"] for name in ("publish", "release")] == ["build", "publish"]


def step(job, name, folder, **environment):
    [script] = [each["run"] for each in RELEASE[job]["steps"] if each.get("name") == name]
    done = run("bash", "-eo", "pipefail", "-c", script, cwd=folder, check=False, **environment)
    return done.returncode, done.stdout + done.stderr


def test_release_notes_are_the_section_of_the_version(tmp_path):
    log = "# Changelog\n\n## [Unreleased]\n\n- new\n\n## [1.2.0] – 2026-01-02\n\n### Added\n\n- a"
    (tmp_path / "CHANGELOG.md").write_text(f"{log}\n\n## [1.1.0] – 2025-01-02\n\n- old\n")
    (tmp_path / "pyproject.toml").write_text('fallback-version = "1.2.0.dev0"\n')

    def notes(tag):
        shutil.rmtree(tmp_path / "release", ignore_errors=True)
        return step("build", "Notes of this version", tmp_path, GITHUB_REF_NAME=tag)

    assert notes("v1.2.0") == (0, "")
    assert (tmp_path / "release" / "notes.md").read_text().strip() == "### Added\n\n- a"
    code, lines = notes("v1.2")
    assert (code, "nothing under the heading ## [1.2]" in lines) == (1, True)
    code, lines = notes("v1.1.0")
    assert (code, 'is not "1.1.0.dev0"' in lines) == (1, True)


def test_a_release_has_the_version_of_its_tag_and_the_addresses_of_its_repository(tmp_path):
    """Also a wheel from its sdist, which has no git."""
    packages = HATCH["build"]["targets"]["wheel"]["packages"]
    tree = copy(tmp_path / "tree", ["pyproject.toml", "README.md", "LICENSE", "adapters"])
    git(tree, "init", "--quiet")
    commit(tree)
    git(tree, "tag", "v7.8.9")
    [sdist] = build(tree, "sdist")
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    for place, name in itertools.product((tree, tmp_path / "minbert_bench-7.8.9"), packages):
        (place / name).mkdir(exist_ok=True)
    [wheel] = build(tmp_path / "minbert_bench-7.8.9", "wheel")
    assert wheel.name == "minbert_bench-7.8.9-py3-none-any.whl"

    where = {"GITHUB_SERVER_URL": "https://git.example", "GITHUB_REPOSITORY": "who/what"}
    name = "Addresses of this repository"
    assert step("build", name, tree, GITHUB_REF_NAME="v7.8.9", **where) == (0, "")
    [given] = [
        each["env"] for each in RELEASE["build"]["steps"] if "twice" in str(each.get("name"))
    ]
    [variable] = given
    assert given[variable] == "${{ github.ref_name }}"
    _, wheel = sorted(build(tree, "wheel", **{variable: "v7.8.9"}), key=lambda path: path.suffix)
    assert wheel.name == "minbert_bench-7.8.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as opened:
        metadata = opened.read("minbert_bench-7.8.9.dist-info/METADATA").decode()
    assert re.findall("^Project-URL: (.+)$", metadata, re.MULTILINE) == [
        "Source, https://git.example/who/what",
        "Issues, https://git.example/who/what/issues",
        "Changelog, https://git.example/who/what/blob/v7.8.9/CHANGELOG.md",
    ]


@pytest.mark.parametrize(("passed", "code"), [("0", 1), ("2", 0)])
def test_a_commit_that_ci_has_not_passed_is_not_released(tmp_path, passed, code):
    gh, where = tmp_path / "gh", "--branch main --commit abc "
    gh.write_text(f'#!/bin/sh\ncase "$*" in *"{where}"*) echo {passed};; esac\n')
    gh.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    name = "CI has passed on this commit of main"
    ended, lines = step("build", name, tmp_path, PATH=path, GITHUB_SHA="abc")
    assert (ended, "::error::no run of CI" in lines) == (code, code == 1)
