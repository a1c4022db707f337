"""The executor of a command with `--executor slurm`."""

from collections.abc import Iterable
from pathlib import Path

from bench.common.progress import note_to_stderr
from bench.executors.slurm.executor import SlurmExecutor, poll_s
from bench.executors.slurm.options import Request
from bench.executors.slurm.probe import Prober
from bench.executors.slurm.submitter import Submitter
from bench.launch.signals import Signals
from bench.machine.conditions import find_conditions
from bench.results.store import Store


def find_cluster(
    store: Store,
    request: Request,
    device: str,
    paths: Iterable[Path],
    *,
    dry_run: bool,
) -> SlurmExecutor:
    """An executor on the cluster, once it is known that a node can run cells.

    Rows that array tasks have left since the last command are in the CSV then.

    Args:
        request: what each array task asks for.
        device: as of `bench.machine.conditions.find_conditions`, on a node.
        paths: the files and folders that cells need.
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
    executor = SlurmExecutor(store, submitter, target)
    if not dry_run:
        executor.collect()
    return executor
