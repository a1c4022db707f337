"""Files in PEFT's format: read by PEFT, written by PEFT, and broken."""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adapters import peft_format
from adapters.injection import parameter_groups
from adapters.names import LAYER_SETS
from adapters.peft_format import load_adapter, save_adapter
from minbert.errors import InputError
from tests.adapters.small import (
    LAYERS,
    adapted_layers_of,
    adapted_model,
    base_model,
    batch,
    disturb,
    need_peft,
    split_names,
    train,
    transformers_twin,
)

MODES = pytest.mark.parametrize("mode", ["lora", "dora"])
QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


@pytest.fixture
def strict() -> Iterator[None]:
    """Every warning is an error."""
    need_peft()
    import peft
    import transformers  # noqa: F401  imported before warnings count

    assert peft.__version__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # transformers' own, of a name that PEFT still uses; it says nothing of the adapter
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )
        yield


def from_peft(model: Any, folder: Path) -> Tensor:
    """Logits of transformers' model with the adapter that PEFT loads."""
    from peft import PeftModel

    ids, mask = batch()
    loaded = PeftModel.from_pretrained(model, str(folder)).eval()
    logits: Tensor = loaded(input_ids=ids, attention_mask=mask).logits
    return logits


def made_by_peft(folder: Path, **changes: Any) -> Tensor:
    """Logits of an adapter that PEFT made, moved from its start, and saved."""
    from peft import LoraConfig, get_peft_model

    settings = {"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 16, **changes}
    model = get_peft_model(transformers_twin(base_model()), LoraConfig(**settings)).eval()
    disturb(model)
    model.save_pretrained(str(folder))
    ids, mask = batch()
    logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@MODES
@pytest.mark.parametrize("layers", ["attn-only", "all-lin-only"])
@pytest.mark.parametrize("new_pooler", [False, True])
@pytest.mark.usefixtures("strict")
def test_trap_17_peft_reads_ours(tmp_path: Path, mode: str, layers: str, new_pooler: bool) -> None:
    ids, mask = batch()
    model = adapted_model(mode=mode, layers=layers, new_pooler=new_pooler)
    disturb(model)
    expected = model(ids, mask)
    assert (expected - base_model()(ids, mask)).abs().max() > 0.01
    save_adapter(model, tmp_path, "some/model")
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert_close(from_peft(transformers_twin(base_model()), tmp_path), expected)


@MODES
@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["query", "key", "value", "dense"]},
        {"target_modules": ["value", "query"]},
        {"target_modules": None},
        {"target_modules": ["query", "key", "value"], "use_rslora": True},
        {
            "target_modules": ["query", "value"],
            "use_rslora": True,
            "modules_to_save": ["pooler"],
        },
        {"target_modules": "all-linear", "lora_dropout": 0.1},
    ],
    ids=lambda changes: "-".join(changes) + "-" + str(changes["target_modules"])[:20],
)
@pytest.mark.usefixtures("strict")
def test_trap_17_ours_reads_peft_and_writes_it_back(
    tmp_path: Path, mode: str, changes: dict[str, Any]
) -> None:
    expected = made_by_peft(tmp_path / "theirs", use_dora=mode == "dora", **changes)
    model = base_model()
    load_adapter(model, tmp_path / "theirs")
    ids, mask = batch()
    assert_close(model(ids, mask), expected)
    save_adapter(model, tmp_path / "ours")
    ours = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    theirs = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert_close(from_peft(transformers_twin(base_model()), tmp_path / "ours"), expected)


