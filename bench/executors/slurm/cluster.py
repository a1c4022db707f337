"""The executor of a command with `--executor slurm`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.common.errors import InputError
from bench.common.progress import note_to_stderr
from bench.executors.executor import Opening, refuse
from bench.executors.slurm.executor import SlurmExecutor, poll_s
from bench.executors.slurm.options import Request, parse_request
from bench.executors.slurm.probe import Prober
from bench.executors.slurm.submitter import Submitter
from bench.launch.signals import Signals
from bench.machine.conditions import find_conditions
from bench.results.store import Store


def from_flags(flags: Mapping[str, Any]) -> Opening:
    """The executor on the cluster that the flags describe."""
    for_here = {"--jobs": flags["jobs"] > 1, "--budget": flags["budget_min"] is not None}
    refuse(for_here, "this machine", "local")
    device = flags["device"]
    if device == "all" or "," in device:
        raise InputError(
            f"--device {device}: each array task uses the one device that Slurm gives it; take "
            "cpu or cuda, or leave --device out, and ask for one GPU with --slurm gres=gpu:1"
        )
    request = parse_request(flags["slurm_options"] or "", flags["max_running"])
    return lambda store, paths, is_dry: find_cluster(
        store, request, device, paths, dry_run=is_dry, checks_nodes=flags["check_nodes"]
    )


def find_cluster(
    store: Store,
    request: Request,
    device: str,
    paths: Iterable[Path],
    *,
    dry_run: bool,
    checks_nodes: bool = False,
) -> SlurmExecutor:
    """An executor on the cluster, once it is known that a node can run cells.

    Rows that array tasks have left since the last command are in the CSV then.

    Args:
        request: what each array task asks for.
        device: as of `bench.machine.conditions.find_conditions`, on a node.
        paths: the files and folders that cells need.
        checks_nodes: as of `SlurmExecutor`.
        dry_run: ask no node; if none is known, conditions are those of this machine's CPU.

    Raises:
        InputError: if there is no Slurm, it would refuse the jobs, or a node can't run cells.
        StoppedError: if the user stops it.
    """
    prober = Prober(store.path, request, device, paths, note_to_stderr, poll_s())
    prober.check()
    if dry_run:
        target = prober.known()
        if target is None:
            note_to_stderr(
                "no node has been asked yet: the plan is as if nodes were like this machine"
            )
            target = find_conditions("cpu")
    else:
        store.check_writable()
        with Signals() as signals:
            target = prober.ask(signals)
    submitter = Submitter(store.path, request, device, prober.kinds_folder)
    executor = SlurmExecutor(store, submitter, target, checks_nodes=checks_nodes)
    if not dry_run:
        executor.collect()
    return executor
