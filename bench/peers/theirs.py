"""The peer: a classifier on transformers' BertModel, PEFT's adapters, torch's AdamW.

It begins with the weights that ours has, and is written as users of both libraries write it; what
is not theirs is only what has to be equal: pooling, dropout, rates, decay and schedule.
"""

from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig as TheirConfig
from transformers import BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging

from adapters.injection import decays
from adapters.methods import METHODS
from adapters.names import adapted_layers, trains_base
from adapters.peft_format import ADAPTER as ADAPTER_FILE
from bench.peers import request as requests
from bench.peers.names import COMPILED
from bench.peers.request import Request
from bench.plan.cell import Cell
from bench.plan.job import Job
from minbert.data.batches import Batch
from minbert.data.tasks import Task
from minbert.model.config import BertConfig
from minbert.training.losses import loss_name, loss_of
from minbert.training.schedules import linear_schedule
from minbert.training.trainer import MAX_GRADIENT_NORM, autocast

logging.set_verbosity_error()
logging.disable_progress_bar()

_HEAD: Final = "classifier"
_POOLER: Final = "pooler"
_FROZEN: Final = (".base_layer.", ".original_module.")
"""In the names of what PEFT keeps beside what trains."""


class Classifier(BertPreTrainedModel):  # type: ignore[misc]
    """BertForSequenceClassification, with the choice of pooling that ours has.

    Args:
        config: of the encoder, with `classifier_dropout` and labels.
        pooling: `pooler` or `mean` over real tokens.
        kind: of the task, which says what loss its labels are for.
    """

    def __init__(self, config: Any, pooling: str, kind: str) -> None:
        super().__init__(config)
        self.kind = kind
        self.bert = BertModel(config, add_pooling_layer=pooling == "pooler")
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        labels: Tensor | None = None,
    ) -> Any:
        """Logits [B, num_labels], with the loss [] where labels are given."""
        found = self.bert(input_ids, attention_mask, token_type_ids)
        pooled = found.pooler_output
        if pooled is None:
            hidden = found.last_hidden_state  # [B, S, H]
            real = attention_mask[:, :, None].to(hidden.dtype)  # [B, S, 1]
            pooled = (hidden * real).sum(dim=1) / real.sum(dim=1)  # [B, H]
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else loss_of(loss_name(self.kind), logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def load_model(job: Job, request: Request, task: Task) -> nn.Module:
    """The classifier with the first weights of all sides, ready to train in the cell's mode.

    Raises:
        RuntimeError: if the first weights are not those that the model has names for.
    """
    cell = job.cell
    config = TheirConfig.from_pretrained(request.checkpoint)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = cell.dropout
    config.classifier_dropout = cell.dropout
    model, info = Classifier.from_pretrained(
        request.checkpoint, cell.pooling, task.kind, config=config, output_loading_info=True
    )
    if wrong := [*info["missing_keys"], *info["unexpected_keys"]]:
        raise RuntimeError(f"transformers knows other weights than ours: {wrong[0]}")
    whole = [_HEAD, *([_POOLER] if request.new_pooler and cell.pooling == "pooler" else [])]
    if cell.rank is not None:
        adapter = Path(request.cells[0]) / requests.ADAPTER
        model = _adapted(model, cell, whole, adapter)
    elif cell.mode == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(f"{module}." in name for module in whole))
    trained: nn.Module = model.to(torch.device(job.device))
    return trained


def lora_config(cell: Cell, whole: list[str]) -> LoraConfig:
    """PEFT's configuration of a cell's adapters, without dropout inside of them, as ours."""
    layers = "|".join(adapted_layers(str(cell.layers))).replace(".", r"\.")
    return LoraConfig(
        r=cell.rank,
        lora_alpha=cell.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=rf".*encoder\.layer\.\d+\.({layers})",
        modules_to_save=whole,
        **(METHODS[cell.mode].peft or {}),
    )


def _adapted(model: nn.Module, cell: Cell, whole: list[str], adapter: Path) -> nn.Module:
    adapted: nn.Module = get_peft_model(model, lora_config(cell, whole))
    loaded = set_peft_model_state_dict(adapted, load_file(adapter / ADAPTER_FILE))
    missing = [name for name in loaded.missing_keys if "lora_" in name]
    if wrong := [*missing, *loaded.unexpected_keys]:
        raise RuntimeError(f"PEFT knows another adapter than ours: {wrong[0]}")
    if trains_base(str(cell.layers)):
        for name, parameter in adapted.named_parameters():
            if not any(part in name for part in _FROZEN):
                parameter.requires_grad_(True)
    return adapted


def parameter_groups(model: nn.Module, cell: Cell, new_pooler: bool) -> list[dict[str, Any]]:
    """What trains, by rate and decay, as torch's optimizers take it. The rates are ours."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "lora_" in name or cell.mode == "full":
            rate = cell.learning_rate
        elif _HEAD in name or (new_pooler and f".{_POOLER}." in name):
            rate = cell.learning_rate_head
        else:
            rate = cell.learning_rate_base
        if rate is None:
            raise RuntimeError(f"{name} trains, and the cell has no rate for it")
        groups.setdefault((rate, decays(parameter)), []).append(parameter)
    return [
        {"params": params, "lr": rate, "weight_decay": cell.weight_decay if decayed else 0.0}
        for (rate, decayed), params in groups.items()
    ]


def adamw(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """torch's AdamW, by its fused kernel where there is one."""
    try:
        return torch.optim.AdamW(groups, fused=True)
    except RuntimeError:
        return torch.optim.AdamW(groups)


class PeerTrainer:
    """The training loop that users write: autocast, backward, clipping, AdamW, schedule.

    Attributes as of our Trainer; `run` is the model, or what torch.compile made of it.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: list[dict[str, Any]],
        *,
        kind: str,
        total_steps: int,
        warmup: float,
        amp: str,
        device: torch.device,
        compiled: bool,
    ) -> None:
        self.model = model
        self.run: Any = torch.compile(model, dynamic=True) if compiled else model
        self.kind = kind
        self.amp = amp
        self.device = device
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = adamw(groups)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, linear_schedule(total_steps, warmup)
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Take one step; loss [] and logits [B, num_outputs], both detached, on the device."""
        self.model.train()
        self.optimizer.zero_grad()
        with autocast(self.amp, self.device):
            found = self.run(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                token_type_ids=batch.token_type_ids,
            )
        logits = found.logits.float()
        loss = loss_of(loss_name(self.kind), logits, batch.labels)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, MAX_GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return loss.detach(), logits.detach()


def build(
    job: Job, request: Request, task: Task, *, total_steps: int, warmup: float
) -> tuple[PeerTrainer, int]:
    """What takes training steps, and the id of padding."""
    model = load_model(job, request, task)
    trainer = PeerTrainer(
        model,
        parameter_groups(model, job.cell, request.new_pooler),
        kind=task.kind,
        total_steps=total_steps,
        warmup=warmup,
        amp=job.cell.amp,
        device=torch.device(job.device),
        compiled=request.side == COMPILED,
    )
    return trainer, BertConfig.from_folder(Path(request.checkpoint)).pad_token_id
