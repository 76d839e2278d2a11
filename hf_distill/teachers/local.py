"""A teacher on this machine: a model object, a folder or a hub name; resident, sharded by ZeRO-3, or offloaded."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator, cpu_offload
from accelerate.hooks import remove_hook_from_module
from accelerate.utils import DistributedType
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..batch.signals import Batch, Rows, Signal
from ..models.features import Taps, ensure_eager
from ..models.forward import accepted_inputs
from ..models.heads import Head, UnsupportedHead
from ..models.layers import hidden_width, is_encoder_decoder
from .base import Teacher

logger = transformers.utils.logging.get_logger(__name__)

PLACEMENTS = ("auto", "resident", "sharded", "offloaded")


class LocalTeacher(Teacher):
    """Runs a frozen model beside the student.

    Args:
        model: the teacher itself, or a folder or hub name for `from_pretrained`.
        dtype: of the weights when loaded by name; "auto" keeps that of the checkpoint.
        revision: of the checkpoint, when loaded by name.
        device_map: passed to `from_pretrained`; the teacher then stays where accelerate put it.
        placement: "resident" (a copy on every process), "sharded" (DeepSpeed ZeRO-3, gathered layer by layer),
            "offloaded" (weights wait in CPU memory and visit the device layer by layer), or "auto": sharded where the
            student trains under ZeRO-3, else resident.
        deepspeed_config: the teacher's own DeepSpeed configuration (a mapping or a JSON file) for "sharded"; by default
            derived from the student's, without its optimizer.
        tokenizer: the teacher's tokenizer, or where to load it from; by default looked for beside the model.
        trust_remote_code: passed to `from_pretrained`; off unless asked for.

    Raises:
        ValueError: unknown placement, or a placement that the launch does not offer.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | str | Path,
        *,
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
        device_map: str | Mapping[str, Any] | None = None,
        placement: str = "auto",
        deepspeed_config: Mapping[str, Any] | str | Path | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if placement not in PLACEMENTS:
            raise ValueError(f"placement is {placement!r}; expected one of {', '.join(PLACEMENTS)}.")
        if placement == "offloaded" and device_map is not None:
            raise ValueError('Give either device_map or placement="offloaded", not both: each places the weights.')
        self.placement = placement
        self.deepspeed_config = deepspeed_config
        if isinstance(model, nn.Module):
            self.name = getattr(model, "name_or_path", "") or type(model).__name__
            self.model: nn.Module = model
        else:
            self.name = str(model)
            options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
            self.model = load_model(self.name, dtype=dtype, device_map=device_map, **options)
            tokenizer = tokenizer if tokenizer is not None else load_tokenizer(self.name, **options)
        if isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=trust_remote_code)
        self.tokenizer = tokenizer
        self.model.requires_grad_(False).eval()
        self.module = self.model  # what is called: the model, or the engine around it
        self.head: Head | None = None
        self.taps = Taps(self.model, ())
        self._rows = False
        self._placed = getattr(self.model, "hf_device_map", None) is not None
        try:
            self.head = None if self._placed else Head.of(self.model)
        except UnsupportedHead as reason:
            logger.warning_once(f"The teacher {self.name} projects whole batches to logits: {reason}")
        self.vocab_size = self.head.vocab_size if self.head else output_width(self.model)

    def request(self, *, rows: bool, taps: Sequence[str]) -> None:
        """See `Teacher.request`."""
        if rows and self.vocab_size is None:
            raise ValueError(
                f"The teacher {self.name} ({type(self.model).__name__}) gives no logits of known classes or tokens, "
                "but a loss compares them. Use a teacher with a head for the task, or a loss on features (hidden_mse "
                "for instance)."
            )
        self._rows = rows
        self.taps = Taps(self.model, taps)
        if self.taps.requires_eager:
            ensure_eager(self.model, f"teacher {self.name}")

    def prepare(self, accelerator: Accelerator) -> None:
        """See `Teacher.prepare`."""
        zero_stage = deepspeed_stage(accelerator)
        placement = self.placement
        if placement == "auto":
            placement = "sharded" if zero_stage == 3 else "resident"
        if placement == "sharded":
            self.module = self._shard(accelerator)
        elif placement == "offloaded":
            cpu_offload(self.model, execution_device=accelerator.device)
            if self.head is not None:
                # The head runs on chosen rows, outside of the model's forward pass, and stays on the device.
                remove_hook_from_module(self.head.module)
                self.head.module.to(accelerator.device)
        elif not self._placed:
            self.model.to(accelerator.device)

    def _shard(self, accelerator: Accelerator) -> nn.Module:
        if accelerator.distributed_type != DistributedType.DEEPSPEED:
            raise ValueError(
                'placement="sharded" shards the teacher with DeepSpeed ZeRO-3, but this run was not started with '
                'DeepSpeed. Launch with `accelerate launch --use_deepspeed`, or use placement="offloaded".'
            )
        import deepspeed

        if self.deepspeed_config is None:
            config = teacher_deepspeed_config(accelerator.state.deepspeed_plugin.hf_ds_config.config, self.model)
        elif isinstance(self.deepspeed_config, Mapping):
            config = dict(self.deepspeed_config)
        else:
            config = json.loads(Path(self.deepspeed_config).read_text())
        engine, *_ = deepspeed.initialize(model=self.model, config=config)
        engine.eval()
        return engine  # type: ignore[no-any-return]

    @torch.no_grad()
    def signal(self, batch: Batch) -> Signal:
        """See `Teacher.signal`."""
        inputs = accepted_inputs(self.model, batch.inputs)
        # A head whose product nobody asked for, or which runs later on the rows that count, is skipped here.
        deferred = self.head.deferred(skip=True) if self.head is not None else nullcontext()
        with self.taps.capture() as features, deferred as captured:
            outputs = self.module(**inputs)
        rows = None
        if self._rows and captured is not None:
            rows = Rows(states=captured.states, head=self.head)
        elif self._rows:
            rows = Rows(logits=outputs["logits"])
        return Signal(rows=rows, features=features)


