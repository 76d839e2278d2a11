"""An encoder whose words leave on the way, and whose speed can be set after training.

build = build_student("finetuned", "adjustable", plugins=Plugins(["prune"]), texts=["train.txt"])
# ... training ...
set_speed(build.model, 0.5)     # half of the words that the profile keeps: faster
set_speed(build.model, None)    # all words in all blocks: the model without elimination
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill import Plugins, Source, StudentBuild, blocks, transform

from .calibration import Batches, evaluating, text_batches
from .elimination import keep_best, needed_share, received_attention, rising_elimination, words_to_keep
from .structures import LAYOUTS, NoAttention, layer_map_of

NAME = "eliminate_words"
_ATTRIBUTE = "elimination"  # of the encoder


def adjustable(
    teacher: PreTrainedModel,
    *,
    texts: str | Sequence[str],
    share: float = 0.95,
    minimum: float = 0.1,
    tokenizer: str | None = None,
    num_texts: int = 1024,
    max_length: int = 128,
) -> StudentBuild:
    """The teacher with word-vector elimination, by a profile that its attention on some texts gives.

    To be trained a little with elimination on; `set_speed` then slides along speed without further training.

    Args:
        teacher: finetuned, with BERT's blocks (BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA).
        texts: files, one text a line; the training's own serve well.
        share: of a block's attention that the words it keeps receive, in (0, 1]; see `attention_profile`.
        minimum: of the words that stay in every block.
        tokenizer: folder or hub name; that of the teacher where not given.
        num_texts: how many of them.
        max_length: tokens of each at most.

    Raises:
        ValueError: no text, another family, or a share out of range.
    """
    student = copy.deepcopy(teacher).requires_grad_(True)  # a teacher in use is frozen
    batches = text_batches(teacher, texts, tokenizer=tokenizer, num_texts=num_texts, max_length=max_length)
    profile = attention_profile(student, batches, share=share, minimum=minimum)
    transform(student, NAME, plugins=Plugins(["prune"]), profile=profile)
    mapping = {name: Source("copy", (name,)) for name in student.state_dict()}
    return StudentBuild(student.eval(), mapping, layer_map_of(teacher), {"profile": profile})


def attention_profile(
    model: PreTrainedModel, batches: Batches, *, share: float = 0.95, minimum: float = 0.1
) -> list[float]:
    """For each block, the mean share of words that it takes to receive `share` of its attention; never rising.

    Args:
        model: with BERT's blocks.
        batches: its inputs.
        share: in (0, 1].
        minimum: below which no block's share falls.

    Raises:
        ValueError: no batches, another family, or shares out of range.
    """
    if not 0 < share <= 1 or not 0 <= minimum <= 1:
        raise ValueError(f"share is {share} and minimum {minimum}; expected shares of words, 0 < share <= 1.")
    if not batches:
        raise ValueError("There are no batches to make a profile from; expected inputs of the model, at least one.")
    _check_family(model)
    needed: list[list[Tensor]] = []
    kind = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad(), evaluating(model):
            for batch in batches:
                inputs = {key: value for key, value in batch.items() if key != "labels"}
                maps = model(**inputs, output_attentions=True).attentions
                mask = _mask_of(batch, maps[0].shape[-1])
                needed.append([needed_share(received_attention(one, mask), mask, share) for one in maps])
    finally:
        model.set_attn_implementation(kind)
    means = [float(torch.cat(one).mean()) for one in zip(*needed, strict=True)]
    return rising_elimination(means, minimum)


def eliminate_words(model: PreTrainedModel, *, profile: Sequence[float], coefficient: float | None = 1.0) -> None:
    """Between attention and MLP of each block, keep the words that receive the most attention, as many as asked for.

    A transform without tensors of its own. Later blocks see fewer words, which is where time is won; at the end each
    word stands in its old place, those that left with what they were when they did, so that shapes of outputs are the
    usual ones. Hidden states between blocks are shorter: losses on them do not fit this student, those on logits do.
    Attention becomes the eager kind, which is the one that says who received how much.

    Args:
        model: with BERT's blocks, as an encoder.
        profile: for each block, the share of an example's words that stay, never rising.
        coefficient: all shares are multiplied by it (at most 1 stays 1); None keeps all words. See `set_speed`.

    Raises:
        ValueError: another family, or a profile of another length or that rises.
    """
    _check_family(model)
    found = blocks(model)
    if len(profile) != len(found):
        raise ValueError(f"profile has {len(profile)} shares; expected one for each of {len(found)} blocks.")
    if any(not 0 < one <= 1 for one in profile) or list(profile) != sorted(profile, reverse=True):
        raise ValueError(f"profile is {list(profile)}; expected shares in (0, 1] that do not rise.")
    model.set_attn_implementation("eager")
    encoder: Any = model.base_model.encoder
    state = Elimination(profile, coefficient)
    setattr(encoder, _ATTRIBUTE, state)
    encoder.register_forward_pre_hook(_begin, with_kwargs=True)
    encoder.register_forward_hook(_end, with_kwargs=True)
    for index, block in enumerate(found):
        attention: Any = block.attention
        block.register_forward_pre_hook(partial(_narrow_mask, state, index), with_kwargs=True)
        attention.register_forward_hook(partial(_eliminate, state, index), with_kwargs=True)


def set_speed(model: PreTrainedModel, coefficient: float | None) -> None:
    """Set how many words stay, in a model that `eliminate_words` changed; without training, and saved with the model.

    Args:
        model: the student.
        coefficient: of the profile: 1 as it was trained, less is faster, more is slower; None keeps all words.

    Raises:
        ValueError: a coefficient that is not positive, or a model without elimination.
    """
    state = elimination_of(model)
    _check_coefficient(coefficient)
    state.coefficient = coefficient
    for spec in model.config.hf_distill["transforms"]:
        if spec["name"] == NAME:
            spec["options"] = {**spec["options"], "coefficient": coefficient}


def elimination_of(model: PreTrainedModel) -> Elimination:
    """The part of a model that knows how many words stay.

    Raises:
        ValueError: the model has none.
    """
    found = getattr(getattr(model.base_model, "encoder", None), _ATTRIBUTE, None)
    if not isinstance(found, Elimination):
        raise ValueError(f"{type(model).__name__} does not eliminate words; build it with the builder `adjustable`.")
    return found


class Elimination(nn.Module):
    """How many words stay, and where those of the batch in hand stand; has no tensors.

    Args:
        profile: shares by block.
        coefficient: see `set_speed`.
    """

    def __init__(self, profile: Sequence[float], coefficient: float | None) -> None:
        super().__init__()
        _check_coefficient(coefficient)
        self.profile = list(profile)
        self.coefficient = coefficient
        self.begin(None)

    def begin(self, mask: Tensor | None) -> None:
        """Forget the last batch; ``mask`` [B, N] is that of the next."""
        # By block, since gradient checkpointing runs blocks again, out of order.
        self.masks: dict[int, Tensor] = {} if mask is None else {0: mask}
        self.places: dict[int, Tensor] = {}
        self.leaving: dict[int, Tensor] = {}
        self.num_words = None if mask is None else mask.sum(-1)

    def share(self, block: int) -> float | None:
        """Of the words that stay in a block; None where all do."""
        if self.coefficient is None or (share := self.coefficient * self.profile[block]) >= 1:
            return None
        return share


def _begin(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    state = encoder.get_submodule(_ATTRIBUTE)
    assert isinstance(state, Elimination)
    hidden = args[0] if args else kwargs["hidden_states"]
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    if mask is None:
        state.begin(torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device))
    else:  # eager attention adds [B, 1, N, N] to scores, which is 0 for words
        state.begin((mask[:, 0, 0] >= 0).expand(hidden.shape[:2]))


def _narrow_mask(
    state: Elimination, index: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Show a block the mask of the words that came so far."""
    if not any(earlier < index for earlier in state.places):
        return None
    mask, hidden = state.masks[index], args[0]
    scores = torch.zeros(mask.shape, dtype=hidden.dtype, device=hidden.device)
    scores = scores.masked_fill(~mask, torch.finfo(hidden.dtype).min)[:, None, None]
    if "attention_mask" in kwargs:
        return args, {**kwargs, "attention_mask": scores}
    return (hidden, scores, *args[2:]), kwargs


