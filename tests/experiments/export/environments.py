"""Exported models in environments of plain libraries, for docs/export.md: 15 minutes."""

import os
import subprocess
import sys
import venv
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np

from bench.export.check import check
from tests.bench.export.small import base_folder, expected_logits, exported, trained

_OLD_TRANSFORMERS = ("torch==2.5.*", "transformers==4.44.*", "numpy<2.3")
ENVIRONMENTS = (
    ("peft", ("lora", "attn"), ("torch", "transformers", "peft")),
    ("peft", ("dora", "all-lin-only"), (*_OLD_TRANSFORMERS, "peft==0.12.*")),
    ("transformers", ("lora", "attn"), ("torch", "transformers")),
    ("transformers", ("full",), _OLD_TRANSFORMERS),
    ("sentence-transformers", ("lora", "attn-only"), ("sentence-transformers",)),
    ("sentence-transformers", ("dora", "all-lin"), ("sentence-transformers==5.0.*",)),
    ("onnx", ("dora", "attn"), ("onnxruntime", "tokenizers", "numpy")),
)
"""The format, mode and layers of a cell, and what pip installs."""


if __name__ == "__main__":
    print("| format | cell | installed | largest difference of a logit |")
    print("| --- | --- | --- | --- |")
    with TemporaryDirectory() as place:
        base = base_folder(Path(place, "base"))
        for number, (name, how, packages) in enumerate(ENVIRONMENTS):
            print(f"pip install {' '.join(packages)}", file=sys.stderr, flush=True)
            environment = Path(place, f"venv-{number}")
            venv.create(environment, with_pip=True)
            python = str(environment / "bin" / "python")
            install = [python, "-m", "pip", "install", "--quiet", *packages]
            subprocess.run(install, check=True, env=os.environ | {"PYTHONPATH": ""})
            pooling = "mean" if name == "sentence-transformers" else "pooler"
            cell = trained(base, *how, pooling=pooling)
            expected = expected_logits(cell)
            folder = exported(cell, name, Path(place, f"out-{number}"))
            with mock.patch.object(sys, "executable", python):
                answer = check(cell, folder, expected)
            difference = np.abs(answer.logits - expected).max()
            versions = ", ".join(f"{key} {value}" for key, value in answer.libraries.items())
            print(f"| {name} | {' '.join(how)} | {versions} | {difference:.0e} |", flush=True)
