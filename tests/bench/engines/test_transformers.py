"""Engine transformers builds any encoder with PEFT's adapters, or says in a line why not."""

import json
import os
import re
import shutil
from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adapters.injection import decays
from adapters.names import LAYER_SETS
from bench.common.errors import InputError
from bench.engines import check
from bench.engines import transformers as engine
from bench.engines.check import answers_to, check_models
from bench.engines.classifier import find_blocks
from bench.engines.engine import engine_of
from bench.launch.checks import check_engine
from bench.plan import gridfile
from bench.plan.adapter_configs import read_adapter_configs
from bench.plan.architectures import ARCHITECTURES, read_sizes
from bench.plan.cell import MINBERT, TRANSFORMERS
from bench.plan.gridfile import Settings
from bench.plan.job import Job
from bench.plan.models import find_model
from bench.plan.planning import Resolved, expand
from bench.worker.probes.memory import SavedTensors
from tests.encoders import KINDS, job

LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["query", "value"]}


def build(a_job):
    return engine_of(a_job.cell).build(a_job)


def groups(model, a_job):
    return engine_of(a_job.cell).parameter_groups(model)


def batch():
    mask = (torch.arange(9)[None] < torch.tensor([9, 4, 7, 9])[:, None]).long()
    ids = torch.randint(10, 200, (4, 9), generator=torch.Generator().manual_seed(0))
    return ids, mask


def logits_of(model):
    ids, mask = batch()
    return model(ids.masked_fill(mask == 0, model.pad_id), mask)


def refusal(a_job):
    """The line with which both the check before a run and the run itself refuse a job."""
    of, lines = engine_of(a_job.cell), []
    for attempt in (of.build, of.skeleton):
        with pytest.raises(InputError) as error:
            attempt(a_job)
        lines.append(str(error.value))
    assert lines[0] == lines[1]
    assert "\n" not in lines[0]
    return lines[0]


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_the_cells_where_it_is_a_probability_and_only_in_training(encoders, kind):
    pooling = ("pooler", "mean")[KINDS.index(kind) % 2]
    for dropout in (0.0, 0.5):
        model = build(job(encoders(kind), "lora", "attn-only", dropout=dropout, pooling=pooling))
        assert torch.equal(logits_of(model.train()), logits_of(model)) == (dropout == 0.0)
        assert torch.equal(logits_of(model.eval()), logits_of(model))
    options = {"token_dropout": True, "layerdrop": 0.5}
    config = engine._config(job(encoders("bert", **options), "full", dropout=0.2))
    assert (config.token_dropout, config.layerdrop) == (True, 0.0)
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_a_skeleton_is_like_the_model_and_its_steps_wait_for_no_value(encoders, kind):
    """On the meta device, where a value that a GPU would be asked for is an error."""
    ids, mask = (tensor.to("meta") for tensor in batch())
    for attention in ("eager", "sdpa")[: 1 + ARCHITECTURES[kind].has_sdpa]:
        changes = {"attn_implementation": attention, "init_lora_weights": "pissa"}
        a_job = job(encoders(kind), "lora", "all-lin", **changes)
        skeleton = engine_of(a_job.cell).skeleton(a_job).train()
        for given in (mask, None):
            skeleton(ids, given, torch.zeros_like(ids)).sum().backward()
    forms = [
        {name: (p.shape, p.requires_grad) for name, p in one.named_parameters()}
        for one in (build(a_job), skeleton)
    ]
    assert forms[0] == forms[1]
    assert all(parameter.is_meta for parameter in skeleton.parameters())


def test_layers_by_the_ends_of_their_names(encoders):
    for kind, end in {"electra": "dense", "albert": "dense+ffn"}.items():
        carriers = build(job(encoders(kind), "head")).blocks.adapted(end, kind)
        assert carriers
        assert all(name.startswith(f"{kind}.encoder.") for name in carriers)
    line = refusal(job(encoders("electra"), "lora", "embeddings_project"))
    assert "name ends in embeddings_project; they are attention.self.query," in line


