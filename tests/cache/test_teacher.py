"""A teacher in a cache against the same teacher live: one loss, whatever the source."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, TrainingArguments

from hf_distill import DistillationTrainer, LocalTeacher
from hf_distill.batch.reader import BatchReader
from hf_distill.cache.fingerprints import model_fingerprint
from hf_distill.cache.rows import BOUND
from hf_distill.cache.teacher import CacheTeacher
from hf_distill.cache.truncation import Truncation
from hf_distill.testing import causal_lm_dataset, classification_dataset, tiny_inputs, tiny_model, tiny_tokenizer

VOCAB = 64
TEXT = DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100)


def live(family="llama", **options):
    return LocalTeacher(tiny_model(family, seed=1, **options), tokenizer=tiny_tokenizer())


def cache(folder, source=None, **options):
    teacher = CacheTeacher(folder, source=source, **options)
    teacher.request(rows=True, taps=())
    return teacher


def batch_of(inputs, model=None):
    return BatchReader(model or tiny_model("llama"), shifted=True).read(inputs)


def gradient(teacher, folder, *, data=None, model=None, collator=TEXT, losses=("forward_kl",)):
    """Loss and gradient of the student on one batch."""
    trainer = DistillationTrainer(
        model=model or tiny_model("llama", hidden_size=16),
        args=TrainingArguments(str(folder), report_to="none", use_cpu=True, per_device_train_batch_size=4),
        teacher=teacher,
        losses=list(losses),
        train_dataset=causal_lm_dataset(4) if data is None else data,
        data_collator=collator,
        processing_class=tiny_tokenizer(),
    )
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_a_cached_teacher_gives_the_loss_and_gradient_within_the_stated_error(tmp_path):
    expected, expected_gradient = gradient(live(), tmp_path)
    whole = cache(tmp_path / "whole", live(), k=VOCAB)
    loss, found = gradient(whole, tmp_path)
    # Each log-probability is off by at most the bound b: KL(p || q) by at most 2b e^b, the logits' gradient by e^b - 1.
    assert 0 < abs(loss - expected) <= 2 * BOUND * np.exp(BOUND)
    assert (found - expected_gradient).norm() <= np.expm1(2 * BOUND) * expected_gradient.norm()


def test_a_later_reading_gives_the_same_loss_and_gradient_as_the_first(tmp_path):
    """What is asked for the first time goes through the same bytes as what is read later."""
    filling = cache(tmp_path / "c", live(), k=8)
    first = gradient(filling, tmp_path)
    filling.close()
    alone = cache(tmp_path / "c")  # no source any more
    assert alone.manifest.k == 8
    second = gradient(alone, tmp_path)
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


def test_answers_of_an_evaluation_outside_of_a_training_are_stored(tmp_path):
    trainer = DistillationTrainer(
        tiny_model("llama", hidden_size=16),
        TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True),
        teacher=CacheTeacher(tmp_path / "c", source=live(), k=8),
        losses=["forward_kl"],
        eval_dataset=causal_lm_dataset(4),
        data_collator=TEXT,
        processing_class=tiny_tokenizer(),
    )
    first = trainer.evaluate()["eval_loss"]
    assert len(CacheTeacher(tmp_path / "c").store) == 4
    assert trainer.evaluate()["eval_loss"] == first


def test_a_source_is_asked_once_and_not_loaded_where_nothing_is_missing(tmp_path):
    source = live()
    calls = []
    original = source.signal
    source.signal = lambda batch: calls.append(batch) or original(batch)
    teacher = cache(tmp_path / "c", source)
    batch = batch_of(tiny_inputs(tiny_model("llama")))
    teacher.signal(batch)
    teacher.signal(batch)
    assert len(calls) == 1
    teacher.close()
    later = cache(tmp_path / "c", {"model": "no/such/folder"})  # lazily, and never
    assert later.missing(batch) == 0
    later.signal(batch)


def test_examples_are_found_whatever_their_padding_order_or_packing(tmp_path):
    source = live()
    teacher = cache(tmp_path / "c", source, k=8)
    inputs = tiny_inputs(tiny_model("llama"), num_examples=3)
    lengths = inputs["attention_mask"].sum(1).tolist()
    one = teacher.signal(batch_of(inputs)).rows
    teacher.close()
    alone = cache(tmp_path / "c")

    # Shuffled, and padded on the left by one more.
    ids, mask = (torch.nn.functional.pad(inputs[k].flip(0), (1, 0)) for k in ("input_ids", "attention_mask"))
    rolled = torch.stack([row.roll(int((m == 0).sum()) - 1) for row, m in zip(ids, mask, strict=True)])
    rolled_mask = torch.stack([m.roll(int((m == 0).sum()) - 1) for m in mask])
    two = alone.signal(batch_of({"input_ids": rolled, "attention_mask": rolled_mask})).rows
    # Packed into one row; each sequence attends to itself alone, as its positions say.
    packed = torch.cat([row[:n] for row, n in zip(inputs["input_ids"], lengths, strict=True)])[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    three = alone.signal(batch_of({"input_ids": packed, "position_ids": positions})).rows
    flat = {"one": one[inputs["attention_mask"].bool()], "three": three[torch.ones_like(packed, dtype=torch.bool)]}
    flipped = [two[row][rolled_mask[row].bool()] for row in (2, 1, 0)]
    flat["two"] = type(one)(
        *(torch.cat([getattr(part, n) for part in flipped]) for n in ("ids", "log_probs", "tail")), VOCAB
    )
    for name in ("two", "three"):
        for field in ("ids", "log_probs", "tail"):
            assert torch.equal(getattr(flat[name], field), getattr(flat["one"], field)), (name, field)


def test_kept_numbers_are_the_teachers_within_the_bound(tmp_path):
    source, inputs = live(), tiny_inputs(tiny_model("llama"))
    log_p = source.model(**inputs).logits.log_softmax(-1)
    mask = inputs["attention_mask"].bool()
    whole = cache(tmp_path / "c", source, k=8).signal(batch_of(inputs)).rows
    rows = whole.select(mask)
    expected, ids = log_p[mask].topk(8)
    assert torch.equal(rows.ids.sort().values, ids.sort().values)
    torch.testing.assert_close(rows.log_probs, log_p[mask].gather(1, rows.ids), atol=BOUND, rtol=0)
    torch.testing.assert_close(rows.tail, torch.log1p(-expected.exp().sum(1)), atol=BOUND + 1e-5, rtol=0)
    torch.testing.assert_close(rows.entropy, -(log_p.exp() * log_p).sum(-1)[mask], atol=BOUND, rtol=0)
    following = inputs["input_ids"].roll(-1, 1)
    has_next = mask & mask.roll(-1, 1) & (torch.arange(mask.shape[1]) < mask.shape[1] - 1)
    expected_next = log_p.gather(-1, following[..., None])[..., 0][has_next]
    torch.testing.assert_close(whole.next_log_probs[has_next], expected_next, atol=BOUND, rtol=0)


def test_coverage_keeps_just_as_many_ids_as_it_takes(tmp_path):
    source, inputs = live(), tiny_inputs(tiny_model("llama"))
    mask = inputs["attention_mask"].bool()
    rows = cache(tmp_path / "c", source, k=16, coverage=0.7).signal(batch_of(inputs)).rows.select(mask)
    p = source.model(**inputs).logits.softmax(-1)[mask].sort(descending=True).values
    needed = ((p.cumsum(-1) < 0.7).sum(-1) + 1).clamp(max=16)
    assert torch.equal((rows.ids < VOCAB).sum(-1), needed)
    assert len(needed.unique()) > 1


def test_draws_are_unbiased():
    """The mean over many captures is the teacher's distribution, tail included; no renormalised top-k is."""
    source, inputs = live(), tiny_inputs(tiny_model("llama"), num_examples=1, max_length=4)
    p = source.model(**inputs).logits.softmax(-1)[0]
    total = torch.zeros_like(p)
    repetitions = 300
    for seed in range(repetitions):
        following = torch.zeros(4, dtype=torch.long)
        source.request(rows=True, taps=())
        own = source.signal(batch_of(inputs)).rows.select(inputs["attention_mask"].bool())
        kept = Truncation(k=12, draws=12)(own, following, seed=seed)
        assert np.isinf(kept.tail).all()
        total += torch.zeros(4, VOCAB + 1).scatter_(1, torch.tensor(kept.ids), torch.tensor(kept.log_probs).exp())[
            :, :-1
        ]
    error = (total / repetitions - p).abs()
    assert (error < 5 * (p / (12 * repetitions)).sqrt() + 1e-3).all()
    assert not (p.topk(12).values.sum(-1) > 0.999).any()  # there is a tail to be biased about