@MODES
@pytest.mark.usefixtures("strict")
def test_trap_17_training_goes_on_as_in_peft(tmp_path: Path, mode: str) -> None:
    """On query and value alone: the fused layer's key stays the base's."""
    from peft import PeftModel

    made_by_peft(tmp_path, use_dora=mode == "dora", target_modules=["query", "value"])
    ours = base_model()
    load_adapter(ours, tmp_path)
    theirs = PeftModel.from_pretrained(
        transformers_twin(base_model()), str(tmp_path), is_trainable=True
    ).eval()
    ids, mask = batch()
    labels = torch.arange(len(ids)) % 3
    results = []
    for model in (ours, theirs):
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.05)
        for _ in range(4):
            optimizer.zero_grad()
            output = model(input_ids=ids, attention_mask=mask)
            logits = output if isinstance(output, Tensor) else output.logits
            nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
        results.append(logits.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


@MODES
@pytest.mark.usefixtures("strict")
def test_mean_pooling_loads_into_transformers(tmp_path: Path, mode: str) -> None:
    from peft import PeftModel
    from transformers import BertModel

    class Mean(nn.Module):
        """transformers' encoder under the names of its classifiers, pooled by the mean."""

        def __init__(self) -> None:
            super().__init__()
            twin = transformers_twin(base_model())
            self.config = twin.config
            self.bert = BertModel(twin.config, add_pooling_layer=False)
            self.classifier = twin.classifier

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            hidden = self.bert(input_ids, attention_mask).last_hidden_state
            real = attention_mask[:, :, None].float()
            result: Tensor = self.classifier((hidden * real).sum(1) / real.sum(1))
            return result

    ids, mask = batch()
    plain, theirs = base_model("mean"), Mean().eval()
    theirs.bert.load_state_dict(
        {k.removeprefix("bert."): v for k, v in split_names(plain).items() if k[:5] == "bert."}
    )
    model = adapted_model("mean", mode=mode)
    disturb(model)
    save_adapter(model, tmp_path)
    loaded = PeftModel.from_pretrained(theirs, str(tmp_path)).eval()
    assert_close(loaded.base_model.model(ids, mask), model(ids, mask))


@MODES
@pytest.mark.parametrize("layers", LAYER_SETS)
@pytest.mark.parametrize("new_pooler", [False, True])
def test_what_is_saved_comes_back_in_full(
    tmp_path: Path, mode: str, layers: str, new_pooler: bool
) -> None:
    model = adapted_model(mode=mode, layers=layers, new_pooler=new_pooler)
    train(model, parameter_groups(model), steps=3)
    save_adapter(model, tmp_path)
    whole = not layers.endswith("-only")
    assert (tmp_path / "model.safetensors").exists() is whole
    loaded = base_model()
    load_adapter(loaded, tmp_path)
    found, expected = loaded.state_dict(), model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    groups, wanted = parameter_groups(loaded), parameter_groups(model)
    assert {g: set(p) for g, p in groups.items()} == {g: set(p) for g, p in wanted.items()}


@MODES
@pytest.mark.parametrize("layers", ["attn", "all-lin"])
@pytest.mark.usefixtures("strict")
def test_full_weights_beside_an_adapter_serve_peft_too(
    tmp_path: Path, mode: str, layers: str
) -> None:
    model = adapted_model(mode=mode, layers=layers)
    train(model, parameter_groups(model), steps=3)
    save_adapter(model, tmp_path)
    twin = transformers_twin(base_model())
    twin.load_state_dict(load_file(tmp_path / "model.safetensors"))
    ids, mask = batch()
    assert_close(from_peft(twin, tmp_path), model(ids, mask))


@MODES
def test_keys_shapes_and_metadata(tmp_path: Path, mode: str) -> None:
    model = adapted_model(mode=mode, layers="all-lin-only", rank=4)
    save_adapter(model, tmp_path, notes={"pooling": "mean"})
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "pooling": "mean"}
    shapes = {
        key: tuple(value.shape)
        for key, value in load_file(tmp_path / "adapter_model.safetensors").items()
    }
    widths = {
        "attention.self.query": (32, 32),
        "attention.self.key": (32, 32),
        "attention.self.value": (32, 32),
        "attention.output.dense": (32, 32),
        "intermediate.dense": (32, 48),
        "output.dense": (48, 32),
    }
    expected: dict[str, tuple[int, ...]] = {
        "base_model.model.classifier.weight": (3, 32),
        "base_model.model.classifier.bias": (3,),
    }
    for n in range(LAYERS):
        for name, (width_in, width_out) in widths.items():
            stem = f"base_model.model.bert.encoder.layer.{n}.{name}"
            expected[f"{stem}.lora_A.weight"] = (4, width_in)
            expected[f"{stem}.lora_B.weight"] = (width_out, 4)
            if mode == "dora":
                expected[f"{stem}.lora_magnitude_vector"] = (width_out,)
    assert shapes == expected
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    targets = config.pop("target_modules")
    assert set(targets) == {
        f"bert.encoder.layer.{n}.{name}" for n in range(LAYERS) for name in widths
    }
    assert config == {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "modules_to_save": ["classifier", "score"],
        "peft_type": "LORA",
        "r": 4,
        "task_type": "SEQ_CLS",
        "use_dora": mode == "dora",
        "use_rslora": False,
    }


def test_an_adapter_without_a_head_leaves_the_head(tmp_path: Path) -> None:
    save_adapter(adapted_model(layers="attn-only"), tmp_path)
    _edit_config(task_type=None, modules_to_save=None)(tmp_path)
    _edit_tensors(lambda t: [t.pop(key) for key in list(t) if ".classifier." in key])(tmp_path)
    model = base_model()
    head = model.classifier.weight.clone()
    load_adapter(model, tmp_path)
    assert torch.equal(model.classifier.weight, head)
    assert adapted_layers_of(model)


Break = Callable[[Path], None]


