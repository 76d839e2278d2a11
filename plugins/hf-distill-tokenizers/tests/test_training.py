"""Trainings with two tokenizers: what is learnt, cut steps, packed rows, the student's own text, caches, resuming."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithFlattening, default_data_collator

from hf_distill import CacheTeacher, LocalTeacher, OnPolicy, Plugins

from .kinds import TEXT, tokenizer_of
from .runs import STUDENT, TEACHER, batch_of, live_teacher, rows, token_log_probs, trainer, value_of

STEP = 1 / 32  # nats: the bound of a cache


def text_log_prob(model, kind):
    """The likelihood that a model gives to some text after its beginning."""
    tokenizer, total = tokenizer_of(kind), 0.0
    for text in TEXT[:6]:
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        total += token_log_probs(model, ids)[1:].sum().item()
    return total


@pytest.mark.parametrize(("name", "weight"), [("alm", 100.0), ("uld", 3.0)])
def test_a_student_learns_from_a_teacher_with_another_tokenizer(tmp_path, name, weight):
    teacher = live_teacher(initializer_range=0.5)
    run = trainer(
        tmp_path,
        [{"name": name, "weight": weight}],
        teacher=teacher,
        **{"max_steps": 40, "per_device_train_batch_size": 8, "train_sampling_strategy": "random"},
    )
    target = text_log_prob(teacher["model"], TEACHER)
    before = abs(text_log_prob(run.student, STUDENT) - target)
    run.train()
    if name == "alm":  # of which most is the teacher's own entropy
        assert abs(text_log_prob(run.student, STUDENT) - target) < 0.5 * before
    else:
        logged = [entry["uld_loss"] for entry in run.state.log_history if "uld_loss" in entry]
        assert sum(logged[-5:]) < 0.8 * sum(logged[:5])


@pytest.mark.parametrize("name", ["alm", "uld"])
def test_the_gradient_does_not_depend_on_how_a_step_is_cut(tmp_path, name):
    """Texts of different lengths and prompts, so that micro-batches differ in chunks and in padding."""
    found = []
    for size, accumulation in ((8, 1), (2, 4), (1, 8)):
        run = trainer(
            tmp_path,
            [name],
            data=rows([text[: 20 + 9 * n] for n, text in enumerate(TEXT[:8])], prompts=2),
            **{"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation},
            **{"optim": "sgd", "learning_rate": 100.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"},
        )
        run.train()
        found.append(torch.cat([parameter.detach().flatten() for parameter in run.student.parameters()]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-3)


def test_packed_sequences_give_the_value_of_separate_rows(tmp_path):
    """Flattened into one row, each with positions of its own, and in rows of their own."""
    together, apart = (
        trainer(tmp_path, collator=collator, data=rows(TEXT[:4]).remove_columns(drop))
        for collator, drop in ((DataCollatorWithFlattening(), ["attention_mask"]), (None, []))
    )
    batch, plain = batch_of(together), batch_of(apart)
    assert batch.inputs["input_ids"].shape[0] == 1
    assert together.plan.losses[0].function.count(batch) == apart.plan.losses[0].function.count(plain)
    whole = together.plan.losses[0].view.batch(batch)
    mask = plain.extras["teacher.attention_mask"].bool()
    torch.testing.assert_close(whole.inputs["input_ids"][0], plain.extras["teacher.input_ids"][mask])
    assert (whole.inputs["position_ids"] == 0).sum() == 4
    assert "attention_mask" not in whole.inputs
    torch.testing.assert_close(value_of(together, batch)[0], value_of(apart, plain)[0], rtol=1e-4, atol=1e-4)


def test_documents_of_one_row_end_for_the_teacher_too(tmp_path):
    """Rows as `hf-distill train` makes them: cut anywhere, several documents in each."""
    tokenizer, teacher = tokenizer_of(STUDENT), tokenizer_of(TEACHER)
    stream = [token for ids in rows()["input_ids"] for token in ids]
    packed = [stream[start : start + 40] for start in range(0, len(stream) - 40, 40)]
    data = Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * 40, "labels": ids} for ids in packed])
    run = trainer(tmp_path, ["task", "alm"], collator=default_data_collator, data=data)
    batch = batch_of(run)
    for own, other in zip(batch.inputs["input_ids"], batch.extras["teacher.input_ids"], strict=True):
        ours, theirs = (
            [part.strip() for part in one.decode(ids).replace("<pad>", "").split("</s>")]
            for one, ids in ((tokenizer, own), (teacher, other))
        )
        assert [part.removeprefix("<s>").strip() for part in theirs] == ours
    run.train()
    assert run.state.log_history[0]["alm_loss"] > 0


def test_text_that_the_student_writes_is_read_anew_by_the_teacher(tmp_path):
    seen = []
    run = trainer(
        tmp_path,
        ["alm"],
        generator=OnPolicy(share=1.0, prompt_tokens=3, max_new_tokens=12),
        **{"max_steps": 2, "gradient_accumulation_steps": 2},
    )
    read = run.batch_reader.__class__.read

    def noting(reader, inputs, **options):
        batch = read(reader, inputs, **options)
        seen.append(batch)
        return batch

    run.distillation_step.reader.read = lambda inputs, **options: noting(
        run.distillation_step.reader, inputs, **options
    )
    run.train()
    student, teacher = tokenizer_of(STUDENT), tokenizer_of(TEACHER)
    for batch in seen:
        for own, mask, other in zip(
            batch.inputs["input_ids"], batch.token_mask, batch.extras["teacher.input_ids"], strict=True
        ):
            text = student.decode(own[mask], skip_special_tokens=True).replace("\ufffd", "").strip()
            assert teacher.decode(other, skip_special_tokens=True).replace("\ufffd", "").strip() == text
    assert len({tuple(batch.inputs["input_ids"][0].tolist()) for batch in seen}) > 1


def test_a_cached_teacher_teaches_the_same_as_a_live_one_within_the_bound_of_the_cache(tmp_path):
    """Captured by the first training, read without the teacher; each log-probability is off by 1/32 nat at most."""
    live = live_teacher()
    data = rows(TEXT[:8])
    first = trainer(
        tmp_path / "a", teacher=CacheTeacher(tmp_path / "kept", source=LocalTeacher(**live), k=1), data=data
    )
    first.train()
    direct = trainer(tmp_path / "b", teacher=live, data=data)
    kept = trainer(tmp_path / "c", teacher=CacheTeacher(tmp_path / "kept"), data=data)
    assert not kept.plan.teachers["teacher"].has_source
    batch = batch_of(direct)
    # What the bound allows: every log-probability of a chunk wrong by as much, in the same direction.
    (value, count), (cached, again) = value_of(direct, batch), value_of(kept, batch_of(kept))
    assert count == again
    allowed = bound(direct, batch)
    assert 0 < abs(cached - value).item() < allowed
    assert allowed < 0.05 * value.item()
    for run in (direct, kept):
        run.train()
    losses = [run.state.log_history[0]["alm_loss"] for run in (direct, kept)]
    assert abs(losses[0] - losses[1]) < allowed / count


def bound(run, batch):
    """How far the sum over chunks may be off where each of the teacher's log-probabilities is off by a step."""
    import numpy as np

    columns = {name.removeprefix("teacher."): values.numpy() for name, values in batch.extras.items()}
    with torch.no_grad():
        ids = torch.from_numpy(columns["input_ids"])
        log_p = run.plan.teachers["teacher"].model(input_ids=ids).logits.log_softmax(-1).double()
        log_q = run.student(**batch.inputs).logits.log_softmax(-1).double()
    total = 0.0
    for row in range(len(ids)):
        for chunk in range(columns["student_chunks"][row].max() + 1):
            places = [
                columns[f"{who}_rows"][row][columns[f"{who}_chunks"][row] == chunk] for who in ("student", "teacher")
            ]
            q = sum(log_q[row, place, batch.inputs["input_ids"][row, place + 1]].item() for place in places[0]) / 100
            p = sum(log_p[row, place, ids[row, place + 1]].item() for place in places[1]) / 100
            off = len(places[1]) * STEP / 100
            # The distance is linear in the teacher's likelihood, of slope log(1 - q) - log q.
            total += abs(np.exp(p + off) - np.exp(p)) * abs(np.log(1 - np.exp(q)) - q)
    return total


