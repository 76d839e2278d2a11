"""One optimizer step of plain SGD on eight examples, cut in several ways; saves the students that come out.

Run by test_gradients.py, alone and under `accelerate launch`. With SGD the change of the weights is the gradient times
the learning rate, so that nothing (Adam's scaling, clipping) hides a wrong factor.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from transformers import DataCollatorForSeq2Seq, TrainingArguments

from hf_distill import BatchLoss, DistillationTrainer, GradientMergingMixin
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer


class Apart(GradientMergingMixin, BatchLoss):
    """The squares of the states before the head; its gradient is added to that of the others three times over."""

    items = "rows"
    needs_teacher = False
    needs_student_rows = True

    def forward(self, student, teacher, batch):
        """The sum over the rows that count."""
        return student.rows.select(batch.row_mask).tensor.square().mean(-1).sum()

    def merge_gradients(self, gradients, other_gradients):
        """Not the plain sum, so that a factor between the two cannot hide."""
        return [3 * gradient + other for gradient, other in zip(gradients, other_gradients, strict=True)]


LEARNING_RATE = 32.0  # large, so that rounding of the weights does not drown a small gradient
LOSSES = {
    "kl": ["forward_kl"],
    "mixture": [
        {"name": "task", "weight": 0.7},
        {"name": "forward_kl", "weight": 0.3, "temperature": 2.0},
        {"name": "jsd", "weight": 0.5},
        {"name": "hidden_mse", "weight": 0.2},
    ],
    "separate": ["task", {"function": Apart(), "label": "apart", "weight": 0.05}],
}


def train(losses: str, micro_batch: int, accumulation: int, output: Path) -> DistillationTrainer:
    """Train one step and save."""
    args = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = DistillationTrainer(
        model=tiny_model("llama", hidden_size=16, tie_word_embeddings=True),
        args=args,
        teacher=tiny_model("llama", num_hidden_layers=4),
        losses=LOSSES[losses],
        train_dataset=causal_lm_dataset(8),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
    )
    trainer.train()
    trainer.save_model(str(output))
    trainer.save_state()
    return trainer


def main() -> None:
    """Train with every loss in every cut, in one process group: starting one takes longer than a step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuts", nargs="+", required=True, help="micro-batch x accumulation steps, as in 2x4")
    parser.add_argument("--losses", nargs="+", default=["kl", "mixture"], choices=LOSSES)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for cut in options.cuts:
        micro_batch, accumulation = map(int, cut.split("x"))
        for losses in options.losses:
            AcceleratorState._reset_state()
            trainer = train(losses, micro_batch, accumulation, options.output / f"{losses}-{cut}")
    trainer.end()


if __name__ == "__main__":
    main()
