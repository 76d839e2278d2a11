"""`sub_models`: the first stage of bert2BERT trains the top of sub-models and nothing else."""

from __future__ import annotations

import gc

import pytest
import torch
from hf_distill_weightmaps.sub_models import SubModels, blocks_of
from transformers import DataCollatorForSeq2Seq, TrainerCallback

from hf_distill import DistillationArguments, DistillationTrainer, StepInfo
from hf_distill.testing import causal_lm_dataset, tiny_inputs, tiny_model, tiny_tokenizer


def attached(family, *, block=2, layers=5):
    model = tiny_model(family, num_hidden_layers=layers)
    loss = SubModels(block=block)
    loss.setup(model, None, None)
    return model, loss


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "bert_mlm", "bert_classifier", "vit"])
def test_only_the_top_blocks_of_the_sub_model_are_trained(family):
    model, loss = attached(family)
    assert loss.depths == [2, 4, 5]
    model.train()
    for depth in loss.depths:
        loss._depth = depth
        model.zero_grad()
        model(**tiny_inputs(model)).logits.square().sum().backward()
        trained = [
            index for index, block in enumerate(blocks_of(model)) if any(p.grad is not None for p in block.parameters())
        ]
        assert trained == [depth - 2, depth - 1]


def test_the_sub_model_is_the_first_blocks():
    model, loss = attached("llama")
    loss._depth = 4
    short = tiny_model("llama", num_hidden_layers=5)
    short.model.layers = short.model.layers[:4]
    inputs = tiny_inputs(model)
    assert torch.equal(model.train()(**inputs).logits, short.train()(**inputs).logits)
    # Evaluation is of the whole student.
    assert torch.equal(model.eval()(**inputs).logits, tiny_model("llama", num_hidden_layers=5)(**inputs).logits)


def test_a_student_that_outlives_the_loss_is_whole_again():
    model, loss = attached("llama")
    loss._depth = 2
    del loss
    gc.collect()
    inputs = tiny_inputs(model)
    whole = tiny_model("llama", num_hidden_layers=5).train()(**inputs).logits
    assert torch.equal(model.train()(**inputs).logits, whole)


def test_depths_are_drawn_equally_often_and_alike_by_two_losses():
    first, other = (attached("llama")[1] for _ in range(2))
    drawn = [first.draw(step) for step in range(3000)]
    assert drawn == [other.draw(step) for step in range(3000)]
    for depth in first.depths:
        assert drawn.count(depth) / 3000 == pytest.approx(1 / 3, abs=0.04)


def test_a_restored_loss_goes_on_with_the_depth_of_its_step():
    loss = attached("llama")[1]
    loss.on_step_end(StepInfo(7, 10, {}))
    again = attached("llama")[1]
    assert again.depth == again.draw(0)
    again.load_state_dict(loss.state_dict())
    assert again.depth == loss.depth == loss.draw(7)


class Changed(TrainerCallback):
    """Which blocks differ after each step from what they were before it."""

    def __init__(self):
        self.seen, self.before = [], None

    def on_step_begin(self, args, state, control, model, **kwargs):
        self.before = [[p.detach().clone() for p in block.parameters()] for block in model.model.layers]

    def on_step_end(self, args, state, control, model, **kwargs):
        now = [list(block.parameters()) for block in model.model.layers]
        self.seen.append(
            [
                index
                for index, (old, new) in enumerate(zip(self.before, now, strict=True))
                if any(not torch.equal(one, other) for one, other in zip(old, new, strict=True))
            ]
        )


def test_each_step_of_a_training_changes_only_the_top_blocks_of_its_sub_model(tmp_path):
    student, changed = tiny_model("llama", num_hidden_layers=5), Changed()
    arguments = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    trainer = DistillationTrainer(
        student,
        DistillationArguments(str(tmp_path), max_steps=8, learning_rate=1e-2, optim="sgd", **arguments),
        losses=["task", {"name": "sub_models", "block": 2}],
        plugins=["weightmaps"],
        train_dataset=causal_lm_dataset(16),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
        callbacks=[changed],
    )
    trainer.train()
    loss = SubModels(block=2)
    loss.depths = [2, 4, 5]
    expected = [[loss.draw(step) - 2, loss.draw(step) - 1] for step in range(8)]
    assert changed.seen == expected
    assert len({tuple(one) for one in expected}) > 1


@pytest.mark.parametrize(
    ("block", "layers", "message"),
    [(0, 4, "block is 0; expected"), (2, 2, "block is 2, but the student has 2 blocks; expected fewer")],
)
def test_a_block_size_that_leaves_no_sub_model_is_refused(block, layers, message):
    with pytest.raises(ValueError, match=message):
        attached("llama", block=block, layers=layers)
