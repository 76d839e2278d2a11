"""SCRG on a student and a teacher that do what they are told, and in a training."""

from __future__ import annotations

import pytest
import torch
from hf_distill_lm.scrg import SCRG, places_to_correct
from transformers import DataCollatorForSeq2Seq

from hf_distill import DistillationArguments, DistillationTrainer, forward_kl
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer

PAD, END = 0, 2


class Told:
    """A student that counts upwards from the last token, and a teacher that wants other tokens at some places."""

    tokenizer = tiny_tokenizer()

    def __init__(self, wants, share=0.0):
        self.wants, self.drawn = wants, share  # (token before, token wanted, divergence)
        self.num_generated, self.num_compared = 0, 0

    def share(self):
        return self.drawn

    def generate(self, input_ids, attention_mask, *, max_new_tokens, **options):
        self.num_generated += 1
        ups = torch.arange(1, max_new_tokens + 1)
        return torch.cat([input_ids, input_ids[:, -1:] + ups], dim=1)

    def compare(self, inputs, *functions):
        self.num_compared += 1
        ids = inputs["input_ids"]
        choice, divergence = ids + 1, torch.zeros(ids.shape)
        for before, wanted, value in self.wants:
            choice = choice.where(ids != before, wanted)
            divergence = divergence.where(ids != before, value)
        return [divergence, choice.float()]


def batch():
    ids = torch.tensor([[5, 6, 30, 30, 30, 30], [40, 41, 42, 30, 30, PAD]])
    labels = torch.tensor([[-100, -100, 30, 30, 30, 30], [-100, -100, -100, 30, 30, -100]])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels, "domain": ["a", "b"]}


def test_the_worst_token_becomes_the_teachers_and_the_rest_is_written_anew():
    models = Told(wants=[(7, 20, 1.0), (8, 30, 3.0), (43, 50, 2.0), (6, 9, 0.5)])
    new = SCRG(share=1.0).rewrite(batch(), models)
    # The student wrote 7 8 9 10 and 43 44 45 46; the teacher minds 9 (after 8) most, and 44.
    assert new["input_ids"].tolist() == [[5, 6, 7, 8, 30, 31, PAD], [40, 41, 42, 43, 50, 51, 52]]
    assert new["attention_mask"].tolist() == [[1] * 6 + [0], [1] * 7]
    assert new["labels"].tolist() == [[-100, -100, 7, 8, 30, 31, -100], [-100, -100, -100, 43, 50, 51, 52]]
    assert new["domain"] == ["a", "b"]


def test_a_large_divergence_where_both_say_the_same_or_in_the_prompt_is_not_corrected():
    models = Told(wants=[(7, 8, 9.0), (5, 60, 9.0), (41, 60, 9.0)])
    new = SCRG(share=1.0).rewrite(batch(), models)
    assert new["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, PAD], [40, 41, 42, 43, 44, 45, 46]]
    assert (models.num_generated, models.num_compared) == (2, 1), "as often as on a process that has corrections"


def test_a_text_that_the_teacher_would_end_ends():
    new = SCRG(share=1.0).rewrite(batch(), Told(wants=[(8, END, 1.0)]))
    assert new["input_ids"].tolist() == [[5, 6, 7, 8, END, PAD, PAD], [40, 41, 42, 43, 44, 45, 46]]
    assert new["labels"][0].tolist() == [-100, -100, 7, 8, END, -100, -100]


def test_the_last_token_can_be_corrected_and_several_corrections_can_be_made():
    models = Told(wants=[(9, 33, 1.0)])
    new = SCRG(share=1.0).rewrite(batch(), models)
    assert new["input_ids"][0].tolist() == [5, 6, 7, 8, 9, 33, PAD]
    models = Told(wants=[(6, 20, 3.0), (21, 50, 2.0)])
    new = SCRG(share=1.0, num_corrections=2).rewrite(batch(), models)
    assert new["input_ids"][0].tolist() == [5, 6, 20, 21, 50, 51, PAD]
    assert (models.num_generated, models.num_compared) == (3, 2)


def test_only_its_share_of_the_batches_is_written():
    data = batch()
    assert SCRG(share=0.3).rewrite(data, Told([], share=0.3)) is data
    assert SCRG(share=0.3).rewrite(data, Told([], share=0.2)) is not data


def test_a_number_of_zero_corrections_is_an_error():
    with pytest.raises(ValueError, match="num_corrections is 0"):
        SCRG(num_corrections=0)


class Seen(SCRG):
    """Keeps what it wrote."""

    def rewrite(self, inputs, models):
        self.models, self.written = models, super().rewrite(inputs, models)
        return self.written


def test_in_a_training_every_written_text_has_a_token_that_is_the_teachers_choice(tmp_path):
    generator = Seen(share=1.0, prompt_tokens=3, max_new_tokens=8)
    trainer = DistillationTrainer(
        tiny_model("llama", seed=1),
        DistillationArguments(
            str(tmp_path),
            **{"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True, "logging_steps": 1},
            **{"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "plugins": ["lm"]},
            losses=["dac_kl", {"name": "reverse_kl", "weight": 0.5}],
        ),
        teacher=(teacher := tiny_model("llama", seed=2)),
        generator=generator,
        train_dataset=causal_lm_dataset(16),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    ids, labels = generator.written["input_ids"], generator.written["labels"]
    assert (labels[:, :3] == -100).all()
    assert ids.shape[1] <= 11
    likely = teacher(input_ids=ids, attention_mask=generator.written["attention_mask"]).logits.argmax(-1)
    agrees = (likely[:, :-1] == ids[:, 1:]) & (labels[:, 1:] != -100)
    assert agrees.any(1).all(), "the corrected token, at least"
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry)


def test_the_place_to_correct_has_the_largest_divergence_of_those_where_the_teacher_disagrees():
    student, teacher = tiny_model("llama", seed=1), tiny_model("llama", seed=2)
    ids = torch.randint(5, 64, (3, 9))
    written = {"input_ids": ids, "labels": ids.clone()}
    with torch.no_grad():
        ours, theirs = student(ids).logits, teacher(ids).logits
    divergence = forward_kl(ours.flatten(0, 1), theirs.flatten(0, 1)).view(3, 9)
    places, tokens = places_to_correct(written, divergence, theirs.argmax(-1).float())
    for row, (place, token) in enumerate(zip(places, tokens, strict=True)):
        wrong = [i for i in range(1, 9) if theirs[row, i - 1].argmax() != ids[row, i]]
        assert place == max(wrong, key=lambda i: divergence[row, i - 1].item())
        assert token == theirs[row, place - 1].argmax()
