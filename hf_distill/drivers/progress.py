"""What a training looks like on a terminal: a bar, and beneath it what matters; lines of text where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_LINES = 10  # how many a training prints where there is no terminal


class TrainingProgress(TrainerCallback):
    """Shows a training on rank 0, in place of the callbacks that `Trainer` brings.

    Args:
        title: what is being trained.
        console: where to.
    """

    def __init__(self, title: str, console: Console) -> None:
        self.title = title
        self.console = console
        self.figures = ""
        self._next_line = 0
        self._progress: _ProgressAbove | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show the bar."""
        if state.is_world_process_zero and self.console.is_terminal:
            self._progress = _ProgressAbove(self)
            self._progress.add_task(self.title, total=state.max_steps, completed=state.global_step)
            self._progress.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Renew the figures."""
        if not state.is_world_process_zero or logs is None or "loss" not in logs:
            return
        self.figures = summary(logs)
        if self._progress is None and state.global_step >= self._next_line:
            step = f"{state.global_step}/{state.max_steps}"
            self.console.print(f"{self.title}  {step}  {self.figures}", markup=False, highlight=False, soft_wrap=True)
            self._next_line = state.global_step + max(state.max_steps // _LINES, 1)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave the last state of the bar on the screen."""
        self.close()

    def close(self) -> None:
        """Give the terminal back; also after an error."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _ProgressAbove(Progress):
    """A progress bar above a line of figures."""

    def __init__(self, owner: TrainingProgress) -> None:
        self._owner = owner
        super().__init__(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, left:"),
            TimeRemainingColumn(),
            console=owner.console,
            refresh_per_second=4,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, and the figures."""
        yield from super().get_renderables()
        if self._owner.figures:
            yield Text(f"  {self._owner.figures}", style="dim")


def summary(logs: Mapping[str, float]) -> str:
    """The figures of one log entry that matter while one waits: loss by part, agreement, speed, mixture."""
    names = [name for name in logs if name.endswith("_loss") and not name.startswith("eval_")]
    parts = ", ".join(f"{name.removesuffix('_loss')} {logs[name]:.3f}" for name in names)
    found = [f"loss {logs['loss']:.3f}" + (f" ({parts})" if len(names) > 1 else "")]
    if "teacher_agreement" in logs:
        found.append(f"agrees with teacher {logs['teacher_agreement']:.0%}")
    if "tokens_per_second" in logs:
        found.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    mixture = {name.removeprefix("mixture/"): share for name, share in logs.items() if name.startswith("mixture/")}
    if mixture:
        found.append("mixture " + ", ".join(f"{domain} {share:.0%}" for domain, share in mixture.items()))
    return " | ".join(found)
