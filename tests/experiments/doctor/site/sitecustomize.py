"""Patches a module when it is imported, in a process and in all that it starts, with this folder on
PYTHONPATH. The variable FAULT names a function of `tests.experiments.doctor.patches`."""

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder


class Patching(MetaPathFinder):
    def __init__(self, patch):
        self.patch = patch

    def find_spec(self, name, path=None, target=None):
        if name != self.patch.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_patch(module):
            execute(module)
            self.patch(module)

        spec.loader.exec_module = execute_and_patch
        return spec


if name := os.environ.get("FAULT"):
    from tests.experiments.doctor import patches

    sys.meta_path.insert(0, Patching(getattr(patches, name)))
