"""The names of what trains, in a form that shows a change as a readable diff:
`python -m tests.bench.engines.trainable FOLDER` writes it for every architecture."""

import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from adapters.names import LAYER_SETS
from bench.common.errors import InputError
from bench.engines.engine import engine_of
from tests.encoders import KINDS, Checkpoints, job

_SETTINGS = (
    ("full", None), ("head", None), ("bitfit", None), *(("lora", layers) for layers in LAYER_SETS),
    ("dora", "all-lin-only"), ("ia3", "all-lin-only"), ("vera", "all-lin-only"),
)  # fmt: skip
_PARAMETER = r"(.*?)\.((?:lora|vera|ia3)_.*|[^.]+)"


def listing(checkpoint):
    lines = []
    for mode, layers in _SETTINGS:
        a_job = job(checkpoint, mode, layers)
        engine = engine_of(a_job.cell)
        lines.append(" ".join(filter(None, [mode, layers])))
        try:
            groups = engine.parameter_groups(engine.build(a_job))
        except InputError as error:
            lines.append(f"  refused: {error}")
            continue
        for group, parameters in groups.items():
            if parameters:
                lines += [f"  {group}", *(f"    {name}" for name in compact(parameters))]
    return "\n".join(lines) + "\n"


def compact(names):
    """Names with `{0-1}` for the numbers of layers, and `{key,query}.{bias,weight}` for modules of
    the same place and the parameters that they have in common."""
    numbers = defaultdict(list)
    for name in names:
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        place = name if number is None else f"{name[: number.start()]}#{name[number.end() :]}"
        numbers[place].append("" if number is None else number[0])
    ends = defaultdict(list)
    for place, values in numbers.items():
        layers = values[0] if len(set(values)) == 1 else f"{{{values[0]}-{values[-1]}}}"
        stem, end = re.fullmatch(_PARAMETER, place.replace("#", layers)).groups()
        ends[stem].append(end)
    modules = defaultdict(list)
    for stem, own in ends.items():
        parent, _, module = stem.rpartition(".")
        modules[parent, _either(own)].append(module)
    return [
        ".".join(filter(None, [parent, _either(own), end]))
        for (parent, end), own in modules.items()
    ]


def _either(names):
    return names[0] if len(names) == 1 else f"{{{','.join(sorted(names))}}}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        for kind in KINDS:
            text = listing(Checkpoints(Path(root))(kind))
            (Path(sys.argv[1]) / f"{kind}.txt").write_text(text)
        bare = Checkpoints(Path(root))("bert", head="MaskedLM")
        (Path(sys.argv[1]) / "bert-without-pooler.txt").write_text(listing(bare))
