"""A trainer with as little as possible, for tests that change one thing."""

from __future__ import annotations

from transformers import DataCollatorForSeq2Seq

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer

TEXT = DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100)


def arguments(folder, **overrides):
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return DistillationArguments(**(options | overrides))


def trainer_for(folder, *, model=None, teacher="llama", collator=TEXT, data=None, eval_data=None, args=None, **options):
    fields = set(DistillationArguments.__dataclass_fields__) - {"losses", "selector", "generator", "plugins"}
    overrides = {name: options.pop(name) for name in list(options) if name in fields}
    return DistillationTrainer(
        model=tiny_model("llama") if model is None else model,
        args=args or arguments(folder, **overrides),
        teacher=tiny_model(teacher, seed=1) if isinstance(teacher, str) else teacher,
        train_dataset=causal_lm_dataset(16) if data is None else data,
        eval_dataset=eval_data,
        data_collator=collator,
        **options,
    )
