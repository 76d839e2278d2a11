"""What a batch generator draws follows from the run's seed, the step and the micro-batch, and from nothing else."""

from __future__ import annotations

import pytest
import torch
from transformers import DataCollatorForSeq2Seq, TrainingArguments

from hf_distill import DistillationTrainer
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer
from hf_distill.training.rewriting import TrainingModels

PROMPT = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    trainer = DistillationTrainer(
        tiny_model("llama"),
        TrainingArguments(str(tmp_path_factory.mktemp("run")), use_cpu=True, report_to="none"),
        teacher=tiny_model("llama", seed=1),
        losses=["reverse_kl"],
        generator="on_policy",
        train_dataset=causal_lm_dataset(4),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
        processing_class=tiny_tokenizer(),
    )
    return trainer._context


def written(models):
    return models.generate(PROMPT, torch.ones_like(PROMPT), max_new_tokens=12, do_sample=True, pad_token_id=0)


def test_two_micro_batches_of_a_step_draw_different_shares_and_texts(context):
    first, second = (TrainingModels(context, index) for index in (0, 1))
    assert first.share() != second.share()
    assert not torch.equal(written(first), written(second))


def test_a_micro_batch_that_is_taken_again_draws_the_same(context):
    first, again = (TrainingModels(context, 1) for _ in range(2))
    assert first.share() == again.share()
    assert torch.equal(written(first), written(again))


def test_writing_leaves_the_runs_own_random_numbers_alone(context):
    before = torch.random.get_rng_state()
    written(TrainingModels(context, 0))
    assert torch.equal(torch.random.get_rng_state(), before)