def test_classifiers_and_hidden_states_survive_the_cache(tmp_path):
    rows = [dict(row) for row in classification_dataset(5)]
    collator = DataCollatorWithPadding(tiny_tokenizer())
    student = tiny_model("bert_classifier", num_hidden_layers=1)
    data = classification_dataset(5)
    losses = ["forward_kl", {"name": "hidden_mse", "layers": [[0, -1]]}]
    source = live("bert_classifier")
    expected, expected_gradient = gradient(
        source, tmp_path, data=data, model=copy.deepcopy(student), collator=collator, losses=losses
    )
    filling = CacheTeacher(tmp_path / "c", source=source, taps=["hidden.-1"])
    filling.fill(BatchReader(student, shifted=False).read(collator(rows)))
    filling.close()
    alone = CacheTeacher(tmp_path / "c")
    loss, found = gradient(alone, tmp_path, data=data, model=copy.deepcopy(student), collator=collator, losses=losses)
    assert loss == pytest.approx(expected, rel=1e-3)  # hidden states in float16
    torch.testing.assert_close(found, expected_gradient, rtol=1e-2, atol=1e-3 * expected_gradient.abs().max().item())


def test_another_teacher_tokenizer_or_template_is_refused(tmp_path):
    teacher = cache(tmp_path / "c", live())
    teacher.signal(batch_of(tiny_inputs(tiny_model("llama"))))
    teacher.close()
    mine = teacher.manifest.fingerprints["teacher"]
    other = LocalTeacher(tiny_model("llama", seed=2), tokenizer=tiny_tokenizer())
    mixed = cache(tmp_path / "c", other)
    with pytest.raises(
        ValueError, match=f"another teacher: its fingerprint there is {mine}, here it is [0-9a-f]{{32}}"
    ):
        mixed.signal(batch_of(tiny_inputs(tiny_model("llama"), seed=9)))
    with pytest.raises(ValueError, match=f"another teacher: its fingerprint there is {mine}, here it is abc"):
        cache(tmp_path / "c", fingerprint="abc")
    with pytest.raises(ValueError, match="another tokenizer: its fingerprint there is"):
        cache(tmp_path / "c").check_tokenizer(tiny_tokenizer(word="other"))
    spoken = tiny_tokenizer()
    spoken.chat_template = "{{ messages }}"
    with pytest.raises(ValueError, match="another template"):
        cache(tmp_path / "c").check_tokenizer(spoken)


