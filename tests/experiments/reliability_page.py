"""Prints docs/reliability.md from both counts of the fault suite, of `--n 1000 --json` and of
`--slurm 1000 --json`, and the present outcomes of GPU faults."""

import re
import sys
from collections import Counter
from pathlib import Path

from tests.experiments.faults import gpu, slurm
from tests.experiments.faults.kinds import KINDS
from tests.experiments.pages import made, read_json


def page(counts, on_cluster):
    injected = {}
    for each in counts["counts"]:
        injected.setdefault(each["kind"], Counter())[each["worker"]] += each["injected"]
    names = {}  # of the GPU faults of each outcome, which has short UUIDs and no remedy
    for name, outcome in gpu.outcomes():
        outcome = re.sub(r"; mend that, [^|]*? runs on the CPU", "", outcome)
        outcome = re.sub(r"(GPU-\w{8})-[\w-]+\)", r"\1…)", outcome)
        outcome = re.sub(r" \(CUDA_VISIBLE_DEVICES='.*'\)", "", outcome)
        names.setdefault(outcome, []).append(name)
    return made(
        "reliability.md.jinja", faults=counts, injected=injected,
        slurm=on_cluster, slurm_kinds=slurm.KINDS, kinds=KINDS, gpu_faults=names,
    )  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m tests.experiments.reliability_page FAULTS.json SLURM.json")
    sys.stdout.write(page(*(read_json(Path(name)) for name in sys.argv[1:])))
