"""Where the predictions of a batch are: which positions count, what their targets are, and which columns are extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import find_batch_size
from torch import Tensor, nn

from .signals import IGNORE_INDEX, Batch, shift_labels

_EXAMPLE_HEADS = ("SequenceClassification", "ImageClassification", "AudioClassification", "MultipleChoice")


class BatchReader:
    """Turns the collator's dictionary into a `Batch`.

    Args:
        model: the unwrapped student.
        shifted: whether the prediction made at position i is for the label at i + 1 (causal language models).
        extra_columns: columns that losses or teachers asked for, kept away from the models.
    """

    def __init__(self, model: nn.Module, *, shifted: bool, extra_columns: Sequence[str] = ()) -> None:
        self.shifted = shifted
        self.extra_columns = tuple(extra_columns)
        self.main_input = getattr(model, "main_input_name", "input_ids")
        self.one_per_example = any(head in type(model).__name__ for head in _EXAMPLE_HEADS)
        self.is_encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        self.shift_right: Callable[[Tensor], Tensor] | None = getattr(
            model, "prepare_decoder_input_ids_from_labels", None
        )

    def read(self, inputs: Mapping[str, Any], *, num_real: int | None = None) -> Batch:
        """Split `inputs` into what models take, labels and extras, and find the rows that count.

        Values that are mappings are the parts of a nested batch; its first tensor has one row for each example, as
        `Trainer` and accelerate count them.

        Args:
            inputs: the collated batch.
            num_real: examples after this many are duplicates that only fill up the batch; they are masked out.
        """
        if any(isinstance(value, Mapping) for value in inputs.values()):
            return self._read_nested(inputs, num_real)
        labels = inputs.get("labels")
        model_inputs = {k: v for k, v in inputs.items() if k not in ("labels", "shift_labels", *self.extra_columns)}
        if self.is_encoder_decoder and labels is not None and self.shift_right is not None:
            if "decoder_input_ids" not in model_inputs and "decoder_inputs_embeds" not in model_inputs:
                model_inputs["decoder_input_ids"] = self.shift_right(labels)
        token_mask = self._token_mask(model_inputs, labels)
        row_labels, row_mask = self._rows(inputs, labels, token_mask)
        if num_real is not None:
            for mask in (token_mask, row_mask):
                mask[num_real:] = False
            if row_labels is not None and not row_labels.is_floating_point():
                row_labels = row_labels.masked_fill(~row_mask, IGNORE_INDEX)
            if labels is not None and not labels.is_floating_point():
                labels = labels.clone()  # the model's own loss is a mean over labels, duplicates' too
                labels[num_real:] = IGNORE_INDEX
        extras = {k: inputs[k] for k in self.extra_columns if k in inputs}
        return Batch(
            inputs=model_inputs,
            extras=extras,
            labels=labels,
            row_labels=row_labels,
            row_mask=row_mask,
            token_mask=token_mask,
        )

    def _read_nested(self, inputs: Mapping[str, Any], num_real: int | None) -> Batch:
        parts = {name: self.read(value) for name, value in inputs.items() if isinstance(value, Mapping)}
        size = find_batch_size(inputs)
        mask = torch.ones(size, dtype=torch.bool, device=next(iter(parts.values())).token_mask.device)
        if num_real is not None:
            mask[num_real:] = False
        own = {k: v for k, v in inputs.items() if k != "labels" and k not in parts}
        return Batch(
            inputs={k: v for k, v in own.items() if k not in self.extra_columns},
            extras={k: v for k, v in own.items() if k in self.extra_columns},
            labels=inputs.get("labels"),
            row_labels=None,
            row_mask=mask,
            token_mask=mask.clone(),
            parts=parts,
        )

    def _token_mask(self, model_inputs: Mapping[str, Tensor], labels: Tensor | None) -> Tensor:
        """True where the sequence that is predicted on has a token: the decoder's, where there is one."""
        if self.is_encoder_decoder:
            if (mask := model_inputs.get("decoder_attention_mask")) is not None:
                return mask.bool()
            if labels is not None:
                return labels != IGNORE_INDEX
            return torch.ones_like(model_inputs["decoder_input_ids"], dtype=torch.bool)
        mask = model_inputs.get("attention_mask")
        main = model_inputs.get(self.main_input)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            return mask.bool()
        if isinstance(main, Tensor) and not main.is_floating_point():
            return torch.ones_like(main, dtype=torch.bool)
        first = main if isinstance(main, Tensor) else next(v for v in model_inputs.values() if isinstance(v, Tensor))
        return torch.ones(first.shape[0], dtype=torch.bool, device=first.device)

    def _rows(
        self, inputs: Mapping[str, Any], labels: Tensor | None, token_mask: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        if self.one_per_example:
            mask = torch.ones(token_mask.shape[0], dtype=torch.bool, device=token_mask.device)
            if labels is not None and labels.dim() == 1 and not labels.is_floating_point():
                mask = labels != IGNORE_INDEX
            return labels, mask
        if labels is None:
            if not self.shifted:
                return None, token_mask.clone()
            # Position i predicts token i + 1: it counts where that token is there.
            return None, torch.nn.functional.pad(token_mask, (0, 1))[..., 1:] & token_mask
        if not self.shifted:
            return labels, labels != IGNORE_INDEX
        row_labels = inputs["shift_labels"] if "shift_labels" in inputs else shift_labels(labels)
        return row_labels, row_labels != IGNORE_INDEX


class KeepExtraColumns:
    """Wraps a collator: takes the extra columns out of the features first, and puts them back into its batch.

    Collators pad and stack whatever they are given and stumble over text; here a column of equally shaped numbers
    becomes a tensor and anything else stays a list, one entry per example.
    """

    def __init__(self, collator: Callable[[list[Any]], Any], columns: Sequence[str]) -> None:
        self.collator = collator
        self.columns = tuple(columns)

    def __call__(self, features: list[Any]) -> Any:
        """The collator's batch of `features`, with the extra columns."""
        present = [name for name in self.columns if name in features[0]]
        extras = {name: [feature[name] for feature in features] for name in present}
        batch = self.collator([{k: v for k, v in feature.items() if k not in present} for feature in features])
        for name, values in extras.items():
            try:
                batch[name] = torch.as_tensor(values)
            except (ValueError, TypeError, RuntimeError):
                batch[name] = values
        return batch


def refuse_cut_parts(dataset: Any, accelerator: Accelerator) -> None:
    """Refuse streams of nested batches that accelerate would make on one process and cut into pieces for the others.

    It cuts every tensor at the same rows, but a part may have several sequences for an example.

    Raises:
        ValueError: it would.
    """
    streamed = dataset is not None and not hasattr(dataset, "__len__")
    if streamed and accelerator.num_processes > 1 and accelerator.dispatch_batches is not False:
        raise ValueError(
            "The losses read nested batches, which accelerate cannot cut for several processes. Let each process make "
            'its own: accelerator_config={"dispatch_batches": False} in the arguments, or use data of known length.'
        )


def num_real_examples(inputs: Mapping[str, Any], accelerator: Accelerator) -> int | None:
    """How many examples of this process's batch are not duplicates that even out the last one; None for all."""
    state = accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return None
    size: int = find_batch_size(inputs)
    real: int = min(max(state.remainder - accelerator.process_index * size, 0), size)
    return real
