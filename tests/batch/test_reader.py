"""Which predictions of a batch count, and for what."""

from __future__ import annotations

import pytest
import torch
from transformers import DataCollatorWithPadding

from hf_distill.batch.reader import BatchReader, KeepExtraColumns
from hf_distill.models.forward import accepted_inputs
from hf_distill.testing import tiny_model, tiny_tokenizer

TOKENS = torch.tensor([[1, 5, 6, 7], [1, 8, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def read(family, inputs, *, shifted=False, **options):
    return BatchReader(tiny_model(family), shifted=shifted).read(inputs, **options)


def test_causal_labels_are_moved_to_where_they_are_predicted():
    labels = torch.tensor([[-100, -100, 6, 7], [1, 8, -100, -100]])
    batch = read("llama", {"input_ids": TOKENS, "attention_mask": MASK, "labels": labels}, shifted=True)
    assert batch.row_labels.tolist() == [[-100, 6, 7, -100], [8, -100, -100, -100]]
    assert batch.row_mask.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert [int(batch.count(items)) for items in ("rows", "tokens", "examples")] == [3, 6, 2]
    assert "labels" not in batch.inputs


def test_last_token_and_padding_do_not_count_without_labels():
    batch = read("llama", {"input_ids": TOKENS, "attention_mask": MASK}, shifted=True)
    assert batch.row_mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert batch.row_labels is None


def test_the_first_token_after_left_padding_is_not_predicted():
    mask = torch.tensor([[0, 0, 1, 1]])
    batch = read("llama", {"input_ids": TOKENS[:1], "attention_mask": mask}, shifted=True)
    assert batch.row_mask.tolist() == [[False, False, True, False]]


def test_shift_labels_of_a_packing_collator_are_not_shifted_again():
    shifted = torch.tensor([[5, 6, -100, 8]])
    inputs = {"input_ids": TOKENS[:1], "labels": TOKENS[:1], "shift_labels": shifted}
    batch = read("llama", inputs, shifted=True)
    assert batch.row_labels.tolist() == shifted.tolist()
    assert "shift_labels" not in batch.inputs


@pytest.mark.parametrize("family", ["bert_mlm", "bert_tokens"])
def test_labels_of_encoders_are_not_shifted(family):
    labels = torch.tensor([[-100, 2, -100, 1], [0, -100, -100, -100]])
    batch = read(family, {"input_ids": TOKENS, "attention_mask": MASK, "labels": labels})
    assert torch.equal(batch.row_labels, labels)
    assert torch.equal(batch.row_mask, labels != -100)


def test_a_classifier_has_one_label_for_each_example():
    batch = read("bert_classifier", {"input_ids": TOKENS, "attention_mask": MASK, "labels": torch.tensor([2, -100])})
    assert batch.row_mask.tolist() == [True, False]
    assert batch.token_mask.shape == (2, 4)


def test_each_image_is_one_row():
    batch = read("vit", {"pixel_values": torch.zeros(3, 3, 16, 16), "labels": torch.tensor([0, 1, 2])})
    assert batch.row_mask.tolist() == [True] * 3
    assert int(batch.count("examples")) == 3


def test_decoder_inputs_of_a_sequence_to_sequence_batch_are_made_from_its_labels():
    labels = torch.tensor([[5, 6, 2], [7, 2, -100]])
    batch = read("t5", {"input_ids": TOKENS, "attention_mask": MASK, "labels": labels})
    expected = tiny_model("t5").prepare_decoder_input_ids_from_labels(labels)
    assert torch.equal(batch.inputs["decoder_input_ids"], expected)
    assert torch.equal(batch.token_mask, labels != -100)


def test_examples_that_only_fill_up_the_last_batch_do_not_count():
    inputs = {"input_ids": TOKENS, "attention_mask": MASK, "labels": TOKENS}
    batch = read("llama", inputs, shifted=True, num_real=1)
    assert [int(batch.count(items)) for items in ("rows", "tokens", "examples")] == [3, 4, 1]
    assert (batch.row_labels[1] == -100).all()
    assert MASK[1].any()  # the caller's own mask stays


def test_extra_columns_are_kept_beside_what_the_collator_makes():
    collator = KeepExtraColumns(DataCollatorWithPadding(tiny_tokenizer()), ("domain", "weight"))
    features = [
        {"input_ids": [1, 5], "domain": "code", "weight": 0.5},
        {"input_ids": [1, 5, 6], "domain": "prose", "weight": 2},
    ]
    batch = collator(features)
    assert batch["domain"] == ["code", "prose"]
    assert batch["weight"].tolist() == [0.5, 2.0]
    assert batch["input_ids"].shape == (2, 3)
    assert features[0].keys() == {"input_ids", "domain", "weight"}


def test_a_model_gets_only_inputs_that_its_family_knows():
    inputs = {"input_ids": TOKENS, "token_type_ids": MASK}
    assert set(accepted_inputs(tiny_model("llama"), inputs)) == {"input_ids", "use_cache"}
    assert set(accepted_inputs(tiny_model("bert_mlm"), inputs)) >= {"input_ids", "token_type_ids"}
