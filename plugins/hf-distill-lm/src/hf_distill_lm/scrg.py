"""SCRG: the student's own text, corrected by the teacher where both are furthest apart, and written on from there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_distill import IGNORE_INDEX, LoopModels, OnPolicy, forward_kl


class SCRG(OnPolicy):
    """Sequence correction and re-generation, of a share of the micro-batches.

    The student continues the prompts. Where it wrote another token than the teacher finds most likely after the same
    text, the teacher's distribution is compared with the student's; at the place with the largest KL(p || q) the
    teacher's token takes the place of the student's, and the student writes on from there. A text without such a place
    stays as it is.

    A text keeps the length that a text without correction has. While it is written again, some rows of a batch are
    continued further than they are kept, by at most `max_new_tokens`; models with a table of positions must hold that.

    Args:
        share: of micro-batches that the student writes; the others stay as they are.
        num_corrections: how often a text is corrected.
        max_new_tokens: length of what the student writes; None for the length of what it replaces.
        temperature: that it is sampled at.
        top_k: sample from this many likely tokens only; 0 from all.
        prompt_tokens: length of the prompt where labels begin at once.

    Raises:
        ValueError: an option out of its range.

    Paper: Liu et al. (2024), Multi-Granularity Semantic Revision, arXiv:2407.10068, sequence level. After the paper's
        description, in which one correction is enough (three or five gain little). What a text without a place to
        correct becomes is not said there.
    """

    needs_teacher = True

    def __init__(
        self,
        *,
        share: float = 0.5,
        num_corrections: int = 1,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        prompt_tokens: int = 16,
    ) -> None:
        super().__init__(
            share=share,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            prompt_tokens=prompt_tokens,
        )
        if num_corrections < 1:
            raise ValueError(f"num_corrections is {num_corrections}; expected at least 1. None is what on_policy does.")
        self.num_corrections = num_corrections

    def rewrite(self, inputs: dict[str, Any], models: LoopModels) -> dict[str, Any]:
        """See `hf_distill.BatchGenerator.rewrite`."""
        if models.share() >= self.share:
            return inputs
        prompts, longest = self.prompts(inputs)
        new_tokens = self.max_new_tokens or longest
        written = self.continued(models, prompts, max_new_tokens=new_tokens)
        for _ in range(self.num_corrections):
            written = self._correct(written, models, prompts, new_tokens)
        return {**inputs, **written}

    def _correct(
        self, written: dict[str, Tensor], models: LoopModels, prompts: list[Tensor], new_tokens: int
    ) -> dict[str, Tensor]:
        """The texts with one token of each corrected, and all that follows it written anew."""
        places, choices = places_to_correct(written, *models.compare(written, forward_kl, most_likely))
        texts = [ids[mask.bool()] for ids, mask in zip(written["input_ids"], written["attention_mask"], strict=True)]
        assert models.tokenizer is not None, "continued() needs one"
        end = models.tokenizer.eos_token_id
        finished, prefixes, missing = [], [], [1]
        for text, prompt, place, choice in zip(texts, prompts, places, choices, strict=True):
            corrected = torch.cat([text[:place], text.new_tensor([choice])]) if place else text
            is_finished = not place or choice == end
            finished.append(corrected if is_finished else None)
            prefixes.append(prompt if is_finished else corrected)  # the shortest there is, for what nobody reads
            missing.append(0 if is_finished else len(prompt) + new_tokens - len(corrected))
        anew = self.continued(models, prefixes, max_new_tokens=max(missing))
        whole = [ids[mask.bool()] for ids, mask in zip(anew["input_ids"], anew["attention_mask"], strict=True)]
        kept = [
            text[: len(prompt) + new_tokens] if done is None else done
            for text, done, prompt in zip(whole, finished, prompts, strict=True)
        ]
        pad = models.tokenizer.pad_token_id
        return as_batch(kept, prompts, end if pad is None else pad)


def places_to_correct(written: dict[str, Tensor], divergence: Tensor, choice: Tensor) -> tuple[list[int], list[int]]:
    """The place of the token to correct in each text, 0 for none, and the teacher's token for it.

    Args:
        written: input_ids and labels, ``[B, S]``, padded on the right.
        divergence: of the predictions made at each position, ``[B, S]``.
        choice: the teacher's most likely next token there, ``[B, S]``.
    """
    is_wrong = (written["labels"][:, 1:] != IGNORE_INDEX) & (choice[:, :-1].long() != written["input_ids"][:, 1:])
    score, place = divergence[:, :-1].masked_fill(~is_wrong, -torch.inf).max(1)
    token = choice.long().gather(1, place[:, None])[:, 0]
    return torch.where(score > -torch.inf, place + 1, 0).tolist(), token.tolist()


def most_likely(_student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The teacher's most likely token, ``[n]``."""
    return teacher_logits.argmax(-1)


def as_batch(texts: list[Tensor], prompts: list[Tensor], pad: int) -> dict[str, Tensor]:
    """Texts padded on the right, with labels for all that follows each one's prompt."""
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=pad)
    position = torch.arange(ids.shape[1], device=ids.device)
    lengths, begins = (torch.tensor([len(row) for row in rows], device=ids.device) for rows in (texts, prompts))
    mask = position < lengths[:, None]
    labels = ids.masked_fill(~mask | (position < begins[:, None]), IGNORE_INDEX)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}
