"""The environment in which a fault strikes a command and all processes that it starts."""

import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SITE = Path(__file__).parent / "site"


def environment(patch: Any = None, **variables: str) -> dict[str, str]:
    """This process's environment, with a patch of `tests.experiments.doctor.patches`."""
    paths = [str(SITE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    fault = {} if patch is None else {"FAULT": patch.__name__}
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **fault, **variables}
