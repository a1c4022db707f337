"""The baseline: a classifier on transformers' BertModel, PEFT's adapters, torch's AdamW.

It starts from the same weights as ours and is written as users of both libraries write it. Only
pooling, dropout, learning rates, weight decay and schedule are ours, since they have to be equal.
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
"""Parts of the names of PEFT's frozen copies."""


class Classifier(BertPreTrainedModel):  # type: ignore[misc]
    """BertForSequenceClassification with the same choice of pooling as ours.

    Args:
        config: of the encoder, with `classifier_dropout` and labels.
        pooling: `pooler` or `mean` over real tokens.
        kind: the kind of the task, which determines the loss.
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
        """Compute logits [B, num_labels], and the loss [] if labels are given."""
        output = self.bert(input_ids, attention_mask, token_type_ids)
        pooled = output.pooler_output
        if pooled is None:
            hidden = output.last_hidden_state  # [B, S, H]
            real = attention_mask[:, :, None].to(hidden.dtype)  # [B, S, 1]
            pooled = (hidden * real).sum(dim=1) / real.sum(dim=1)  # [B, H]
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else loss_of(loss_name(self.kind), logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def load_model(job: Job, request: Request, task: Task) -> nn.Module:
    """Load the classifier with the initial weights of all sides, ready to train in the cell's mode.

    Raises:
        RuntimeError: if the names of the weights are not those of the model.
    """
    cell = job.cell
    config = TheirConfig.from_pretrained(request.checkpoint)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = cell.dropout
    config.classifier_dropout = cell.dropout
    model, info = Classifier.from_pretrained(
        request.checkpoint, cell.pooling, task.kind, config=config, output_loading_info=True
    )
    if mismatch := [*info["missing_keys"], *info["unexpected_keys"]]:
        raise RuntimeError(f"transformers expects other weights than ours: {mismatch[0]}")
    fully_trained = [_HEAD, *([_POOLER] if request.new_pooler and cell.pooling == "pooler" else [])]
    if cell.rank is not None:
        adapter = Path(request.cells[0]) / requests.ADAPTER
        model = _add_adapters(model, cell, fully_trained, adapter)
    elif cell.mode == "head":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(f"{module}." in name for module in fully_trained))
    on_device: nn.Module = model.to(torch.device(job.device))
    return on_device


def lora_config(cell: Cell, fully_trained: list[str]) -> LoraConfig:
    """PEFT's configuration of a cell's adapters, without dropout inside them, as in ours."""
    layers = "|".join(adapted_layers(str(cell.layers))).replace(".", r"\.")
    return LoraConfig(
        r=cell.rank,
        lora_alpha=cell.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=rf".*encoder\.layer\.\d+\.({layers})",
        modules_to_save=fully_trained,
        **(METHODS[cell.mode].peft or {}),
    )


def _add_adapters(
    model: nn.Module, cell: Cell, fully_trained: list[str], adapter: Path
) -> nn.Module:
    adapted: nn.Module = get_peft_model(model, lora_config(cell, fully_trained))
    loaded = set_peft_model_state_dict(adapted, load_file(adapter / ADAPTER_FILE))
    missing = [name for name in loaded.missing_keys if "lora_" in name]
    if mismatch := [*missing, *loaded.unexpected_keys]:
        raise RuntimeError(f"PEFT expects another adapter than ours: {mismatch[0]}")
    if trains_base(str(cell.layers)):
        for name, parameter in adapted.named_parameters():
            if not any(part in name for part in _FROZEN):
                parameter.requires_grad_(True)
    return adapted


def parameter_groups(model: nn.Module, cell: Cell, new_pooler: bool) -> list[dict[str, Any]]:
    """Trained parameters grouped by learning rate and weight decay, for torch's optimizers."""
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
            raise RuntimeError(f"{name} trains, but the cell has no learning rate for it")
        groups.setdefault((rate, decays(parameter)), []).append(parameter)
    return [
        {"params": params, "lr": rate, "weight_decay": cell.weight_decay if decayed else 0.0}
        for (rate, decayed), params in groups.items()
    ]


def adamw(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    """torch's AdamW, with its fused kernel if available."""
    try:
        return torch.optim.AdamW(groups, fused=True)
    except RuntimeError:
        return torch.optim.AdamW(groups)


class BaselineTrainer:
    """The training loop that users write: autocast, backward, clipping, AdamW, schedule.

    Attributes as in our Trainer; `run` is the model, compiled or not.
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
        """Take one step; returns loss [] and logits [B, num_outputs], detached, on the device."""
        self.model.train()
        self.optimizer.zero_grad()
        with autocast(self.amp, self.device):
            output = self.run(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                token_type_ids=batch.token_type_ids,
            )
        logits = output.logits.float()
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
) -> tuple[BaselineTrainer, int]:
    """The trainer of a cell, and the id of padding."""
    model = load_model(job, request, task)
    trainer = BaselineTrainer(
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
