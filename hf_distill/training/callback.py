"""What happens in a run and has no method of its own in `Trainer`, passed on to the trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from ..trainer import DistillationTrainer


class TrainerEvents(TrainerCallback):
    """Calls the trainer before the first step, after every optimizer step and at the end, on every process."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Everything is placed, and a checkpoint, if any, is loaded."""
        self.trainer.before_first_step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """An optimizer step is done; logging, evaluation and saving come after."""
        self.trainer.after_optimizer_step()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Training ended by itself."""
        self.trainer.plan.plugins.training_finished(self.trainer)
