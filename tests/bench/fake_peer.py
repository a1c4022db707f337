"""A fake process of a comparison, fast and without torch: `fake_peer.py BEHAVIOUR FOLDER`.

Behaviours: `alike` (all sides have the same losses), `different` (the baselines have other losses),
`crash` (the baselines end without a result), `silent` (no whole cell reports its dev score), `slow`
(no model is compiled in time). Ours takes 2 ms, a baseline 4.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

LOSSES = {"ours": [1.5, 1.25], "baseline": [1.5, 1.2502]}


def main(behaviour: str, folder: Path) -> int:
    request_file = folder / "request.json"
    if not request_file.exists():  # a whole cell of ours, for the worker
        return whole(folder, behaviour, {"dev_metric": "accuracy", "dev_score": 0.5})
    request = json.loads(request_file.read_text())
    ours = request["side"] == "ours"
    if behaviour == "crash" and not ours:
        sys.stderr.write("ValueError: no such thing\n")
        return 1
    if request["kind"] == "whole":
        return whole(folder, behaviour, {"peers": {"dev_metric": "accuracy", "dev_score": 0.25}})
    answer: dict[str, Any] = {"new_pooler": False}
    if request["kind"] == "steps":
        answer = steps(request, behaviour, ours)
        if behaviour == "slow" and request["side"] == "compiled":
            answer = {"compile_timeout_s": request["compile_timeout_s"]}
    result = {"status": "ok", "columns": {"peers": answer}}
    (folder / "result.json").write_text(json.dumps(result))
    return 0


def whole(folder: Path, behaviour: str, columns: dict[str, Any]) -> int:
    cache = sorted(path.name for path in Path(os.environ["MINBERT_CACHE"]).iterdir())
    columns.get("peers", columns)["cache"] = " ".join(cache)
    if behaviour != "silent":
        os.write(int(os.environ["BENCH_PROGRESS_FD"]), b'{"phase": "measure"}\n')
    (folder / "result.json").write_text(json.dumps({"status": "ok", "columns": columns}))
    return 0


def steps(request: dict[str, Any], behaviour: str, ours: bool) -> dict[str, Any]:
    ms = 2.0 if ours else 4.0
    answer = {
        "startup_s": 1.0, "first_step_ms": ms, "first_step_tokens": 100, "imports_mib": 200.0,
        "peak_mib": 300.0, "peak_above_imports_mib": 50 * ms, "peak_anon_above_imports_mib": 90.0,
        "activations_mib": 10.0, "flags": [], "passes": [[ms, ms], [ms, ms], [ms + 0.1, ms]],
        "warm": 1, "tokens": [90, 110], "texts": [8, 8], "padded": [100, 120],
        "epoch_tokens": 1000, "epoch_padded": 1100, "tuned": "GLIBC_TUNABLES" in os.environ,
        "operators": [["mm", 4.0, 0.6 * ms], *([f"op{n}", 1.0, 0.01 * ms] for n in range(15)),
                      ["outside of operators", 0, 0.25 * ms]],
    }  # fmt: skip
    job = json.loads((Path(request["cells"][0]) / "cell.json").read_text())
    answer["gpu"] = [os.environ["CUDA_VISIBLE_DEVICES"], job["device"]]
    if ours:
        answer["gflops"] = all_speeds(request)
    if request["loss_steps"]:
        answer["losses"] = LOSSES["baseline" if behaviour == "different" and not ours else "ours"]
    return answer


def all_speeds(request: dict[str, Any]) -> list[Any]:
    """Speeds of all shapes that the cell needs."""
    from bench.peers.limit import required, shapes, work_of
    from bench.plan.job import Job
    from minbert.model.config import BertConfig

    job = Job.read(Path(request["cells"][0]))
    config = BertConfig.from_folder(Path(str(job.checkpoint)))
    work = work_of(job.cell, 5, False, [90, 110], [8, 8])
    return [[list(shape), 100.0] for shape in shapes(required(config, work))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
