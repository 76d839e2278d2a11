"""The teacher's scores are the same from a cross-encoder, from a cache of it, and from a column of the data."""

import pytest
import torch
from datasets import Dataset
from hf_distill_ranking.collator import RankingCollator, pairs_of
from transformers import DataCollatorWithPadding

from hf_distill import CacheTeacher, LocalTeacher, capture
from hf_distill.testing import tiny_tokenizer

from .rankings import cross_encoder, make_rows, make_trainer, other_tokenizer

LOSSES = ["margin_mse", {"name": "listwise_kl", "temperature": 2.0}]


def source():
    return LocalTeacher(cross_encoder(), tokenizer=other_tokenizer())


def trained(folder, losses=LOSSES, **options):
    """The losses that were logged over four steps, and those of an evaluation after them."""
    trainer = make_trainer(folder, losses, **options)
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return torch.tensor([*logged, trainer.evaluate()["eval_loss"]])


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("live"), teacher=source())


def test_a_cache_that_fills_while_training_teaches_the_same_as_a_live_teacher(live, tmp_path):
    cache = {"kind": "cache", "path": str(tmp_path / "kept")}
    filling = trained(tmp_path, teacher={**cache, "source": source()})
    reading = trained(tmp_path, teacher=cache)  # on a machine without the cross-encoder
    torch.testing.assert_close(filling, live, rtol=1e-5, atol=1e-6)
    assert torch.equal(reading, filling)


def test_a_captured_teacher_teaches_the_same_as_a_live_teacher(live, tmp_path):
    collator = DataCollatorWithPadding(other_tokenizer())
    for seed, size in ((0, 12), (1, 6)):
        teacher = CacheTeacher(tmp_path / "kept", source=source())
        rows = make_rows(size, seed=seed)
        num_pairs = sum(len(row["documents"]) for row in rows)
        assert capture(teacher, pairs_of(rows, other_tokenizer()), collator=collator) == num_pairs
    reading = trained(tmp_path, teacher={"kind": "cache", "path": str(tmp_path / "kept")})
    torch.testing.assert_close(reading, live, rtol=1e-5, atol=1e-6)


def test_a_column_of_the_teachers_scores_teaches_the_same_as_a_live_teacher(live, tmp_path):
    model, tokenizer = cross_encoder(), other_tokenizer()

    def score(row):
        with torch.no_grad():
            pairs = tokenizer([row["query"]] * len(row["documents"]), row["documents"], padding=True)
            return {"kept_scores": model(**pairs.convert_to_tensors("pt")).logits[:, 0].tolist()}

    losses = [{**({"name": loss} if isinstance(loss, str) else loss), "column": "kept_scores"} for loss in LOSSES]
    trainer = make_trainer(
        tmp_path, losses, data_collator=RankingCollator(tiny_tokenizer(), score_column="kept_scores")
    )
    trainer.train_dataset = trainer.train_dataset.map(score)
    trainer.eval_dataset = trainer.eval_dataset.map(score)
    assert not trainer.plan.teachers
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found = torch.tensor([*logged, trainer.evaluate()["eval_loss"]])
    torch.testing.assert_close(found, live, rtol=1e-5, atol=1e-6)


def test_one_pair_twice_in_a_batch_is_kept_once_in_the_cache(tmp_path):
    rows = [{"query": row["query"], "documents": [row["documents"][0]] * 2, "labels": [1, 0]} for row in make_rows(4)]
    teacher = {"kind": "cache", "path": str(tmp_path / "kept"), "source": source()}
    trainer = make_trainer(tmp_path, ["listwise_kl"], teacher=teacher, max_steps=1)
    trainer.train_dataset = Dataset.from_list([*rows, *rows[:2]])
    trainer.train()
    assert len(CacheTeacher(tmp_path / "kept").store) == 4
    (entry, *_) = trainer.state.log_history
    assert entry["loss"] == pytest.approx(0, abs=1e-6)  # both models find two equal documents equally good


def test_a_live_teacher_without_pairs_in_the_batch_is_refused(tmp_path):
    collator = RankingCollator(tiny_tokenizer())
    trainer = make_trainer(tmp_path, ["margin_mse"], teacher=cross_encoder(), data_collator=collator)
    with pytest.raises(ValueError, match=r"reads the part 'pairs' .* collator made the parts query, documents"):
        trainer.train()


def test_two_cross_encoders_teach_the_mean_of_both(tmp_path):
    """The gradient of the mean of both losses is that of the loss to the mean of both teachers, as in the paper."""
    second = cross_encoder()
    torch.manual_seed(5)
    second.classifier.reset_parameters()
    teachers = [{"name": name, "model": model} for name, model in (("one", cross_encoder()), ("two", second))]
    losses = [{"name": "margin_mse", "teacher": name, "label": name, "weight": 0.5} for name in ("one", "two")]
    mean = cross_encoder()
    with torch.no_grad():
        mean.classifier.weight.add_(second.classifier.weight).div_(2)
        mean.classifier.bias.add_(second.classifier.bias).div_(2)
    trainers = [
        make_trainer(tmp_path, losses, teacher=teachers, max_steps=1, optim="sgd", learning_rate=0.1),
        make_trainer(tmp_path, ["margin_mse"], teacher=mean, max_steps=1, optim="sgd", learning_rate=0.1),
    ]
    for trainer in trainers:
        trainer.train()
    both, one = (trainer.student.state_dict() for trainer in trainers)
    for name, value in both.items():
        torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-5)