def _edit_config(**changes: Any) -> Break:
    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _edit_tensors(change: Callable[[dict[str, Tensor]], Any]) -> Break:
    def edit(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = {key: value.clone() for key, value in load_file(path).items()}
        change(tensors)
        save_file(tensors, path, {"format": "pt"})

    return edit


def _cut(name: str, keep: float) -> Break:
    def edit(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * keep)])

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_edit_tensors(lambda t: t.pop(f"{QUERY}.lora_A.weight")), "lacks .*query.lora_A.weight"),
        (_edit_tensors(lambda t: t.pop("base_model.model.classifier.bias")), "lacks .*classifier"),
        (_edit_tensors(lambda t: t.pop(f"{QUERY}.lora_magnitude_vector")), "lacks .*magnitude"),
        (
            _edit_tensors(lambda t: t.update({f"{QUERY}.lora_C.weight": torch.ones(1)})),
            "unexpected .*lora_C",
        ),
        (
            _edit_tensors(lambda t: t.update({f"{QUERY}.lora_B.weight": torch.ones(32, 5)})),
            r"query.lora_B.weight of \[32, 5\] in place of \[32, 4\]",
        ),
        (
            _edit_tensors(
                lambda t: t.update({"base_model.model.classifier.weight": torch.ones(2, 32)})
            ),
            r"classifier.weight of \[2, 32\] in place of \[3, 32\]",
        ),
        (
            _edit_tensors(
                lambda t: t.update({f"{QUERY}.lora_A.weight": torch.ones(4, 32, dtype=torch.int8)})
            ),
            "no floating-point type",
        ),
        (_edit_tensors(lambda t: t.clear()), "lacks "),
        (_cut("adapter_model.safetensors", 0.7), "is damaged"),
        (_cut("adapter_model.safetensors", 0.001), "is damaged"),
        (_cut("adapter_model.safetensors", 0), "is damaged"),
        (_cut("adapter_config.json", 0.5), "is not JSON"),
        (lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe\x00"), "is not JSON"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "no JSON object"),
        (lambda f: (f / "adapter_config.json").unlink(), "can't be read: there is no such file"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "can't be read"),
        (_edit_config(peft_type="IA3"), "peft_type is 'IA3'"),
        (_edit_config(peft_type=None), "peft_type is None"),
        (_edit_config(use_dora=False), "unexpected .*magnitude"),
        (_edit_config(r=8), "lora_A"),
        (_edit_config(target_modules=["query"]), "unexpected"),
        (_edit_config(modules_to_save=["embeddings"]), "only the head and the pooler"),
    ],
)
def test_damage_is_one_line_and_leaves_the_model(
    tmp_path: Path, damage: Break, message: str
) -> None:
    save_adapter(adapted_model(mode="dora", layers="attn-only"), tmp_path)
    damage(tmp_path)
    model = base_model()
    with pytest.raises(InputError, match=message) as raised:
        load_adapter(model, tmp_path)
    assert "\n" not in str(raised.value)
    _assert_untouched(model)


def test_a_rank_above_the_width_is_refused(tmp_path: Path) -> None:
    save_adapter(adapted_model(mode="lora", layers="attn-only"), tmp_path)
    _edit_config(r=40)(tmp_path)

    def widen(tensors: dict[str, Tensor]) -> None:
        for key in tensors:
            if ".lora_" in key:
                tensors[key] = torch.ones((40, 32) if "lora_A" in key else (32, 40))

    _edit_tensors(widen)(tmp_path)
    model = base_model()
    with pytest.raises(InputError, match="rank 40 is above the width 32"):
        load_adapter(model, tmp_path)
    _assert_untouched(model)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "can't be read"),
        (_cut("model.safetensors", 0.9), "is damaged"),
        (
            lambda f: save_file({"x": torch.ones(1)}, f / "model.safetensors"),
            "lacks bert.embeddings",
        ),
    ],
)
def test_damage_of_full_weights_leaves_the_model(
    tmp_path: Path, damage: Break, message: str
) -> None:
    save_adapter(adapted_model(layers="attn"), tmp_path)
    damage(tmp_path)
    model = base_model()
    with pytest.raises(InputError, match=message):
        load_adapter(model, tmp_path)
    _assert_untouched(model)


def _assert_untouched(model: nn.Module) -> None:
    assert not adapted_layers_of(model)
    expected = base_model()
    assert all(p.requires_grad for p in model.parameters())
    assert all(
        torch.equal(value, expected.state_dict()[name])
        for name, value in model.state_dict().items()
    )


def test_loading_twice_is_refused(tmp_path: Path) -> None:
    model = adapted_model()
    save_adapter(model, tmp_path)
    with pytest.raises(InputError):
        load_adapter(model, tmp_path)


def test_saving_without_adapters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no adapters to save"):
        save_adapter(base_model(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("fails", ["model.safetensors", "adapter_model.safetensors"])
def test_a_save_that_is_cut_off_leaves_nothing_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    save_adapter(adapted_model(layers="attn"), tmp_path)

    def full(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        if path.name == fails:
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata)

    monkeypatch.setattr(peft_format, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(adapted_model(layers="attn", seed=5), tmp_path)
    with pytest.raises(InputError, match=r"adapter_config\.json can't be read"):
        load_adapter(base_model(), tmp_path)


def test_a_folder_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save_adapter(adapted_model(), tmp_path / "file" / "adapter")