def test_norms_have_a_place_and_layers_that_share_weights_none_of_their_own(encoders):
    for kind, expected in (
        ("albert", {("albert", None), None}),
        ("distilbert", {("distilbert", None), ("distilbert", 0), ("distilbert", 1), None}),
    ):
        a_job = job(encoders(kind), "full")
        model = build(a_job)
        places = {engine_of(a_job.cell).place_of(model, n) for n, _ in model.named_parameters()}
        assert places == expected
    for kind, name, expected in (
        ("modernbert", "model.final_norm.weight", None),  # as the head, above the last layer
        ("deberta-v2", "deberta.encoder.LayerNorm.weight", ("deberta", None)),  # of the positions
    ):
        model = build(job(encoders(kind), "full"))
        assert model.get_parameter(name) is not None
        assert engine_of(a_job.cell).place_of(model, name) == expected
    for setting in ({"layer_decay": 0.9}, {"unfreeze": "iterative"}):
        line = refusal(job(encoders("albert"), "full", **setting))
        assert "the layers of albert share their weights" in line


BOFT = {"peft_type": "BOFT", "boft_block_size": 4, "target_modules": ["query"]}


@pytest.mark.parametrize(("mode", "changes", "decayed", "not_decayed"), [
    ("dora", {"rank": 1}, {"lora_A", "lora_B"}, {"lora_magnitude_vector"}),
    ("ia3", {}, set(), {"ia3_l"}),
    ("vera", {"rank": 256}, set(), {"vera_lambda_b", "vera_lambda_d"}),  # above the width
    ("peft", {"adapter_config": json.dumps(BOFT)}, {"boft_R"}, {"boft_s"}),
])  # fmt: skip
def test_matrices_are_decayed_and_vectors_are_not(encoders, mode, changes, decayed, not_decayed):
    a_job = job(encoders("bert"), mode, "all-lin-only", **changes)
    names = {True: set(), False: set()}
    for name, parameter in groups(build(a_job), a_job)["adapter"].items():
        names[decays(name, parameter)].add(name.partition(".default")[0].rpartition(".")[2])
    assert names == {True: decayed, False: not_decayed}


def test_ia3_scales_keys_values_and_the_input_of_the_last_linear_layer(encoders):
    for kind in KINDS:
        model = build(job(encoders(kind), "ia3", "all-lin-only"))
        last = [n for n, layer in model.named_modules() if getattr(layer, "is_feedforward", False)]
        assert last
        assert not any("attention" in name or "attn" in name for name in last)


def test_checkpointing_keeps_less_and_changes_no_gradient(encoders):
    for kind in KINDS:
        setting = [("full",), ("lora", "attn-only")][KINDS.index(kind) % 2]
        if kind in ("albert", "mpnet"):
            line = f"gradient_checkpointing: transformers has none for {kind}; leave it out"
            assert refusal(job(encoders(kind), *setting, gradient_checkpointing="on")) == line
            continue
        kept, gradients = [], []
        for switch in ("off", "on"):
            model = build(job(encoders(kind), *setting, gradient_checkpointing=switch)).train()
            saved = SavedTensors(model)
            with saved.counting():
                loss = logits_of(model).square().sum()
            loss.backward()
            kept.append(saved.mib)
            gradients.append({name: p.grad for name, p in model.named_parameters()})
        assert kept[1] < 0.6 * kept[0], kind
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)


def test_attention_that_is_not_there_is_refused(encoders, monkeypatch):
    import transformers

    for kind in KINDS:
        config = transformers.AutoConfig.from_pretrained(encoders(kind))
        own = transformers.AutoModelForSequenceClassification._model_mapping[type(config)]
        assert ARCHITECTURES[kind].has_sdpa == own._supports_sdpa, kind
        if not ARCHITECTURES[kind].has_sdpa:
            a_job = job(encoders(kind), "full", attn_implementation="sdpa")
            assert "take eager" in refusal(a_job)
    a_job = job(encoders("bert"), "full", attn_implementation="flash_attention_2", amp="bf16")
    assert "flash-attn" in refusal(a_job)
    monkeypatch.setattr(engine, "is_flash_attn_2_available", lambda: True)
    engine.check_weights(a_job, ["bf16"])  # by what the CPU has