def test_a_fingerprint_follows_the_weights_and_not_the_folder(tmp_path):
    model = tiny_model("llama")
    before = model_fingerprint(model)
    model.save_pretrained(tmp_path / "elsewhere")
    assert model_fingerprint(type(model).from_pretrained(tmp_path / "elsewhere")) == before
    assert model_fingerprint(copy.deepcopy(model).bfloat16()) != before
    with torch.no_grad():
        model.model.norm.weight.add_(1e-4)
    assert model_fingerprint(model) != before


def test_a_missing_example_is_named(tmp_path):
    teacher = cache(tmp_path / "c", live())
    teacher.signal(batch_of(tiny_inputs(tiny_model("llama"))))
    teacher.close()
    inputs = tiny_inputs(tiny_model("llama"))
    inputs["input_ids"][1, 0] = 40
    with pytest.raises(
        ValueError, match=r"\(3 examples\) holds nothing of example 1 .* begins 'w40 .* Capture the same"
    ):
        cache(tmp_path / "c").signal(batch_of(inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "holds no teacher cache, and there is no source"),
        ({"tail": "cut"}, "tail is 'cut'; expected"),
        ({"taps": ["attention.0"]}, "keeps hidden states alone, not attention.0"),
        ({"k": 0}, "k is 0"),
        ({"coverage": 1.5}, "coverage is 1.5"),
        ({"draws": 50}, "draws is 50, beside k 32"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_the_reason(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        CacheTeacher(tmp_path / "c", **options)


def test_a_request_for_what_was_not_captured_is_refused_with_the_reason(tmp_path):
    teacher = cache(tmp_path / "c", live())
    with pytest.raises(ValueError, match=r"holds no hidden\.1, but none"):
        teacher.request(rows=True, taps=["hidden.1"])
    hidden_only = CacheTeacher(tmp_path / "h", source=live(), taps=["hidden.1"], predictions=False)
    with pytest.raises(ValueError, match="holds no predictions"):
        hidden_only.request(rows=True, taps=())


def test_rows_that_would_be_kept_by_other_options_are_refused(tmp_path):
    teacher = cache(tmp_path / "c", live(), k=8)
    teacher.signal(batch_of(tiny_inputs(tiny_model("llama"))))
    teacher.close()
    for options in ({"k": 4}, {"k": 8, "draws": 8}, {"k": 8, "coverage": 0.5}):
        with pytest.raises(ValueError, match=r"was begun with \{'k': 8, .* Give it the same options, or another path"):
            cache(tmp_path / "c", live(), **options)


def test_a_teacher_that_a_device_map_has_placed_is_kept_like_a_resident_one(tmp_path):
    """Its head is out of reach, so that it gives whole logits; what is kept of them is the same."""
    model = tiny_model("llama", seed=1)
    model.hf_device_map = {"": "cpu"}
    placed = LocalTeacher(model, tokenizer=tiny_tokenizer())
    assert placed.head is None
    batch = batch_of(tiny_inputs(tiny_model("llama")))
    found = cache(tmp_path / "placed", placed, k=8).signal(batch).rows
    expected = cache(tmp_path / "resident", live(), k=8).signal(batch).rows
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.log_probs, expected.log_probs, atol=2 * BOUND, rtol=0)


def test_a_cache_killed_while_it_begins_can_be_begun_again_and_its_keys_are_found(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    batch = batch_of(tiny_inputs(tiny_model("llama")))
    beginning = cache(tmp_path / "c", live(), k=8)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", kill)
        with pytest.raises(Killed):
            beginning.signal(batch)
    assert not (tmp_path / "c" / "manifest.json").exists()
    teacher = cache(tmp_path / "c", live(), k=8)
    teacher.signal(batch)
    teacher.close()
    alone = cache(tmp_path / "c")
    assert alone.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert alone.missing(batch) == 0
