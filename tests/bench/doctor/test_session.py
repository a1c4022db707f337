"""Which checks run, which are skipped and why, and what is then said."""

import json
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from bench.common.errors import InputError
from bench.doctor import __main__ as main
from bench.doctor import report, session
from bench.doctor.check import (
    BY_NAME,
    CHECKS,
    DEVICE,
    FAILED,
    FIRST_LOOK,
    OK,
    SKIPPED,
    Check,
    Finding,
    selected,
)
from bench.doctor.session import Examination, examine
from bench.machine.conditions import find_conditions


def run(
    monkeypatch: pytest.MonkeyPatch, checks: list[Check], verdicts: dict[str, str], **device
) -> Examination:
    """An examination in which checks find what is given, and ok otherwise."""

    def fake(check: Check, *_: object) -> Finding:
        return Finding(check.name, verdicts.get(check.name, OK), f"{check.name} was run")

    monkeypatch.setattr(session, "_run", fake)
    requested = device.get("requested", "cpu")
    show = lambda _check, _left: nullcontext()  # noqa: E731
    return examine(checks, requested, Path(), show, lambda _each: None)


@pytest.fixture(autouse=True)
def few_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One check decides what is trusted."""
    monkeypatch.setattr(report, "CHECKS", (check("a"),))


def verdicts_of(examination: Examination) -> dict[str, str]:
    return {finding.check: finding.verdict for finding in examination.findings}


def check(name: str, **fields) -> Check:
    return Check(name, "", "Is it?", f"whether {name}", **{"needs": (), **fields})


def test_every_check_has_its_function_and_what_to_do_about_each_failure() -> None:
    for each in BY_NAME.values():
        function = resolve_name(f"bench.doctor.checks.{each.function}")
        assert list(signature(function).parameters)[1:] == ["mode"] * len(each.arguments)
        assert each.remedy or each.remedies.keys() >= each.failed.keys()
        assert each.ok


def test_a_first_look_needs_a_gpu_and_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--first-look: it looks at a GPU, and there is none"):
        CliRunner().invoke(
            main.command, ["--first-look", "--device", "cpu"], standalone_mode=False,
            catch_exceptions=False,
        )  # fmt: skip
    with pytest.raises(InputError, match="leave out grid"):
        CliRunner().invoke(
            main.command, ["--first-look", "grid"], standalone_mode=False, catch_exceptions=False
        )


@pytest.mark.parametrize("verdict", [OK, FAILED])
def test_a_first_look_says_what_is_as_expected(
    monkeypatch: pytest.MonkeyPatch, verdict: str
) -> None:
    found = SimpleNamespace(device=SimpleNamespace(gpu="H100"))
    monkeypatch.setattr(main, "find_conditions", lambda _name: found)
    result = invoke(monkeypatch, examined(verdict), "--first-look", "--json")
    says = "All is as expected." if verdict == OK else "Not as expected: a."
    assert json.loads(result.stdout)["verdict"] == says
    assert says in result.stderr
    assert result.return_value == (verdict == FAILED)


def test_a_check_comes_after_those_that_it_needs() -> None:
    seen: set[str] = set()
    for each in CHECKS:
        assert seen.issuperset(each.needs)
        seen.add(each.name)


def test_all_checks_fit_into_five_minutes() -> None:
    for checks in (CHECKS, FIRST_LOOK):
        assert sum(each.expected_s for each in checks) < 300
        assert all(each.expected_s < each.limit_s for each in checks)


def test_naming_a_check_selects_what_it_needs_in_order() -> None:
    assert [each.name for each in selected(["frequency"])] == [
        *("software", "disturbance", "cores", "frequency"),
    ]
    assert selected([]) == list(CHECKS)


def test_an_unknown_check_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"no check 'clock'; name some of memory-limit, .*step-clock"
    ):
        selected(["clock"])


def test_what_needs_a_failed_check_is_skipped_with_that_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks = [check("a"), check("b", needs=("a",)), check("c", needs=("b",)), check("d")]
    examination = run(monkeypatch, checks, {"a": FAILED})
    assert verdicts_of(examination) == {
        "device": OK, "a": FAILED, "b": SKIPPED, "c": SKIPPED, "d": OK,
    }  # fmt: skip
    assert examination.findings[-2].summary == "it needs a, which failed"


def test_what_needs_a_skipped_check_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [check("a"), check("b", needs=("a",))]
    assert verdicts_of(run(monkeypatch, checks, {"a": SKIPPED}))["b"] == OK


def test_a_check_of_a_gpu_is_skipped_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    examination = run(monkeypatch, [check("a"), check("driver", devices=("cuda",))], {})
    assert "applies to a GPU" in examination.findings[-1].summary
    text = report.verdict(examination)
    assert "whether driver" not in text
    assert text.endswith("Nothing is known of a GPU.")


def test_a_check_without_enough_memory_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "available_mib", lambda: (300.0, "free on this machine"))
    examination = run(monkeypatch, [check("a", memory_mib=200), check("b", memory_mib=400)], {})
    assert verdicts_of(examination) == {"device": OK, "a": OK, "b": SKIPPED}
    summary = "it needs 400 MiB, and 300 are free on this machine"
    assert examination.findings[-1].summary == summary
    assert "It is not known whether b." in report.verdict(examination)


def test_checks_that_do_not_fit_into_five_minutes_are_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "BUDGET_S", 20.0)
    checks = [check("a", expected_s=30.0), check("b", expected_s=1.0)]
    examination = run(monkeypatch, checks, {})
    assert verdicts_of(examination) == {"device": OK, "a": SKIPPED, "b": OK}
    assert "do not fit into 20 s" in examination.findings[1].summary


def test_a_broken_gpu_is_a_finding_and_the_cpu_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(requested: str):
        if requested == "cpu":
            return find_conditions("cpu")
        raise InputError("no GPU can be used: CUDA error; mend that, or --device cpu")

    monkeypatch.setattr(session, "find_conditions", find)
    examination = run(monkeypatch, [check("a")], {}, requested="auto")
    finding = examination.findings[0]
    assert (finding.verdict, finding.remedy) == (FAILED, "mend that, or --device cpu")
    assert finding.summary == "no GPU can be used: CUDA error; the CPU is checked"
    assert verdicts_of(examination)["a"] == OK
    assert "can't be trusted: device failed" in report.verdict(examination)
    with pytest.raises(InputError, match="no GPU can be used"):
        run(monkeypatch, [check("a")], {}, requested="cuda")


def test_without_torch_what_needs_it_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise InputError("torch is not installed; install this project with pip")

    monkeypatch.setattr(session, "torch_build", missing)
    examination = run(monkeypatch, list(CHECKS), {"software": FAILED})
    verdicts = verdicts_of(examination)
    assert examination.target is None
    assert verdicts.pop("device") == SKIPPED
    assert verdicts.pop("software") == FAILED
    assert verdicts.pop("memory-limit") == OK
    assert set(verdicts.values()) == {SKIPPED}
    text = report.verdict(examination)
    assert text == (
        "Measurements on this machine can't be trusted: software failed. Nothing else is known."
    )


def shown(finding: Finding, encoding: str | None = "utf-8") -> list[str]:
    return report.lines(finding, encoding)


def test_a_finding_is_a_line_and_its_remedy_another() -> None:
    assert shown(Finding("products", OK, "fine")) == ["✓ products         fine"]
    assert shown(Finding("products", FAILED, "1 %", "do")) == ["✗ products         1 %", "  → do"]
    assert shown(Finding("products", FAILED, "1 ≠ 2", "do"), "ascii") == [
        "FAILED  products         1 ? 2",
        "        -> do",
    ]


def test_no_name_of_user_host_or_folder_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report.socket, "gethostname", lambda: "gpu-7")
    monkeypatch.setattr(report.getpass, "getuser", lambda: "ada")
    monkeypatch.setenv("HOME", "/home/ada")
    text = "/home/ada/x.py of ada on gpu-7, in '/srv/big data/y': adapters\nof nvidia-gpu-7"
    assert report.anonymous(text) == "~/x.py of … on …, in 'y': adapters of nvidia-gpu-7"


def examined(verdict: str, **figures) -> Examination:
    remedy = "mend" if verdict == FAILED else ""
    finding = Finding("a", verdict, "it is /tmp/x/y.py", remedy, figures, seconds=1.234)
    device = Finding(DEVICE.name, OK, "cpu", seconds=0.1)
    return Examination(find_conditions("cpu"), [DEVICE, check("a")], [device, finding])


def test_json_has_every_figure_and_is_valid() -> None:
    examination = examined(FAILED, ms=[1 / 3, float("nan")], of={"a": float("inf")})
    text = json.dumps(report.as_json(examination, "auto", "No."), allow_nan=False)
    values = json.loads(text)
    assert values["schema"] == report.SCHEMA
    assert values["findings"][1] == {
        "check": "a", "verdict": FAILED, "summary": "it is y.py", "remedy": "mend",
        "figures": {"ms": [0.333333, None], "of": {"a": None}}, "is_advice": False, "seconds": 1.23,
    }  # fmt: skip
    assert values["verdict"] == "No."
    assert values["trusted"] is False


def test_the_verdict_names_what_failed_and_what_is_not_known() -> None:
    ok, bad = examined(OK), examined(FAILED)
    assert report.verdict(ok).startswith("Measurements on this machine can be trusted, ")
    assert report.verdict(bad) == (
        "Measurements on this machine can't be trusted: a failed. It is not known whether a. "
        "Nothing is known of a GPU."
    )
    assert "It is not known whether a." in report.verdict(examined(SKIPPED))


def test_a_failure_that_leaves_measurements_right_is_no_mistrust(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks = [check("a", is_advice=True), check("b", needs=("a",)), check("c")]
    examination = run(monkeypatch, checks, {"a": FAILED})
    assert verdicts_of(examination)["b"] == OK
    assert report.as_json(examination, "cpu", "")["trusted"] is True
    text = report.verdict(examination)
    assert text.startswith("Measurements on this machine can be trusted, ")
    assert "a failed, but that leaves measurements right." in text
    text = report.verdict(run(monkeypatch, checks, {"a": FAILED, "c": FAILED}))
    assert "can't be trusted: c failed. a failed, but" in text


def test_without_all_checks_nothing_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, gpu = check("a"), check("b"), check("c", devices=("cuda",))
    monkeypatch.setattr(report, "CHECKS", (a, b, gpu, check("d", is_advice=True)))
    assert report.trusted(run(monkeypatch, [a, b], {})) is True
    examination = run(monkeypatch, [a, b], {"b": SKIPPED})
    assert report.trusted(examination) is None
    assert report.verdict(examination).startswith("Too few checks passed to say")
    assert report.trusted(run(monkeypatch, [a], {"a": FAILED})) is False


def invoke(monkeypatch: pytest.MonkeyPatch, examination: Examination, *arguments: str):
    def fake(checks, requested, folder, show, on_finding) -> Examination:
        for each, finding in zip(examination.checks, examination.findings, strict=True):
            with show(each, 1.0):
                on_finding(finding)
        return examination

    monkeypatch.setattr(main, "examine", fake)
    return CliRunner().invoke(main.command, arguments, standalone_mode=False)


@pytest.mark.parametrize(("verdict", "code"), [(OK, 0), (SKIPPED, 0), (FAILED, 1)])
def test_the_exit_code_says_whether_a_check_failed(
    monkeypatch: pytest.MonkeyPatch, verdict: str, code: int
) -> None:
    result = invoke(monkeypatch, examined(verdict))
    assert result.return_value == code
    assert result.stdout.splitlines()[-1].startswith(("Measurements", "Too few checks"))


def test_with_json_the_text_is_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, examined(OK), "--json")
    assert json.loads(result.stdout)["trusted"] is True
    assert "✓" in result.stderr
