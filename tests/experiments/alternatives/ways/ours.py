"""This project's commands, which commands.txt has: a grid, the last argument, the export of its
answer, or of the best of the race's rounds, and predictions."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from minbert.assets.embedded import asset_folder

train, new, _, out = map(Path, sys.argv[1:5])
seconds, grid = int(sys.argv[6]), sys.argv[7]
for path, name in ((train, "train.csv"), (new, "new.csv")):
    shutil.copy(path, out / name)
if (own := Path(__file__).parents[1] / grid).is_file():
    shutil.copy(own, out)
texts = pd.read_csv(new, nrows=1).columns
pair = f" --text {texts[0]} --text-pair {texts[1]}" if len(texts) == 2 else ""


def run(command, must=True):
    with (out / "commands.txt").open("a") as file:
        file.write(f"{command}\n")
    _, *words = shlex.split(command.replace("BASE", str(asset_folder("minilm"))))
    code = subprocess.run([sys.executable, *words], cwd=out, check=False).returncode
    return sys.exit(code) if must and code else code  # the last line of output says why


def rounds():
    rows = pd.read_csv(out / "runs.csv", keep_default_na=False)
    return rows.query("status == 'ok' and race == 'on'").astype({"dev_score": float})


grid = f"python -m bench.grid --grid {grid} --data train.csv{pair}"
run(f"{grid} --budget {0.75 * seconds / 60:g}", must=False)
cell = "recommended"
if run(f"python -m bench.export {cell} --refit --to model", must=False):
    scores = rounds().groupby(["mode", "rank", "layers"])["dev_score"].agg(["count", "mean"])
    best = scores.sort_values(["count", "mean"]).reset_index().iloc[-1]  # best in the most rounds
    axes = " ".join(f"{name}={best[name]}" for name in scores.index.names if best[name] != "")
    run(f'{grid} --no-race --select "{axes}"')
    cell = pd.read_csv(out / "runs.csv")["cell_id"].iloc[-1]
    run(f"python -m bench.export {cell} --refit --to model")
base = " --base BASE" if (out / "model" / "adapter_config.json").is_file() else ""
run(f"python -m bench.predict model new.csv{pair} --to predictions.csv{base}")
print(f"exported {cell}; {len(rounds())} trainings in {rounds()['seed'].nunique()} rounds")