def _eliminate(
    state: Elimination, index: int, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    """Let words leave after an attention."""
    share, mask = state.share(index), state.masks[index]
    state.masks[index + 1] = mask
    if share is None:
        return output
    hidden, probabilities = output[0], output[1]
    if probabilities is None and isinstance(attention.get_submodule("self"), NoAttention):
        return output  # pruned away: nobody received anything
    if probabilities is None:
        raise ValueError("The attention does not say who received how much; the attention kind is to be 'eager'.")
    assert state.num_words is not None
    counts = words_to_keep(mask, state.num_words, share)
    places, valid = keep_best(received_attention(probabilities.detach(), mask), mask, counts)
    state.leaving[index], state.places[index], state.masks[index + 1] = hidden, places, valid
    kept = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
    return (kept, *output[1:])


def _end(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Put words back into their places, those that left with what they were then."""
    state = encoder.get_submodule(_ATTRIBUTE)
    assert isinstance(state, Elimination)
    hidden = output.last_hidden_state
    for index in sorted(state.places, reverse=True):
        before, places, valid = state.leaving[index], state.places[index], state.masks[index + 1]
        wide = places[..., None].expand_as(hidden)
        # What only fills up goes nowhere: it writes what is there already.
        written = torch.where(valid[..., None], hidden, before.gather(1, wide))
        hidden = before.scatter(1, wide, written)
    output.last_hidden_state = hidden
    state.leaving = {}  # holds the graph
    return output


def _check_family(model: PreTrainedModel) -> None:
    layout = LAYOUTS[0]
    if (
        model.config.is_encoder_decoder
        or getattr(model.config, "is_decoder", False)
        or not isinstance(getattr(model.base_model, "encoder", None), nn.Module)
        or not all(layout.fits(block) for block in blocks(model))
    ):
        raise ValueError(
            f"{type(model).__name__} has no blocks like BERT's; words can leave in BERT, RoBERTa, XLM-R, CamemBERT and "
            "ELECTRA."
        )


def _check_coefficient(coefficient: float | None) -> None:
    if coefficient is not None and coefficient <= 0:
        raise ValueError(f"coefficient is {coefficient}; expected a positive number, or None to keep all words.")


def _mask_of(batch: Mapping[str, Tensor], length: int) -> Tensor:
    mask = batch.get("attention_mask")
    if mask is None:
        return torch.ones(len(batch["input_ids"]), length, dtype=torch.bool, device=batch["input_ids"].device)
    return mask.bool()
