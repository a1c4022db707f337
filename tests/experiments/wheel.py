"""Build the wheel, install it into a fresh environment, and use it outside the checkout: the
command, three shards merged and compared with one run, the notebook, uvx and pipx.

It installs all dependencies two or three times, and takes some minutes. What uv installs is set by
its own variables, such as UV_FIND_LINKS."""

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.experiments.pages import DOCS, ROOT

GRID = ["run", "--grid", "smoke", "--device", "cpu", "--select", "mode=full,head,lora amp=off",
        "--max-train", "192", "--max-dev", "64", "--max-steps", "2"]  # fmt: skip
COUNT = 3
NOTEBOOK = """
import nbformat, sys
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
place = {"metadata": {"path": sys.argv[2]}}
NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
print(sum("text/html" in o.get("data", {}) for c in notebook.cells for o in c.get("outputs", ())))
"""
ROWS = """
import bench, json, sys
rows = bench.load(sys.argv[1]).to_pandas().query("counts")
assert "site-packages" in bench.__file__, bench.__file__
names = ["cell_id", "conditions_id", "status", "dev_score", "dev_loss", "params_trainable",
         "tokens_total", "step_gflop", "code_version"]
print(rows.sort_values("cell_id")[names].to_json(orient="records"))
"""


def run(folder, *words, undecided=0):
    """What a command prints; its exit code has to be 0, or that of an undecided answer."""
    done = subprocess.run(
        [*map(str, words)], cwd=folder, text=True, capture_output=True, check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )  # fmt: skip
    if done.returncode not in (0, undecided):
        sys.exit(f"{' '.join(map(str, words))}: {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def bench(folder, *words):
    command = folder / "venv" / "bin" / "minbert-bench"
    return run(folder, command, *words, undecided=int(words[:1] == ("recommend",)))


def answers(folder, results):
    """Rows, settings and cells in the report's tables, and the base of the recommendation."""
    runs = results / "runs.csv"
    rows = json.loads(run(folder, folder / "venv" / "bin" / "python", "-c", ROWS, runs))
    lines = (results / "reports" / "report.md").read_text("utf-8").splitlines()
    shown = {line.split(" | ")[0] for line in lines if re.match(r"\| (full|head|lora|dora)", line)}
    advice = json.loads(bench(folder, "recommend", "--runs", runs, "--json"))
    same = ("decided", "settings", "metric", "margin", "cross_fitted_score")
    return rows, shown, [advice[name] for name in same]


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder, sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT)
        [wheel] = folder.glob("*.whl")
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        run(folder, python, "-m", "pip", "install", "-q", wheel, "nbclient", "ipykernel")
        print(f"{wheel.name}: {bench(folder, '--version').splitlines()[0]}")
        assert "run --grid quick --data reviews.csv" in bench(folder)
        bench(folder, *GRID)
        parts = [f"{index}/runs.csv" for index in range(COUNT)]
        for index, part in enumerate(parts):
            places = ("--runs", part, "--reports", f"{index}/reports")
            bench(folder, *GRID, "--shard", f"{index}/{COUNT}", *places)
        bench(folder, "merge", *parts, "--to", "all/runs.csv")
        bench(folder, "report", "--runs", "all/runs.csv", "--reports", "all/reports")
        one, merged = answers(folder, folder), answers(folder, folder / "all")
        assert one == merged, (one, merged)
        assert one[1]
        print(f"{COUNT} shards merged: {len(merged[0])} rows, {len(one[1])} settings in the report "
              "and the recommendation's base are those of one run; times differ")  # fmt: skip
        print(bench(folder, "validate", "all", "--reports", "side").splitlines()[-1])
        tables = run(folder, python, "-c", NOTEBOOK, DOCS / "notebook.ipynb", DOCS)
        print(f"docs/notebook.ipynb ran, with {tables.strip()} outputs in HTML")
        for words in (("uvx", "--from"), ("pipx", "run", "--spec")):
            line = run(folder, *words, wheel, "minbert-bench", "--version").splitlines()[0]
            print(f"{words[0]}: {line}")


if __name__ == "__main__":
    main()
