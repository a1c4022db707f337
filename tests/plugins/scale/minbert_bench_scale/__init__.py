"""Declarations of a plugin, free of torch: they name what they need as `module:name`."""

from pathlib import Path

from adapters.methods import Method
from bench.executors.executor import Entry
from bench.export.formats import FORMATS, Format
from bench.plan.metrics import Metric
from bench.results.tracking import Tracker

METHOD = Method(
    name="scale",
    layer="minbert_bench_scale.layer:ScaledLinear",
    has_rank=False,
    parameters={"factors": "factors"},
    moves=("factors",),
    colour="#009e73",
    marker="v",
    line="-.",
)
METRIC = Metric(
    name="kappa",
    label="Cohen's kappa",
    problems=("single_label",),
    about="agreement of labels and predictions beyond that of chance (Cohen 1960)",
    lowest=-1.0,
    by_class=True,
    margin=0.04,
    value="sklearn.metrics:cohen_kappa_score",
    influence="minbert_bench_scale.kappa:influence",
)
EXECUTOR = Entry(
    name="wrapped",
    opening="minbert_bench_scale.wrapped:from_flags",
    options={
        "--wrapper": {
            "metavar": "COMMAND",
            "help": "With --executor wrapped: the command under which workers run, as 'nice -n 5'.",
        }
    },
)
FORMAT = Format(
    name="numpy",
    libraries=("numpy", "tokenizers", "safetensors"),
    mark="encoder.safetensors",
    snippet=Path(__file__).with_name("predict.py"),
    cannot=lambda cell: (
        FORMATS["transformers"].cannot(cell)
        or (None if cell.engine == "minbert" else f"no place for a model of engine {cell.engine}")
    ),
    writer="minbert_bench_scale.numpy_format:write",
    files={"encoder.safetensors": "the weights"},
)
TRACKER = Tracker(
    name="lines",
    library="json",
    install="nothing",
    sender="minbert_bench_scale.lines:send",
)
