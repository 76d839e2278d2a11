"""What happens in a run and has no method of its own in `Trainer`, passed on to whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TrainingEvents(TrainerCallback):
    """Calls three functions, each on every process.

    Args:
        before_first_step: everything is placed, and a checkpoint, if any, is loaded.
        after_optimizer_step: an optimizer step is done; logging, evaluation and saving come after.
        after_last_step: the training ended by itself.
    """

    def __init__(
        self,
        *,
        before_first_step: Callable[[], None],
        after_optimizer_step: Callable[[], None],
        after_last_step: Callable[[], None],
    ) -> None:
        self._before_first_step = before_first_step
        self._after_optimizer_step = after_optimizer_step
        self._after_last_step = after_last_step

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """See `TrainerCallback`."""
        self._before_first_step()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """See `TrainerCallback`."""
        self._after_optimizer_step()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """See `TrainerCallback`."""
        self._after_last_step()
