"""Whether two models mean the same thing by the same column of their logits."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedTokenizerBase


def shared_vocabulary(
    student: nn.Module,
    student_width: int,
    student_tokenizer: PreTrainedTokenizerBase | None,
    teacher: nn.Module | None,
    teacher_width: int,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
    *,
    teacher_name: str,
) -> int:
    """How many leading columns of the logits the two models share.

    Heads are often padded to a multiple of 64 or 128 rows, to different ones in models of one family; padding is
    trimmed. Vocabularies are compared by tokenizer, since equal widths say nothing about equal meaning.

    Returns:
        The number of shared columns, at most the narrower width.

    Raises:
        ValueError: the columns differ in meaning, or may differ and no tokenizer tells; names both models.
    """
    student_name = getattr(student, "name_or_path", "") or type(student).__name__
    both = f"student {student_name} ({student_width} columns) and teacher {teacher_name} ({teacher_width} columns)"
    _compare_classes(student, teacher, both)
    if student_tokenizer is not None and teacher_tokenizer is not None:
        _compare_tokenizers(student_tokenizer, teacher_tokenizer, both)
        needed = len(student_tokenizer)
        if min(student_width, teacher_width) >= needed or student_width == teacher_width:
            return min(student_width, teacher_width)
        raise ValueError(
            f"The tokenizer has {needed} tokens, more than the narrower head of {both}. "
            "Resize the embeddings with `model.resize_token_embeddings(len(tokenizer))`."
        )
    if student_width != teacher_width:
        raise ValueError(
            f"The logits of {both} differ in width and it is not known whether only padding differs. Give the trainer "
            "`processing_class=tokenizer` and the teacher its tokenizer (teacher={'model': ..., 'tokenizer': ...})."
        )
    return student_width


def check_tokenizers(
    student: nn.Module,
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    *,
    teacher_name: str,
    reader: str,
) -> None:
    """Refuse a teacher that does not read the student's token ids as the student does.

    Args:
        student: for its name.
        student_tokenizer: the student's.
        teacher_tokenizer: the teacher's.
        teacher_name: for messages.
        reader: who asks the teacher about the student's token ids, for messages.

    Raises:
        ValueError: the tokenizers differ; names both models.
    """
    student_name = getattr(student, "name_or_path", "") or type(student).__name__
    both = f"student {student_name} and teacher {teacher_name}"
    what = f"{reader[0].upper()}{reader[1:]} lets the teacher read the student's token ids"
    _compare_tokenizers(student_tokenizer, teacher_tokenizer, both, what=what)


def _compare_classes(student: nn.Module, teacher: nn.Module | None, both: str) -> None:
    """Classifiers name their columns in `id2label`; two orders of the same names train on the wrong classes."""
    if teacher is None or "Classification" not in type(student).__name__:
        return
    mine, theirs = (getattr(getattr(model, "config", None), "id2label", None) or {} for model in (student, teacher))
    default = {i: f"LABEL_{i}" for i in range(max(len(mine), len(theirs)))}
    named = [labels != {i: default[i] for i in range(len(labels))} for labels in (mine, theirs)]
    if all(named) and mine != theirs:
        differing = sorted(i for i in set(mine) | set(theirs) if mine.get(i) != theirs.get(i))
        first = differing[0]
        raise ValueError(
            f"The classes of {both} differ: column {first} is {mine.get(first)!r} for the student and "
            f"{theirs.get(first)!r} for the teacher ({len(differing)} columns differ). Use one order for both."
        )


def _compare_tokenizers(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    both: str,
    *,
    what: str = "Losses on logits need one vocabulary",
) -> None:
    mine, theirs = student.get_vocab(), teacher.get_vocab()
    if mine == theirs:
        return
    differing = sorted(
        (token for token in set(mine) | set(theirs) if mine.get(token) != theirs.get(token)),
        key=lambda token: (mine.get(token, len(mine)), token),
    )
    token = differing[0]
    raise ValueError(
        f"The tokenizers of {both} differ in {len(differing)} tokens: {token!r} has id {mine.get(token)} for the "
        f"student and {theirs.get(token)} for the teacher. {what}; give the student the teacher's tokenizer, or use a "
        "loss made for two tokenizers: `alm` of the package hf-distill-tokenizers."
    )
