"""Conversations, which student and teacher read in chat templates of their own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from hf_distill_tokenizers.conversations import contents_of, shared_spans
from hf_distill_tokenizers.reading import Reader
from hypothesis import given, settings
from hypothesis import strategies as st

from .kinds import model_of, tokenizer_of
from .runs import batch_of, trainer, value_of

OURS = "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
# Another order of things around what was said, no system prompt, and spaces stripped and added.
THEIRS = (
    "<s>{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}"
    "[ask] {{ m['content'] | trim }} [do]{% else %} {{ m['content'] | trim }}</s>{% endif %}{% endfor %}"
)
TALK = [
    {"role": "system", "content": "be the cat"},
    {"role": "user", "content": "where did the dog go?"},
    {"role": "assistant", "content": "the dog ran to the road"},
    {"role": "user", "content": "the dog ran"},
    {"role": "assistant", "content": "again and again "},
]


def with_template(kind, template):
    tokenizer = copy.deepcopy(tokenizer_of(kind))
    tokenizer.chat_template = template
    return tokenizer


def read(talk, *, kinds=("byte_level", "byte_fallback"), counted=None, cut=None, **options):
    """Both renderings, and the text of each chunk in both."""
    student, teacher = (with_template(*pair) for pair in zip(kinds, (OURS, THEIRS), strict=True))
    ids = student(student.apply_chat_template(talk, tokenize=False), add_special_tokens=False)["input_ids"][:cut]
    counted = np.ones(len(ids), dtype=bool) if counted is None else counted(student, ids)
    (reading,) = Reader(student, teacher, **options).read_conversations([ids], [talk], [counted])
    chunks = [
        [
            one.decode([tokens[place] for place in np.flatnonzero(own == chunk)])
            for one, tokens, own in (
                (student, ids, reading.student_chunks),
                (teacher, reading.ids, reading.teacher_chunks),
            )
        ]
        for chunk in range(max(reading.student_chunks, default=-1) + 1)
    ]
    return student, teacher, ids, reading, chunks


def test_the_teacher_reads_the_conversation_in_its_chat_template():
    _, teacher, _, reading, chunks = read(TALK)
    assert (
        reading.ids == teacher(teacher.apply_chat_template(TALK, tokenize=False), add_special_tokens=False)["input_ids"]
    )
    for ours, theirs in chunks:
        assert ours.strip() == theirs.strip()
    said = " ".join("".join(ours for ours, _ in chunks).replace("</s>", " | ").split())
    # The system prompt is not in the teacher's; the end of what a user says is of the student's template alone.
    assert said == "where did the dog go?the dog ran to the road | the dog ranagain and again"


def test_every_repetition_of_what_was_said_is_aligned():
    """The second "the dog ran" is a part of what was said before it."""
    student, teacher, ids, reading, _ = read(TALK)
    for who, tokens, own in ((student, ids, reading.student_chunks), (teacher, reading.ids, reading.teacher_chunks)):
        dogs = [place for place, token in enumerate(tokens) if "dog" in who.decode([token])]
        assert len(dogs) == 3
        assert (own[dogs] >= 0).all()


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(1, 120), kind=st.sampled_from(["byte_level", "bytes", "byte_fallback"]))
def test_a_conversation_that_was_cut_is_aligned_as_far_as_it_goes(cut, kind):
    chunks = read(TALK, kinds=(kind, "byte_level"), cut=cut)[-1]
    whole = read(TALK, kinds=(kind, "byte_level"))[-1]
    for ours, theirs in chunks:
        assert ours.strip() == theirs.strip()
    # All but the last chunks are those of the whole conversation.
    assert chunks[:-1] == whole[: max(len(chunks) - 1, 0)]


def test_text_before_the_first_label_that_counts_is_in_no_chunk():
    def of_assistant(student, ids):
        text = student.decode(ids)
        start = len(student(text[: text.index("the dog ran to")], add_special_tokens=False)["input_ids"])
        return np.arange(len(ids)) >= start

    chunks = read(TALK, counted=of_assistant)[-1]
    assert chunks[0][0].strip() == "the"
    assert "where" not in "".join(ours for ours, _ in chunks)


def test_contents_that_are_not_there_do_not_move_the_search_on():
    spans = list(shared_spans(b"A one B two C three", b"a two b three", [b"one", b"two", b"three"]))
    assert spans == [(8, 2, 3), (14, 8, 5)]
    assert list(shared_spans(b"A one B tw", b"a one b two", [b"one", b"two"])) == [(2, 2, 3), (8, 8, 2)]
    assert contents_of([{"content": " a "}, {"content": None}, {"role": "x"}, {"content": "b"}]) == [b"a", b"b"]


def run_of(folder, *, data_with=True, template=THEIRS, **options):
    student = with_template("byte_level", OURS)
    ids = student(student.apply_chat_template(TALK, tokenize=False), add_special_tokens=False)["input_ids"]
    rows = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids, "talk": TALK}] * 4
    teacher = {"model": model_of("byte_fallback", seed=2), "tokenizer": with_template("byte_fallback", template)}
    data = Dataset.from_list(rows if data_with else [{k: v for k, v in row.items() if k != "talk"} for row in rows])
    return trainer(folder, [{"name": "alm", "messages": "talk"}], teacher=teacher, data=data, **options)


def test_conversations_reach_the_teacher(tmp_path):
    run = run_of(tmp_path)
    batch = batch_of(run)
    teacher = run.plan.teachers["teacher"].tokenizer
    assert "[ask] where did the dog go? [do]" in teacher.decode(batch.extras["teacher.input_ids"][0])
    value, count = value_of(run, batch)
    assert count == 4 * (1 + int(batch.extras["teacher.student_chunks"][0].max()))
    assert torch.isfinite(value)
    run.train()


def test_missing_conversations_and_templates_are_refused(tmp_path):
    with pytest.raises(ValueError, match="reads the column 'talk', of which the batch has none, for 4 sequences"):
        run_of(tmp_path, data_with=False).train()
    with pytest.raises(ValueError, match="its tokenizer has no chat template"):
        run_of(tmp_path, template=None)
