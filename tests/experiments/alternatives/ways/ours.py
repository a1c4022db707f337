"""This project's commands, in commands.txt: a grid, the last argument; the export of its answer, or
of the best so far, after the command that it prints to train that; and predictions."""

import json
import re
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


budget = f"--budget {0.75 * seconds / 60:g}"  # a grid that it ends has another exit code than 0
code = run(f"python -m bench.grid --grid {grid} --data train.csv{pair} {budget}", must=False)
if not (out / "runs.csv").is_file():
    sys.exit(code)
recommend = [sys.executable, "-m", "bench.recommend", "--json"]
answer = json.loads(subprocess.run(recommend, cwd=out, check=False, stdout=subprocess.PIPE).stdout)
cell, race = "recommended", answer["race"]
if not answer["decided"]:
    for command in answer["commands"]:
        if "--no-race" in command:  # trains the best so far
            run(re.sub(r"--seeds \d+ ", "", command))
    cell = shlex.split(command)[3]  # the last one exports it
run(f"python -m bench.export {cell} --refit --to model")
base = " --base BASE" if (out / "model" / "adapter_config.json").is_file() else ""
run(f"python -m bench.predict model new.csv{pair} --to predictions.csv{base}")
print(f"exported {cell}; {race['trainings']} trainings in {race['rounds']} rounds")
