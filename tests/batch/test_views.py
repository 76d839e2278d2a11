"""Teachers that are shown something else than the student's batch, and those that may not be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from hf_distill import BatchGenerator, BatchLoss, TeacherView, TeacherViewMixin
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer

from ..trainers import TEXT, trainer_for


@dataclass(frozen=True)
class Backwards(TeacherView):
    """The teacher reads the text from its end."""

    teacher: str
    step: int = -1

    @property
    def columns(self):
        return (f"{self.teacher}.ids",)

    def collate(self, inputs):
        return {self.columns[0]: inputs["input_ids"].flip(1)}

    def batch(self, batch):
        return replace(batch, inputs={"input_ids": batch.extras[self.columns[0]]}, extras={})


class Reads(TeacherViewMixin, BatchLoss):
    """Notes what it is given; distance of the mean states, so that there is a gradient."""

    items = "examples"
    needs_student_rows = needs_teacher_rows = True

    def __init__(self, seen: Any = None, step: int = -1):
        super().__init__()
        self.seen, self.step, self.names = [] if seen is None else seen, step, None

    def make_teacher_view(self, tokenizer, teacher_tokenizer, *, teacher):
        self.names = tokenizer, teacher_tokenizer, teacher
        return Backwards(teacher, self.step)

    def forward(self, student, teacher, batch):
        self.seen.append((batch, teacher.rows.states))
        return (student.rows.states.mean(1) - teacher.rows.states.mean(1)).square().sum()


class Blind(Reads):
    """The same, without a view."""

    def make_teacher_view(self, tokenizer, teacher_tokenizer, *, teacher):
        return None


def other(word="x", **options):
    return {"model": tiny_model("llama", seed=1), "tokenizer": tiny_tokenizer(word=word), **options}


def trainer(folder, *losses, **options):
    options = {"teacher": other(), "processing_class": tiny_tokenizer(), "max_steps": 1, **options}
    return trainer_for(folder, losses=list(losses), **options)


def test_the_teacher_is_shown_its_view_instead_of_the_students_batch(tmp_path):
    loss, teacher = Reads(), other()
    run = trainer(tmp_path, "task", loss, teacher=teacher)
    run.train()
    assert [one.name_or_path for one in loss.names[:2]] == ["", ""]
    assert loss.names[1] is teacher["tokenizer"]
    assert loss.names[2] == "teacher"
    ((batch, states),) = loss.seen
    backwards = batch.inputs["input_ids"].flip(1)
    assert "teacher.ids" not in batch.inputs, "models would be given it"
    torch.testing.assert_close(batch.extras["teacher.ids"], backwards)
    with torch.no_grad():
        torch.testing.assert_close(states, teacher["model"].model(backwards).last_hidden_state)


def test_a_teacher_is_asked_once_for_each_view(tmp_path):
    teacher = other("w")  # the student's tokenizer: with and without a view
    losses = [{"function": Reads(), "label": "a"}, {"function": Reads(), "label": "b"}, "forward_kl"]
    run = trainer(tmp_path, *losses, teacher=teacher)
    asked = []
    live = run.plan.teachers["teacher"]
    signal = live.signal
    live.signal = lambda batch: (asked.append(batch.inputs["input_ids"]), signal(batch))[1]
    run.train()
    assert len(asked) == 2
    torch.testing.assert_close(asked[0].flip(1), asked[1])


REFUSED = {
    "a loss without a view": {"losses": [Blind()]},
    "a loss on logits beside one with a view": {"losses": [Reads(), "forward_kl"]},
    "a loss on features": {"losses": ["hidden_mse", Reads()]},
    "a generator that asks the teacher": {"generator": "Scores"},
    "a selector that measures the teacher": {"plugins": ["ddk"], "selector": "ddk"},
}


class Scores(BatchGenerator):
    needs_teacher = True

    def rewrite(self, inputs, models):
        return inputs


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_give_a_teacher_ids_of_another_tokenizer_is_refused(tmp_path, case):
    options = {"losses": [Reads()], **REFUSED[case]}
    if options.get("generator"):
        options["generator"] = Scores()
    with pytest.raises(ValueError, match=r"'w5' has id 5 for the student and None.*`alm` of the package") as raised:
        trainer(tmp_path, *options.pop("losses"), data=causal_lm_dataset(16, num_domains=2), **options)
    assert "student LlamaForCausalLM" in str(raised.value)


def test_two_views_of_one_teacher_are_refused_and_those_of_two_teachers_are_not(tmp_path):
    losses = [{"function": Reads(step=-1), "label": "a"}, {"function": Reads(step=-2), "label": "b"}]
    with pytest.raises(ValueError, match="'a', 'b' show a teacher different views"):
        trainer(tmp_path, *losses)
    named = [other(name="one"), other(name="two")]
    for loss, teacher in zip(losses, named, strict=True):
        loss["teacher"] = teacher["name"]
    trainer(tmp_path, *losses, teacher=named).train()


class Shortens(BatchGenerator):
    """Leaves three tokens of every text."""

    def rewrite(self, inputs, models):
        return {
            name: value[:, :3] if name in ("input_ids", "attention_mask", "labels") else value
            for name, value in inputs.items()
        }


def test_the_teacher_is_shown_the_text_that_a_generator_has_written(tmp_path):
    loss = Reads()
    trainer(tmp_path, loss, generator=Shortens(), collator=TEXT).train()
    ((batch, _),) = loss.seen
    torch.testing.assert_close(batch.extras["teacher.ids"], batch.inputs["input_ids"].flip(1))
    assert batch.extras["teacher.ids"].shape[1] == 3
