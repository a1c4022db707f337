"""Verifies what bench.fit promises, on a CPU and for settings drawn at random: appends entries to
bench/fit/verified.json, from which bench.fit states its error. A draw takes a minute or two."""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from click import Choice, command, option

from bench.common.messages import echo
from tests.encoders import save
from tests.experiments.pages import ROOT, read_json

RESULTS = ROOT / "bench/fit/verified.json"
_SIZES = {
    "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 512, "max_position_embeddings": 514,
    "dim": 256, "hidden_dim": 512, "n_layers": 3, "n_heads": 4,  # as distilbert names them
}  # fmt: skip
_MODELS = ["bert-tiny", "bert-mini", "minilm", "roberta", "electra", "deberta-v2", "modernbert"]
_MODELS += ["mpnet", "albert", "distilbert"]  # which only set how much a promise spares
_MODELS += ["deberta", "xlm-roberta"]  # which had no part in tuning the forecast
_LAYERS = "attn-only amp=off", "attn-only amp=bf16", "all-lin-only"
_SELECTED = ["mode=full amp=bf16", "mode=full amp=off", "mode=head", "mode=dora"]
_SELECTED += [f"mode=lora layers={layers}" for layers in _LAYERS]


@command(help=__doc__)
@option("--draws", default=60, show_default=True)
@option("--seed", default=0, show_default=True)
@option("--model", "models", default=_MODELS, multiple=True, type=Choice(_MODELS))
def main(draws, seed, models):
    drawn = random.Random(seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as place:
        for number in range(draws):
            model, limit = drawn.choice(models), drawn.randrange(1024, 2049, 128)
            length, selected = 2 ** drawn.choice(range(4, 10)), drawn.choice(_SELECTED)
            echo(f"{number + 1}/{draws}: {model}, {length} tokens, {limit} MiB, {selected}")
            name, folder = ["--model", model, "--init", "random"], Path(place, model)
            if model not in _MODELS[:3]:
                name = ["--model", str(folder)]
                if not folder.exists():
                    save(model, folder, **_SIZES)
            done = subprocess.run(
                [sys.executable, "-m", "bench.fit", *name, "--memory", f"{limit}MiB", "--verify",
                 "--length", str(length), "--select", selected, "--json"],
                stdout=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
            if done.returncode in (0, 1):  # else no batch fits
                entries = [{**one, "device": "cpu"} for one in json.loads(done.stdout)["verified"]]
                lines = ",\n".join(map(json.dumps, [*read_json(RESULTS), *entries]))
                RESULTS.write_text(f"[\n{lines}\n]\n", "utf-8")


if __name__ == "__main__":
    main()