def load_model(name: str, *, trust_remote_code: bool, **options: Any) -> nn.Module:
    """Load a checkpoint as the class that it was saved from, so that its head comes along."""
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, revision=options.get("revision"))
    saved_as = (getattr(config, "architectures", None) or [""])[0]
    loader = getattr(transformers, saved_as, AutoModelForCausalLM)
    if trust_remote_code and hasattr(config, "auto_map"):
        loader = AutoModelForCausalLM
        options["trust_remote_code"] = True
    model: nn.Module = loader.from_pretrained(name, **options)
    return model


def load_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer saved beside a checkpoint, or None where there is none (vision models, bare weights)."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, **options)
        return tokenizer
    except (OSError, ValueError, KeyError):
        return None


def output_width(model: nn.Module) -> int | None:
    """Width of the logits of a model without a vocabulary head: its number of classes, or None."""
    config = getattr(model, "config", None)
    embeddings = getattr(model, "get_output_embeddings", lambda: None)()
    if embeddings is not None and hasattr(embeddings, "out_features"):
        return int(embeddings.out_features)
    if any(part in type(model).__name__ for part in ("Classification", "MultipleChoice")):
        return int(config.num_labels)  # type: ignore[union-attr]
    return None


def deepspeed_stage(accelerator: Accelerator) -> int | None:
    """The ZeRO stage that the student trains under, or None without DeepSpeed."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return None
    return int(accelerator.state.deepspeed_plugin.zero_stage)


def teacher_deepspeed_config(student_config: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """A ZeRO-3 configuration for a frozen model: no optimizer, and parameters offloaded where the student's are.

    The thresholds follow the teacher's width, because the defaults (a thousand million elements) would keep the whole
    of a small teacher gathered.
    """
    width = hidden_width(model, "decoder" if is_encoder_decoder(model) else "")
    block = 12 * width * width  # the order of a transformer block
    zero = {
        "stage": 3,
        "stage3_prefetch_bucket_size": block,
        "stage3_max_live_parameters": 2 * block,
        "stage3_max_reuse_distance": 0,
        "stage3_param_persistence_threshold": 10 * width,
        "reduce_bucket_size": width * width,
    }
    if offload := student_config.get("zero_optimization", {}).get("offload_param"):
        zero["offload_param"] = copy.deepcopy(offload)
    config: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
    dtype = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(next(model.parameters()).dtype)
    return config | {dtype: {"enabled": True}} if dtype else config
