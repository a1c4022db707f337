"""Cells on this machine, each worker started by another command, such as numactl or nice."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from shutil import which
from typing import Any

from bench.common.errors import InputError
from bench.executors.executor import Opening
from bench.executors.local import LocalExecutor
from bench.launch.attempt import WORKER
from bench.machine.conditions import find_slots


def from_flags(flags: Mapping[str, Any]) -> Opening:
    """The executor on the devices that the flags name."""
    words = shlex.split(flags["wrapper"] or "")
    if not words or which(words[0]) is None:
        raise InputError("--executor wrapped needs --wrapper with a command that is installed")
    run_by = f"{flags['stamp']}: {shlex.join(words)}"
    slots = [
        replace(slot, conditions=replace(slot.conditions, executor=run_by))
        for slot in find_slots(flags["device"], flags["jobs"])
    ]
    return lambda store, _paths, _is_dry: LocalExecutor(store.path, slots, (*words, *WORKER))