@pytest.mark.parametrize(("config", "reason"), [
    ({"peft_type": "ADALORA"}, "ADALORA needs a call in each step"),
    ({"peft_type": "TRAINABLE_TOKENS"}, "adds nothing that trains"),
    ({"peft_type": "NONSENSE"}, "peft_type 'NONSENSE' is none of those that can be used"),
    ({**LORA, "r": -1}, "PEFT refuses it: .*-1"),
    ({**LORA, "init_lora_weights": "eva"}, "eva needs examples before training"),
    ({**LORA, "target_modules": ["nothing"]}, r"match no layer of bert, whose .*self\.query"),
    ({**LORA, "modules_to_save": ["pooler"]}, "modules_to_save has pooler"),
    ({"peft_type": "LOHA", "rank_dropout": 2, "r": 0, "target_modules": ["query"]}, "refuses"),
    ({**LORA, "target_modules": ["classifier"], "exclude_modules": ["value"]},
     "it adapts classifier, which is of the head"),
])  # fmt: skip
def test_what_peft_can_not_do_here_is_one_line(encoders, config, reason):
    line = refusal(job(encoders("bert"), "peft", adapter_config=json.dumps(config)))
    assert line.startswith(("adapter_config", "mode peft: "))
    assert re.search(reason, line), line


def test_an_adapter_config_trains_what_it_says_and_the_head_whole(encoders):
    def names(**changes):
        text = json.dumps({**LORA, **changes})
        a_job = job(encoders("bert"), "peft", adapter_config=text)
        return {group: set(own) for group, own in groups(build(a_job), a_job).items()}

    every = names(target_modules="all-linear", modules_to_save=["classifier"])
    assert every["head"] == {"classifier.weight", "classifier.bias"}
    assert not any("classifier" in name for name in every["adapter"])
    assert len(every["adapter"]) == 2 * (2 * 6 + 1), "A and B of six layers twice, and the pooler"
    with_biases = names(bias="all")["adapter"]
    assert "bert.encoder.layer.0.attention.self.query.base_layer.bias" in with_biases
    assert "bert.embeddings.LayerNorm.bias" in with_biases


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_with_another_head_loads_its_encoder_and_draws_a_head(encoders, kind):
    """And in fp32 what is saved in half precision."""
    head = ("MaskedLM", "SequenceClassification")[KINDS.index(kind) % 2]
    dtype = {"roberta": "bfloat16", "deberta-v2": "float16"}.get(kind, "float32")
    checkpoint = encoders(kind, head=head, num_labels=3, dtype=dtype)
    a_job = job(checkpoint, "head")
    model, saved = build(a_job), load_file(checkpoint / "model.safetensors")
    assert logits_of(model).shape == (4, 5)
    new = groups(model, a_job)["head"]
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        if name not in new:
            assert torch.equal(parameter, saved[name].float()), name
        elif name in saved and saved[name].dim() > 1 and saved[name].shape == parameter.shape:
            assert not torch.equal(parameter, saved[name].float()), name