def test_a_cache_of_other_texts_is_refused(tmp_path):
    """The error shows the teacher's reading of what is missing."""
    source = LocalTeacher(**live_teacher())
    trainer(tmp_path / "a", teacher=CacheTeacher(tmp_path / "kept", source=source, k=1), data=rows(TEXT[:4])).train()
    run = trainer(tmp_path / "b", teacher=CacheTeacher(tmp_path / "kept"), data=rows(TEXT[6:10]))
    with pytest.raises(ValueError, match="holds nothing of example 0 of this batch, which begins"):
        run.train()


def test_a_resumed_run_ends_with_the_student_of_an_uninterrupted_one(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "train_sampling_strategy": "random"}
    straight = trainer(tmp_path, ["task", {"name": "alm", "weight": 100.0}], **options)
    straight.train()
    resumed = trainer(tmp_path, ["task", {"name": "alm", "weight": 100.0}], **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for one, other in zip(straight.student.parameters(), resumed.student.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_workers_of_the_loader_give_the_same_losses(tmp_path):
    values = []
    for workers in (0, 2):
        run = trainer(tmp_path, dataloader_num_workers=workers, max_steps=2)
        run.train()
        values.append([entry["alm_loss"] for entry in run.state.log_history if "alm_loss" in entry])
    assert values[0] == values[1]


def test_the_evaluation_loss_is_the_mean_over_chunks_and_labels_are_not_needed(tmp_path):
    """And needs no labels."""
    run = trainer(tmp_path, ["alm"], eval_dataset=rows(TEXT[:6]))
    found = run.evaluate()["eval_alm_loss"]
    totals = [value_of(trainer(tmp_path, data=rows([text]), per_device_train_batch_size=1)) for text in TEXT[:6]]
    expected = sum(value.item() for value, _ in totals) / sum(count.item() for _, count in totals)
    assert found == pytest.approx(expected, rel=1e-4)
    unlabelled = trainer(tmp_path, ["alm"], data=rows(TEXT[:4]).remove_columns("labels"))
    labelled = trainer(tmp_path, ["alm"], data=rows(TEXT[:4]))
    torch.testing.assert_close(value_of(unlabelled), value_of(labelled))


def test_both_losses_of_one_teacher_let_it_read_once(tmp_path):
    run = trainer(tmp_path, ["task", "alm", "uld"])
    teacher, asked = run.plan.teachers["teacher"], []
    signal = teacher.signal
    teacher.signal = lambda batch: (asked.append(batch), signal(batch))[1]
    run.train()
    assert len(asked) == 1
    assert {"alm_loss", "uld_loss", "task_loss"} <= run.state.log_history[0].keys()


def test_two_teachers_with_different_tokenizers_get_separate_columns_and_losses(tmp_path):
    teachers = [{"name": "one", **live_teacher()}, {"name": "two", **live_teacher("bytes")}]
    losses = [{"name": "alm", "label": name, "teacher": name} for name in ("one", "two")]
    run = trainer(tmp_path, losses, teacher=teachers)
    columns = batch_of(run).extras
    assert columns["two.input_ids"].shape[1] > columns["one.input_ids"].shape[1]
    run.train()
    assert {"one_loss", "two_loss"} <= run.state.log_history[0].keys()


def test_every_component_has_its_training_here():
    own = {component.name for component in Plugins(["tokenizers"]).losses if "hf-distill-tokenizers" in str(component)}
    assert own == {"alm", "uld"}


def test_the_plugin_does_not_import_torch_to_say_what_it_has():
    source = "import sys, hf_distill_tokenizers; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", source], check=True)
