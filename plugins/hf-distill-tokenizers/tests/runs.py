"""Trainers of a student with another tokenizer than its teacher's."""

from __future__ import annotations

import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq

from hf_distill import DistillationArguments, DistillationTrainer

from .kinds import TEXT, model_of, tokenizer_of

STUDENT, TEACHER = "byte_level", "byte_fallback"


def rows(texts=tuple(TEXT), *, kind=STUDENT, prompts=0):
    """Texts in the student's tokens, with a token for their end; labels without the first ones."""
    tokenizer, data = tokenizer_of(kind), []
    for text in texts:
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        data.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * prompts + ids[prompts:]})
    return Dataset.from_list(data)


def live_teacher(kind=TEACHER, **options):
    return {"model": model_of(kind, seed=2, num_hidden_layers=1, **options), "tokenizer": tokenizer_of(kind)}


def trainer(folder, losses=("alm",), *, student=STUDENT, teacher=None, model=None, collator=None, data=None, **options):
    tokenizer = tokenizer_of(student)
    objects = {name: options.pop(name) for name in ("generator", "processing_class", "eval_dataset") if name in options}
    defaults = {
        **{"max_steps": 1, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "learning_rate": 1e-2},
        **{"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True},
        **{"train_sampling_strategy": "sequential", "plugins": ["tokenizers"]},
    }
    return DistillationTrainer(
        model_of(student, seed=1, num_hidden_layers=1) if model is None else model,
        DistillationArguments(str(folder), **defaults | options),
        teacher=live_teacher() if teacher is None else teacher,
        losses=list(losses),
        train_dataset=rows(kind=student) if data is None else data,
        data_collator=collator or DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
        **{"processing_class": tokenizer, **objects},
    )


def batch_of(run):
    """The first batch as the losses see it."""
    return run.batch_reader.read(next(iter(run.get_train_dataloader())))


def value_of(run, batch=None):
    """The loss's sum and count for one batch, with gradients of the student if asked for."""
    (active,) = run.plan.losses
    batch = batch_of(run) if batch is None else batch
    step = run.distillation_step
    teacher = step.teacher_signal(active.teachers[0], batch, [active], active.view)
    student = step.run_student(run.student, batch, whole_logits=False)
    return active.function(student, teacher, batch), active.function.count(batch)


@torch.no_grad()
def token_log_probs(model, ids):
    """Of each token of one sequence, given those before it; nothing for the first, ``[n]`` in float64."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    found = logits[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0]
    return torch.cat([torch.full((1,), torch.nan, dtype=torch.float64), found])
