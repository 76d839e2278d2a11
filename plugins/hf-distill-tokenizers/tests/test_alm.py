"""ALM's formula against the authors' figures, and the whole loss against likelihoods of pieces of text."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hf_distill_tokenizers.alm import chunk_distance
from transformers import DataCollatorForSeq2Seq

from hf_distill.testing import tiny_model

from .kinds import TEXT, model_of, tokenizer_of
from .runs import batch_of, live_teacher, rows, token_log_probs, trainer, value_of

# Of the function distance_fn in tokenkit's guide "Implementing ALM From Scratch in PyTorch" (commit bcacdef).
LOG_P, LOG_Q = [-0.0, -0.01, -1.0, -7.5, -60.0, -1000.0], [-0.5, -0.01, -9.0, -0.001, -3.0, -100.0]
GOLDEN = {
    1: [0.50000143, 0.055776972, 3.3109901, 6.9034362, 0.051069133, 0.0],
    100: [0.0050062952, 0.0010301874, 0.11351157, 0.82501829, 1.6053209, 0.45869914],
}


@pytest.mark.parametrize("temperature", GOLDEN)
def test_the_distance_is_that_of_the_authors_code(temperature):
    found = chunk_distance(torch.tensor(LOG_P), torch.tensor(LOG_Q), temperature=temperature)
    torch.testing.assert_close(found, torch.tensor(GOLDEN[temperature]), rtol=2e-5, atol=1e-6)


def test_the_distance_is_smallest_at_the_teachers_likelihood():
    log_q = torch.linspace(-9, -0.01, 400, dtype=torch.float64)
    for log_p in (-7.0, -1.5, -0.1):
        values = chunk_distance(torch.full_like(log_q, log_p), log_q, temperature=100)
        assert abs(log_q[values.argmin()].item() - log_p) < 0.03


def test_certain_and_impossible_chunks_give_finite_values_and_gradients():
    log_q = torch.tensor([0.0, -1e-9, -1e4], requires_grad=True)
    values = chunk_distance(torch.tensor([-1e-9, 0.0, -torch.inf]), log_q, temperature=1)
    values.sum().backward()
    assert values.isfinite().all()
    assert log_q.grad.isfinite().all()


def by_prefixes(student, teacher, ids, own, other):
    """The sum and number of chunks of one text, which are found by what both tokenizers decode up to each token."""
    theirs = other(own.decode(ids, skip_special_tokens=True), add_special_tokens=False)["input_ids"]
    theirs = [other.bos_token_id, *theirs, other.eos_token_id]
    ends = [
        {tokenizer.decode(tokens[1 : n + 1]): n for n in range(1, len(tokens) - 1)}
        for tokenizer, tokens in ((own, ids), (other, theirs))
    ]
    shared = sorted((ends[0][text], ends[1][text]) for text in ends[0].keys() & ends[1].keys())
    shared = [(0, 0), *shared, (len(ids) - 1, len(theirs) - 1)]
    log_q, log_p = token_log_probs(student, ids), token_log_probs(teacher, theirs)
    total = 0.0
    for (start, begin), (stop, behind) in itertools.pairwise(shared):
        q, p = log_q[start + 1 : stop + 1].sum().item(), log_p[begin + 1 : behind + 1].sum().item()
        a, b = p / 100 - 1e-6, q / 100 - 1e-6
        total -= math.exp(a) * b + (1 - math.exp(a)) * math.log(1 - math.exp(b))
    return total, len(shared) - 1


def with_beginning(kind, texts=TEXT[:4]):
    """Rows that begin with the token for that."""
    tokenizer, data = tokenizer_of(kind), rows(texts, kind=kind)
    begin = tokenizer.bos_token_id
    return data.map(lambda row: {name: [new, *row[name]] for name, new in zip(row, (begin, 1, begin), strict=True)})


@pytest.mark.parametrize(
    ("one", "other"), [("byte_level", "byte_fallback"), ("byte_fallback", "bytes"), ("bytes", "byte_level")]
)
def test_the_loss_is_that_of_likelihoods_of_pieces_of_text(tmp_path, one, other):
    teacher = live_teacher(other)
    run = trainer(tmp_path, student=one, teacher=teacher, data=with_beginning(one))
    expected = [
        by_prefixes(run.student, teacher["model"], ids, tokenizer_of(one), tokenizer_of(other))
        for ids in with_beginning(one)["input_ids"]
    ]
    value, count = value_of(run)
    assert count == sum(number for _, number in expected)
    columns = batch_of(run).extras
    several = [(columns[f"teacher.{who}_chunks"] >= 0).sum() > count for who in ("student", "teacher")]
    assert any(several), "else this would be a test of single tokens"
    torch.testing.assert_close(value.item(), sum(total for total, _ in expected), rtol=1e-5, atol=0)


def test_the_gradient_is_that_of_plain_autograd(tmp_path):
    """Chunks of several tokens, through the whole model."""
    run = trainer(tmp_path, student="bytes", data=with_beginning("bytes"))
    batch = batch_of(run)
    value, _ = value_of(run, batch)
    parameters = list(run.student.parameters())
    found = torch.autograd.grad(value, parameters)
    extras = {name.removeprefix("teacher."): values for name, values in batch.extras.items()}
    log_q = run.student(**batch.inputs).logits.log_softmax(-1)
    log_p = run.plan.teachers["teacher"].model(input_ids=extras["input_ids"]).logits.log_softmax(-1)
    total = torch.zeros(())
    for row in range(len(batch.row_mask)):
        for chunk in range(extras["student_chunks"][row].max() + 1):
            sums = []
            for who, log, ids in (
                ("teacher", log_p, extras["input_ids"]),
                ("student", log_q, batch.inputs["input_ids"]),
            ):
                positions = extras[f"{who}_rows"][row][extras[f"{who}_chunks"][row] == chunk]
                sums.append(log[row, positions, ids[row, positions + 1]].sum())
            total = total + chunk_distance(sums[0].detach(), sums[1], temperature=100)
    torch.testing.assert_close(value, total)
    for ours, theirs in zip(found, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_words_are_compared_whole_where_the_option_says_so(tmp_path):
    texts = ("the cattle saton another roadside", "a dogma ran.")
    counts = [
        int(
            value_of(
                trainer(tmp_path, [{"name": "alm", "words": own}], student="bytes", data=rows(texts, kind="bytes"))
            )[1]
        )
        for own in (False, True)
    ]
    # A word and the space before it, the dot with the last one, and the end; nothing predicts the first letter.
    assert counts[1] == sum(len(text.split()) - 1 + 1 for text in texts)
    assert counts[0] > counts[1] + 4


def test_the_same_text_with_other_padding_or_company_has_the_same_value(tmp_path):
    run = trainer(tmp_path)
    value, count = value_of(run)
    left = DataCollatorForSeq2Seq(tokenizer_of("byte_level"), label_pad_token_id=-100)
    left.tokenizer = tokenizer_of("byte_level", 299)
    left.tokenizer.padding_side = "left"
    singles = [value_of(trainer(tmp_path, per_device_train_batch_size=1, data=rows([text]))) for text in TEXT[:4]]
    torch.testing.assert_close(sum(one for one, _ in singles), value)
    assert sum(number for _, number in singles) == count
    padded = trainer(tmp_path, collator=left, data=rows(TEXT[:4]))
    assert batch_of(padded).inputs["attention_mask"][:, 0].sum() < 4
    moved, number = value_of(padded)
    torch.testing.assert_close(moved, value, rtol=1e-4, atol=1e-4)
    assert number == count


MODELS = {
    "encoder-decoder": tiny_model("t5"),
    "masked": tiny_model("bert_mlm"),
    "classifier": tiny_model("llama_classifier"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_student_that_does_not_predict_the_next_token_is_refused(tmp_path, kind):
    with pytest.raises(ValueError, match=f"the student is a {type(MODELS[kind]).__name__}"):
        trainer(tmp_path, model=MODELS[kind])


WRONG = {
    "no tokenizer": ({"processing_class": None}, "the student's tokenizer is not known.*processing_class"),
    "no tokenizer of the teacher": ({"teacher": model_of("bytes", seed=2)}, "the teacher's tokenizer is not known"),
    "temperature": ({"losses": [{"name": "alm", "temperature": 0.0}]}, "temperature is 0.0; expected a positive"),
    "the teacher's tokenizer": (
        {"processing_class": tokenizer_of("byte_fallback")},
        "knows 304 tokens, but its tokenizer has 342. Give the trainer the student's",
    ),
    "length": ({"losses": [{"name": "uld", "max_length": 1}]}, "max_length is 1; expected at least two"),
    "views": ({"losses": ["alm", {"name": "uld", "words": True}]}, "different views"),
    "logits": ({"losses": ["alm", "forward_kl"]}, "loss made for two tokenizers: `alm`"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_with_a_clear_error(tmp_path, case):
    options, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **options)
