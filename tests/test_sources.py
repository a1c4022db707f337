"""Properties of the source that no run can show: where paths come from, and what prints."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCH = {
    str(path.relative_to(ROOT / "bench")): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "bench").rglob("*.py"))
    if path.parent.name != "snippets"  # programs of their own, for other environments
}
PLACE = re.compile(
    r"(folder|path|place|root|parent|runs|reports|groups?|cpus|aside|target|temporary|self\.rows"
    r"|model|location|resolve|cwd|home|_RESULTS|_ROOT|NAMED|_SNIPPETS|_CGROUPS|_PROC|_GRIDS)"
    r"(\(.*\))?",
    re.DOTALL,
)
"""The end of what stands to the left of a `/` that joins a path. Of the joins in this code that
mypy knows by their types it misses none."""

OWN = {
    "a list in the code": {
        "compare/sides.py": ["name"], "engines/check.py": ["key"], "examples/own.py": ["file"],
        "examples/reading.py": ["f'{name}{suffix}'"],
        "export/check.py": ["format_in(folder).config", "ANSWERS.name"],
        "export/exporting.py": ["_WEIGHTS[name]", "form.name"],
        "export/formats/__init__.py": ["ANSWERS.name", "each.mark", "f'{file}.py'"],
        "export/formats/contents.py": ["VOCABULARIES[0]", "SCRIPT.name"],
        "export/formats/sentence_transformers.py": [
            "WEIGHTS[0]", "module['path']",
            "_SETTINGS if module['path'] == _TRANSFORMER else CONFIG",
        ],
        "worker/probes/machine.py": ["name"],
        "export/predict.py": ["exported.config"],

        "machine/conditions.py": ["f'cpu.cfs_{name}_us'"], "machine/memory.py": ["name"],
        "machine/version.py": ["name", "*name.split('.')"],
        "plan/gridfile.py": ["f'{name_or_file}.toml'"], "worker/compiling.py": ["name.lower()"],
    },
    "a name that its callers in the code give": {
        "doctor/checks/cells.py": ["folder", "f'{grid}.toml'"], "doctor/session.py": ["check.name"],
        "doctor/checks/compiled.py": ["name.lower()"],
        "doctor/checks/first_look.py": ["name.lower()"],
        "executors/slurm/executor.py": ["name"], "executors/slurm/probe.py": ["name"],
        "executors/slurm/submission.py": ["name"], "executors/slurm/following.py": ["name"],
        "launch/checks.py": ["place"], "report/pages.py": ["f'{name}.html'", "name", "place"],
        "results/tracking.py": ["name"],
    },
    "numbers, digests and sides": {
        "compare/alternating.py": ["digest([digests, ids, here])", "f'{side.lower()}.csv'", "side"],
        "executors/slurm/node.py": ["f'{target.conditions.conditions_id}.json'"],
        "executors/slurm/node_check.py": ["f'{name}.csv'"],
        "executors/slurm/probe.py": ["f'probe-{digest([*values, *software], 8)}'"],
        "executors/slurm/submission.py": [
            "attempt.file", "f'{index}-{number}-closed.json'", "f'{index}.txt'",
        ],
        "examples/tokens.py": ["f'{digest(sources, 32)}.safetensors'"],
        "forecast/client.py": ["f'{key}.json'"], "results/merge.py": ["str(number)"],
        "launch/locks.py": ["f'{gethostname()}-{os.getuid()}.lock'"],
        "launch/runner.py": ["f'minbert-fit-{os.getpid()}'"],
        "machine/cores.py": ["f'cpu{number}'"],
    },
    "a file's own name, with another ending": {
        "common/files.py": ["f'.{path.name}.tmp'", "f'.{path.name}.{os.getpid()}.tmp'"],
        "executors/slurm/submission.py": ["f'.{path.name}.{token_hex(8)}.tmp'"],
        "executors/slurm/following.py": ["self.runs.name"],
        "results/datafile.py": ["f'{runs.stem}{self.ending}'"],
        "results/outcomes.py": ["f'{runs.stem}.outcomes.safetensors'"],
        "results/rebuild.py": ["f'{path.name}.before' + (f'-{number}' if number > 1 else '')"],
        "results/store.py": ["f'{path.name}-cells'"],
    },
    "what the system lists": {
        "launch/runner.py": ["group.lstrip('/')"], "results/merge.py": ["folder", "name"],
        "results/submission.py": ["name"],
    },
    "a file of the user's that a grid names as data": {"plan/dataset.py": ["value"]},
    "numbers that are divided": {
        "stats/changepoints.py": ["left * (runs - left)"],
    },
}  # fmt: skip
"""Texts that are joined to a path, none of them from a file, by where they come from."""


def is_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.FormattedValue):
        return is_constant(node.value)
    if isinstance(node, ast.JoinedStr):
        return all(map(is_constant, node.values))
    name = getattr(node, "attr", getattr(node, "id", ""))
    return name.lstrip("_").isupper()


def constants(tree: ast.AST) -> set[int]:
    """The nodes of names that take the values of a display of constants, or of a constant."""
    known: set[int] = set()
    for node in ast.walk(tree):
        loops = getattr(node, "generators", [node] if isinstance(node, ast.For) else [])
        for loop in loops:
            values = getattr(loop.iter, "elts", [loop.iter])
            if all(map(is_constant, values)) and isinstance(loop.target, ast.Name):
                name = loop.target.id
                known |= {id(n) for n in ast.walk(node) if getattr(n, "id", "") == name}
    return known


def joined(tree: ast.AST) -> Iterator[ast.expr]:
    """What is joined to a path and is no constant."""
    known = constants(tree)
    for node in ast.walk(tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            left = node.left
            while isinstance(left, ast.BinOp) and isinstance(left.op, ast.Div):
                left = left.left
            text = ast.unparse(left)
            if any(PLACE.fullmatch(text, at) for at in range(len(text))):
                parts = [node.right]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("Path", "PurePath", "os.path.join"):
                parts = node.args[1:] if "Path" in called else node.args
            elif called.endswith((".joinpath", ".with_name", ".with_stem")):
                parts = node.args
        yield from (part for part in parts if not is_constant(part) and id(part) not in known)


def test_no_text_of_a_file_is_joined_to_a_path_but_by_one_function():
    every = {(file, text) for files in OWN.values() for file in files for text in files[file]}
    found = {(file, ast.unparse(part)) for file, tree in BENCH.items() for part in joined(tree)}
    found -= {("common/files.py", "name")}  # the function
    assert found - every == set(), "take bench.common.files.below, or say where the text is from"
    assert every - found == set(), "no longer joined"


PRINTS = {
    "common/messages.py", "common/child.py", "doctor/checks/steps.py", "__init__.py",
    "export/predict.py", "launch/display.py",
}  # fmt: skip
"""What writes to a stream by itself: the one function, answers between processes, a line before
anything can be imported, predictions as data, and a display, which takes escapes out."""


def test_what_is_printed_goes_through_what_takes_escapes_out():
    direct = re.compile(r"(print|click\.(s?echo)|(sys\.std(out|err)|self\._stream)\.write|"
                        r"rich\.console\.Console)")  # fmt: skip
    for file, tree in BENCH.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and direct.fullmatch(ast.unparse(node.func)):
                assert file in PRINTS, f"{file}:{node.lineno}: {ast.unparse(node)}"
            if isinstance(node, ast.ImportFrom) and node.module == "rich.console":
                assert "Console" not in [name.name for name in node.names], file
