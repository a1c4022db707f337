"""Running a way: its environment, its process, and the row of a run."""

import os
import re
import shutil
import subprocess
import sys
import time
import venv
from contextlib import suppress
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import click
import numpy as np
import psutil

from bench.machine.conditions import MEASUREMENT_VERSION
from tests.experiments.alternatives import COLUMNS, HERE, WAYS, read_csv
from tests.experiments.pages import ROOT

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2",
    "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "",
}  # fmt: skip


def run_way(name, seed, answers, folder, minutes):
    """Columns of the row of a way on the files of a folder, which also has the environments, and
    whether each prediction is right; None if it failed."""
    way, work, seconds = WAYS[name], folder / "run", int(60 * minutes)
    program, needs = HERE / "ways" / f"{way['program']}.py", way.get("requirements")
    row = dict.fromkeys(COLUMNS, "")
    row |= {"way": name, "seed": seed, "minutes": minutes, "examples": len(answers),
            "measurement_version": MEASUREMENT_VERSION}  # fmt: skip
    python, why_not = environment(needs, folder) if needs else (sys.executable, "")
    if why_not:
        return row | {"status": "not installed", "reason": why_not}, None
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    files = [folder / "train.csv", folder / "new.csv", encoder(folder), work]
    words = [python, "-P", program, *files, seed, seconds, *way.get("arguments", ())]
    row |= run_limited([*map(str, words)], work, seconds, imports=not needs)
    last = last_line((work / "log.txt").read_text("utf-8", errors="replace"))
    for path in (work, folder, Path(sys.prefix), ROOT):
        last = last.replace(str(path), "…")
    ask = f"import importlib.metadata as m\nfor n in {way['libraries']}: print(n, m.version(n))"
    asked = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    # lines that are not blank, comments or the docstring
    code = re.sub(r'\A""".*?"""', "", program.read_text(encoding="utf-8"), flags=re.S)
    row |= {"lines": len(re.findall(r"^\s*[^\s#]", code, re.M)),
            "versions": ", ".join(asked.stdout.splitlines()),
            "command": " ".join(Path(str(word)).name for word in words)}  # fmt: skip
    if (commands := work / "commands.txt").is_file():
        lines = commands.read_text("utf-8").splitlines()
        grids = [HERE / name for name in way["arguments"] if name.endswith(".toml")]
        own = sum(len(path.read_text("utf-8").splitlines()) for path in grids)
        row |= {"lines": len(lines) + own, "command": " && ".join(lines)}
    if row["status"] != "ok":
        return row | {"reason": last if row["status"] == "failed" else ""}, None
    predicted = np.array([one["prediction"] for one in read_csv(work / "predictions.csv")])
    size = sum(path.stat().st_size for path in (work / "model").rglob("*") if path.is_file())
    if len(predicted) != len(answers) or not size:
        why = f"{len(predicted)} predictions of {len(answers)} texts, a model of {size} bytes"
        return row | {"status": "failed", "reason": why}, None
    right = predicted == np.array(answers)
    costs = {"score": f"{right.mean():.4f}", "model_mb": f"{size / 1e6:.2f}"}
    return row | costs | {"note": last}, right


def encoder(folder):
    """The embedded encoder as a folder of sentence-transformers, which transformers reads, too."""
    path = folder / "minilm"
    if not path.is_dir():
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.models import Normalize, Pooling, Transformer

        from minbert.assets.embedded import fetch

        base = Transformer(str(fetch("minilm")), max_seq_length=256)
        pooling = Pooling(base.get_embedding_dimension(), "mean")
        unfinished = folder / ".minilm"
        SentenceTransformer(modules=[base, pooling, Normalize()]).save(str(unfinished))
        unfinished.rename(path)
    return path


def environment(needs, folder):
    text = HERE / "requirements" / f"{needs}.txt"
    place = folder / "environments" / needs
    python, finished = str(place / "bin" / "python"), place / text.name
    if not finished.is_file() or finished.read_bytes() != text.read_bytes():
        click.echo(f"installing {text.name}", err=True)
        venv.create(place, with_pip=True, clear=True)
        install = [python, "-m", "pip", "--disable-pip-version-check", "install", "-r", str(text)]
        done = subprocess.run(install, stdout=2, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return python, last_line(done.stderr)
        shutil.copy(text, finished)
    return python, ""


def run_limited(words, work, seconds, *, imports):
    """The status of a command after at most some seconds, its time, the peak of its memory and that
    of its descendants, and the cores that others had busy. Its output is in log.txt."""
    inherited = {k: v for k, v in os.environ.items() if imports or not k.startswith("PYTHON")}
    locks = {"MINBERT_BENCH_LOCKS": str(work / "locks")}  # other grids don't keep it waiting
    busy_s, begun, peak = _others_s(), time.monotonic(), 0
    with (work / "log.txt").open("w", encoding="utf-8") as log:
        child = psutil.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=work,
            env=inherited | _ENVIRONMENT | locks,
        )  # fmt: skip
        try:
            while (code := child.poll()) is None and time.monotonic() - begun < seconds:
                with suppress(psutil.NoSuchProcess):
                    tree = [child, *child.children(recursive=True)]
                    peak = max(peak, sum(process.memory_info().rss for process in tree))
                time.sleep(0.25)
        finally:
            processes = []  # asked at first, so that they can end others in order
            with suppress(psutil.NoSuchProcess):
                processes = [child, *child.children(recursive=True)]
            for end in (psutil.Process.terminate, psutil.Process.kill):
                for process in processes:
                    with suppress(psutil.NoSuchProcess):
                        end(process)
                _, processes = psutil.wait_procs(processes, timeout=10)
    wall_s = time.monotonic() - begun
    return {
        "status": "over time" if code is None else "failed" if code else "ok",
        "wall_s": f"{wall_s:.1f}", "peak_mib": f"{peak / 2**20:.0f}",
        "other_cores": f"{max(0.0, _others_s() - busy_s) / wall_s:.2f}",
    }  # fmt: skip


def _others_s():
    """Seconds that processors worked for other processes than ended children of this one."""
    times, own = psutil.cpu_times(), getrusage(RUSAGE_CHILDREN)
    return float(times.user + times.nice + times.system - own.ru_utime - own.ru_stime)


def last_line(text):
    """The last line that is not blank, without addresses, cut after 200 characters."""
    line = (text.strip().splitlines() or ["no message"])[-1]
    return re.sub(r"\w+://\S+", "…", line)[:200]
