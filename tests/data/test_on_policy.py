"""Batches that the student writes itself."""

from __future__ import annotations

import pytest
import torch
from transformers import DataCollatorForSeq2Seq, TrainerCallback

from hf_distill import BatchGenerator, DistillationArguments, DistillationTrainer
from hf_distill.batch.signals import IGNORE_INDEX
from hf_distill.data.on_policy import OnPolicy
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer
from hf_distill.testing.data import EOS, PAD


class FakeModels:
    """A student that answers every prompt with its last token, twice, the end of text, and one more token."""

    tokenizer = tiny_tokenizer()

    def __init__(self, share=0.0):
        self.drawn = share

    def share(self):
        return self.drawn

    def generate(self, input_ids, attention_mask, **options):
        self.prompts, self.mask, self.options = input_ids, attention_mask, options
        last = input_ids[:, -1:]
        return torch.cat([input_ids, last, last, torch.full_like(last, EOS), last], dim=1)


def trainer_for(folder, generator, *, max_steps=2, losses=("reverse_kl",), callbacks=(), **overrides):
    return DistillationTrainer(
        model=tiny_model("llama"),
        args=DistillationArguments(
            str(folder), max_steps=max_steps, per_device_train_batch_size=2, gradient_accumulation_steps=2,
            logging_steps=1, save_steps=1, report_to="none", disable_tqdm=True, use_cpu=True, **overrides,
        ),
        teacher={"model": tiny_model("llama", seed=1), "tokenizer": tiny_tokenizer()},
        losses=list(losses),
        generator=generator,
        train_dataset=causal_lm_dataset(16),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
        processing_class=tiny_tokenizer(),
        callbacks=list(callbacks),
    )  # fmt: skip


def batch_with_prompts():
    ids = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, PAD, PAD]])
    mask = (ids != PAD).long()
    labels = torch.tensor([[-100, -100, 7, 8, 9], [-100, 11, 12, -100, -100]])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_prompt_is_not_trained_on_and_text_after_the_end_is_dropped():
    models = FakeModels()
    new = OnPolicy(share=1.0).rewrite(batch_with_prompts(), models)
    assert models.prompts.tolist() == [[5, 6], [PAD, 10]]
    assert models.mask.tolist() == [[1, 1], [0, 1]]
    assert models.options["max_new_tokens"] == 3  # as long as the longest answer in the data
    assert new["input_ids"].tolist() == [[5, 6, 6, 6, EOS], [10, 10, 10, EOS, PAD]]
    assert new["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert new["labels"].tolist() == [[-100, -100, 6, 6, EOS], [-100, 10, 10, EOS, -100]]


def test_where_labels_mask_no_prompt_the_first_tokens_of_the_text_are_the_prompt():
    models = FakeModels()
    batch = batch_with_prompts()
    batch["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] == PAD, IGNORE_INDEX)
    OnPolicy(share=1.0, prompt_tokens=4).rewrite(batch, models)
    assert models.prompts.tolist() == [[5, 6, 7, 8], [PAD, PAD, 10, 11]]  # a token is left to predict


def test_only_the_share_of_micro_batches_is_rewritten():
    batch = batch_with_prompts()
    assert OnPolicy(share=0.3).rewrite(batch, FakeModels(0.3)) is batch
    assert OnPolicy(share=0.3).rewrite(batch, FakeModels(0.29)) is not batch


class Marked(BatchGenerator):
    """Keeps the first three labels of each micro-batch; notes what models say of it."""

    needs_teacher = True

    def __init__(self):
        self.compared = []

    def rewrite(self, inputs, models):
        labels = inputs["labels"].clone()
        labels[labels != -100] = labels[labels != -100] * 0 + 7
        flat = torch.full_like(labels, -100).flatten()
        flat[1:4] = 7
        same = models.compare(inputs, lambda ours, theirs: (ours.argmax(-1) == theirs.argmax(-1)).float())
        self.compared.append((inputs, same[0]))
        return {**inputs, "labels": flat.view_as(labels)}


def test_items_are_counted_after_the_batch_is_rewritten(tmp_path):
    """Three labels in each of two micro-batches: the mean of a step is over six, whatever the data had."""
    counted = []
    generator = Marked()
    trainer = trainer_for(tmp_path, generator, max_steps=1)
    original = trainer.compute_loss

    def spy(model, inputs, *args, num_items_in_batch=None, **kwargs):
        counted.append(num_items_in_batch.tolist())
        return original(model, inputs, *args, num_items_in_batch=num_items_in_batch, **kwargs)

    trainer.compute_loss = spy
    trainer.train()
    assert counted == [[6], [6]]


def test_comparison_is_of_student_and_teacher_at_the_same_positions(tmp_path):
    generator = Marked()
    trainer = trainer_for(tmp_path, generator, max_steps=1)
    before = tiny_model("llama")  # the student's first weights
    trainer.train()
    for inputs, same in generator.compared:
        own = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        teacher = trainer.plan.teachers["teacher"].model
        agree = before(**own).logits.argmax(-1) == teacher(**own).logits.argmax(-1)
        assert torch.equal(same.bool(), agree & own["attention_mask"].bool())


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_run(tmp_path):
    options = {"name": "on_policy", "share": 0.5, "max_new_tokens": 4}
    whole = trainer_for(tmp_path / "whole", options, max_steps=4)
    whole.train()

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 2

    trainer_for(tmp_path / "parts", options, max_steps=4, callbacks=[Stop()]).train()
    resumed = trainer_for(tmp_path / "parts", options, max_steps=4)
    resumed.train(resume_from_checkpoint=True)
    losses = [[log["loss"] for log in run.state.log_history if "loss" in log] for run in (whole, resumed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert len(set(losses[0])) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": "on_policy", "losses": ["task", "reverse_kl"]}, 'Leave "task" out'),
        ({"generator": {"name": "on_policy", "share": 2}}, "share is 2; expected a number from 0 to 1"),
        ({"generator": {"name": "on_policy", "temperature": 0}}, "expected positive numbers"),
        ({"generator": {"share": 2}}, "has no name"),
        ({"generator": "on_polcy"}, "did you mean 'on_policy'"),
    ],
)
def test_generator_that_does_not_fit_is_an_error_that_says_why(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer_for(tmp_path, options.pop("generator"), **options)