def test_a_checkpoint_is_loaded_without_running_code_of_a_pickle_or_of_its_own(encoders, tmp_path):
    safe, pickled = encoders("roberta"), encoders("roberta", pickled=True)
    outputs = [logits_of(build(job(path, "head")).eval()) for path in (safe, pickled)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    flag = tmp_path / "ran"
    folder = Path(shutil.copytree(pickled, tmp_path / "roberta-tiny"))
    code = type("Code", (), {"__reduce__": lambda _: (os.mkdir, (str(flag),))})
    torch.save({"weight": code()}, folder / "pytorch_model.bin")
    why = "its weights are a pickle that holds more than tensors; save them as model.safetensors"
    with pytest.raises(InputError, match=rf"^roberta: transformers can't load it: {why}$"):
        build(job(folder, "head"))
    assert not flag.exists()
    config = {"model_type": "new", "auto_map": {"AutoModel": "modeling.New"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling.py").write_text("raise SystemExit(3)")
    with pytest.raises(InputError, match="trust_remote_code is off"):
        read_sizes(tmp_path)
    with pytest.raises(InputError):
        build(job(tmp_path, "head", attn_implementation="eager"))


def test_heads_and_poolings_that_both_engines_share(encoders):
    for pooling, head in product(("cls", "mean"), ("linear", "nonlinear", "conv")):
        a_job = job(encoders("electra"), "lora", "attn-only", pooling=pooling, head=head)
        model = build(a_job)
        logits_of(model).sum().backward()
        parts = groups(model, a_job)
        assert all(p.grad is not None for p in (parts["head"] | parts["adapter"]).values())
        assert all(name.startswith("classifier.") for name in parts["head"])
    assert "pooling cls or mean" in refusal(job(encoders("electra"), "head", head="nonlinear"))


def test_every_random_number_is_of_the_seed(encoders):
    for mode, init in (("lora", "default"), ("lora", "gaussian"), ("vera", "default")):
        a_job = job(encoders("mpnet"), mode, "all-lin-only", init_lora_weights=init)
        another = replace(a_job, cell=replace(a_job.cell, seed=1))
        states = []
        for each in (a_job, a_job, another):
            torch.manual_seed(len(states))
            states.append(build(each).state_dict())
        first, again, other = states
        assert all(torch.equal(value, first[name]) for name, value in again.items())
        changed = {name for name, value in other.items() if not torch.equal(value, first[name])}
        assert any("lora_A" in name or "vera_A" in name for name in changed)
        assert any(name.startswith("classifier.") for name in changed)


GOLDEN = Path(__file__).parent / "golden"
OTHERS = (
    "camembert", "convbert", "data2vec-text", "ernie", "flaubert", "fnet", "longformer",
    "megatron-bert", "mobilebert", "nystromformer", "rembert", "roberta-prelayernorm", "roformer",
    "xlm", "xmod",
)  # fmt: skip


def block(of):
    """A linear layer of (inputs, outputs), or modules by name."""
    if isinstance(of, tuple):
        return nn.Linear(*of, device="meta")
    return nn.ModuleDict({name: block(part) for name, part in of.items()})


def test_layer_sets_of_encoders_are_as_listed(encoders):
    import transformers

    lines = []
    for kind in sorted({*KINDS, *OTHERS}):
        config = transformers.AutoConfig.for_model(kind)
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(config)
        found = find_blocks(model, model.base_model_prefix)
        lines.append(f"{kind}: {found}; feed-forward ends with {found.last}\n")
    assert "".join(lines) == (GOLDEN / "layer-sets.txt").read_text()


@pytest.mark.parametrize(("each", "reason"), [
    ([{"ffn": (8, 8)}], "has no linear layers for"),
    ([{"q": (8, 8), "k": (8, 3), "v": (8, 8)}], "has no linear layers for"),
    ([{"qkv": (8, 8)}], "has no linear layers for"),
    ([{"a": {"qkv": (8, 24)}, "b": {"qkv": (8, 24)}}], "has several for"),
    ([{"q": (8, 8), "k": (8, 8), "v": (8, 8)}, {"q_k": (8, 8), "v": (8, 8)}],
     "has no linear layers for"),
])  # fmt: skip
def test_what_the_structure_does_not_say_is_refused_with_what_to_write(each, reason):
    found = find_blocks(nn.Sequential(*map(block, each)), "bert.layer")
    ends = [name.rpartition(".")[2] for name in found.layers]
    begins = f"^layers attn-only: a block of mine {reason} query, key and value"
    named = re.escape(f'layers = ["{"+".join(dict.fromkeys(ends[:2]))}"]')
    with pytest.raises(InputError, match=f"{begins}.*{named}$"):
        found.adapted("attn-only", "mine")
    assert found.adapted("all-lin", "mine")
    with pytest.raises(InputError, match="has no linear layer whose name ends in nothing"):
        found.adapted("nothing", "mine")


SETTINGS = (
    ("full", None), ("head", None), ("bitfit", None), *(("lora", layers) for layers in LAYER_SETS),
    ("dora", "all-lin-only"), ("ia3", "all-lin-only"), ("vera", "all-lin-only"),
)  # fmt: skip
PARAMETER = r"(.*?)\.((?:lora|vera|ia3)_.*|[^.]+)"


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
        stem, end = re.fullmatch(PARAMETER, place.replace("#", layers)).groups()
        ends[stem].append(end)
    modules = defaultdict(list)
    for stem, own in ends.items():
        parent, _, module = stem.rpartition(".")
        modules[parent, either(own)].append(module)
    return [
        ".".join(filter(None, [parent, either(own), end])) for (parent, end), own in modules.items()
    ]


def either(names):
    return names[0] if len(names) == 1 else f"{{{','.join(sorted(names))}}}"


@pytest.mark.parametrize("name", [*KINDS, "bert-without-pooler"])
def test_what_trains_is_what_the_golden_file_says(encoders, name):
    """The pooler that a checkpoint lacks belongs to the head."""
    kind, _, lacking = name.partition("-without")
    folder, lines = encoders(kind, head="MaskedLM") if lacking else encoders(kind), []
    for mode, layers in SETTINGS:
        a_job = job(folder, mode, layers)
        lines.append(" ".join(filter(None, [mode, layers])))
        try:
            parts = groups(build(a_job), a_job)
        except InputError as error:
            lines.append(f"  refused: {error}")
            continue
        for part, parameters in parts.items():
            if parameters:
                lines += [f"  {part}", *(f"    {name}" for name in compact(parameters))]
    assert "\n".join(lines) + "\n" == (GOLDEN / f"{name}.txt").read_text()


RELATIVE = {"position_embedding_type": "relative_key_query"}
NEW = {"model_type": "newbert"}


@pytest.fixture
def copied(encoders, tmp_path):
    def copy(kind, **changes):
        folder = tmp_path / f"{kind}-tiny"
        shutil.copytree(encoders(kind), folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    return copy


def line_of(*args, **changes):
    with pytest.raises(InputError, match=r"^[^\n]+$") as raised:
        list(answers_to({"jobs": [job(*args, **changes).to_json()]}))
    return str(raised.value)


@pytest.mark.parametrize(("kind", "mode", "config", "settings", "line"), [
    ("modernbert", "bitfit", {}, {}, "mode bitfit: the encoder of modernbert has no biases"),
    ("roberta", "lora", {}, {"layers": "attn", "rank": 99}, "rank 99 is above the width of"),
    ("deberta", "full", {}, {"amp": "bf16"}, "amp bf16: deberta can't compute in it by"),
    ("gpt2", "full", {}, {}, "is a decoder, and engine transformers trains encoders alone"),
    ("roberta", "full", NEW, {}, "model_type newbert; a newer version may have it ("),
    ("roberta", "full", {"vocab_size": 10}, {}, "they are of different models"),
    ("bert", "full", RELATIVE, {}, "relative_key_query is computed by neither engine"),
])  # fmt: skip
def test_what_an_architecture_or_configuration_does_not_have_is_named(
    kind, mode, config, settings, line, copied
):
    assert line in line_of(copied(kind, **config), mode, **settings)


def test_weights_missing_or_not_finite_no_fast_tokenizer_and_a_decoder(copied):
    from transformers import T5Config

    name, folder = "encoder.layer.1.attention.self.key.weight", copied("roberta")
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {name: weights[name] * float("nan")}, path, {"format": "pt"})
    assert f"roberta.{name} holds NaN or infinite numbers" in line_of(folder, "full")
    key = weights.pop(name)
    save_file(weights, path, {"format": "pt"})
    assert "1 weights of roberta are missing or have another shape" in line_of(folder, "full")
    assert "missing or have another shape" in line_of(folder, "full", pooling="mean")
    save_file(weights | {name: key}, path, {"format": "pt"})
    (folder / "tokenizer.json").unlink()
    assert "tokenizer" in line_of(folder, "full")
    T5Config().save_pretrained(folder)
    assert "t5 is an encoder with a decoder" in line_of(folder, "full")


@pytest.mark.parametrize(("changes", "settings", "line"), [
    ({"engine": "minbert", "mode": "ia3"}, {}, "mode ia3 is one of PEFT's"),
    ({"engine": "minbert", "init_lora_weights": "pissa"}, {}, "init_lora_weights pissa is one"),
    ({"task": "multitask"}, {}, "task multitask has parts; take engine minbert"),
    ({"frozen_dtype": "bf16", "amp": "bf16"}, {}, "it holds frozen weights in fp32; leave"),
    ({"head": "nonlinear"}, {}, "with head nonlinear take pooling cls or mean"),
    ({"attn_implementation": "flash_attention_2"}, {}, "computes in half precision alone"),
    ({}, {"engine": "minbert", "attn_implementation": "eager"}, "has its own attention; take"),
    ({}, {"engine": "transformers", "kernels": "reference"}, "kernels reference: it is of"),
    ({}, {"kernels": "reference"}, "kernels reference: it is of engine minbert"),
])  # fmt: skip
def test_settings_that_an_engine_does_not_have_are_named(changes, settings, line):
    cell = replace(job(Path("roberta-tiny"), "lora", "attn").cell, **changes)
    with pytest.raises(InputError, match=line):
        check_engine([cell], [Settings(**settings)], None, None, {})


def test_a_model_runs_once_in_each_attention_pooling_and_head(encoders, monkeypatch):
    jobs = [
        job(encoders("bert"), "full", pooling=pooling, amp=amp)
        for pooling, amp in (("mean", "off"), ("mean", "bf16"), ("cls", "off"))
    ]
    ran = mock.Mock()
    monkeypatch.setattr("bench.engines.transformers.check_weights", ran)
    [layers] = answers_to({"jobs": [one.to_json() for one in jobs]})
    assert layers.startswith("query, key, value: attention.self.query, ")
    assert ran.mock_calls == [mock.call(jobs[0], ["bf16", "off"]), mock.call(jobs[2], ["off"])]


def test_each_setting_is_checked_once_at_its_highest_rank(encoders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    asked, folder = [], encoders("roberta")

    def ask(request, *_):
        asked.append([Job.from_json(text).cell for text in request["jobs"]])
        return ["query; dense"]

    monkeypatch.setattr(check, "_ask", ask)
    model = find_model(str(folder), "pretrained", "auto")
    cells = [job(folder, "lora", "attn", rank=r, seed=s).cell for r in (2, 8) for s in (0, 1)]
    full = job(folder, "full").cell
    for _ in range(2):
        check_models([*cells, full], model, None, {})
    [[one, other]] = asked
    assert {(one.mode, one.rank), (other.mode, other.rank)} == {("lora", 8), ("full", None)}
    checking = f"checking 2 settings of {model.name} in engine transformers\n"
    layers = f"layers of {model.name}: query; dense\n"
    assert capsys.readouterr().err == checking + 2 * layers
    check_models(cells, model, None, {})
    assert len(asked) == 2, "another list of settings"


def test_a_process_refuses_in_a_line(encoders, tmp_path, monkeypatch):
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"^\S+config.json: model_type is 'modernbert', [^\n]+$"):
        check.check_checkpoint(encoders("modernbert"), "0")


def test_the_librarys_model_is_in_the_mode_of_its_modules(encoders):
    model = build(job(encoders("bert"), "lora", "all-lin", dropout=0.5))
    layers = [module for module in model.modules() if type(module) is nn.Dropout]
    for training in (False, True, False):
        model.train(training)
        assert {layer.training for layer in (*layers, model.model_of_library)} == {training}


GRID = """cells = [
{mode = ["lora"], rank = [4], layers = ["attn-only"]},
{mode = ["lora"], rank = [4], layers = ["attn-only"], settings = {engine = "transformers", \
attn_implementation = "eager", init_lora_weights = "pissa"}},
{mode = ["peft"], adapter_config = ["loha.json", "other.json"], \
settings = {engine = "transformers"}},
]"""


def test_settings_of_the_engine_are_those_of_the_grid_file(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    config = {"peft_type": "LOHA", "r": 4, "target_modules": ["query"]}
    (tmp_path / "loha.json").write_text(json.dumps({**config, "inference_mode": True}))
    (tmp_path / "other.json").write_text(json.dumps({**config, "r": 8}))
    grid = gridfile.load(str(tmp_path / "grid.toml"))
    names, texts = read_adapter_configs(grid)
    resolved = Resolved(
        "minilm", "m", "mean", "d", "bf16", "grid",
        engine_version="transformers 5, peft 1", attention="sdpa", adapters=names,
    )  # fmt: skip
    cells = expand(grid, resolved)
    by_mode = {(cell.mode, cell.engine): cell for cell in cells}
    lora = by_mode["lora", TRANSFORMERS]
    assert (lora.engine_version, lora.attn_implementation) == ("transformers 5, peft 1", "eager")
    assert (lora.init_lora_weights, lora.kernels) == ("pissa", None)
    ours = by_mode["lora", MINBERT]
    assert (ours.engine_version, ours.attn_implementation, ours.adapter) == (None, None, None)
    assert ours.init_lora_weights == "default"
    names = {cell.adapter for cell in cells if cell.mode == "peft"}
    assert all(str(name).startswith("loha ") for name in names)
    assert {json.loads(texts[str(name)])["r"] for name in names} == {4, 8}
    assert by_mode["peft", TRANSFORMERS].attn_implementation == "sdpa"


def test_the_first_values_of_adapters_are_timed(encoders, monkeypatch):
    times = iter([10.0, 12.5])
    monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=times.__next__))
    model = engine.build(job(encoders("roberta"), "lora", "attn-only", init_lora_weights="pissa"))
    assert {"adapter_init_s": model.adapter_init_s} == {"adapter_init_s": 2.5}
    assert engine.build(job(encoders("roberta"), "full")).adapter_init_s is None
