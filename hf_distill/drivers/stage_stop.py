"""When a stage ends before its last step: as soon as a metric is good enough, or when it gets no better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..plugins.registry import did_you_mean


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """Ends a training after an evaluation. `max_steps` and `num_train_epochs` bound it in any case.

    Attributes:
        metric: what is looked at, as evaluation logs it.
        better: whether "lower" or "higher" values are.
        patience: how many evaluations in a row without a new best value end the stage.
        reaches: the value that ends it at once.
    """

    metric: str = "eval_loss"
    better: str = "lower"
    patience: int | None = None
    reaches: float | None = None

    @classmethod
    def parse(cls, spec: Mapping[str, Any] | StopRule, *, stage: str) -> StopRule:
        """What a mapping says.

        Raises:
            ValueError: an unknown key, or a rule that never stops.
        """
        if isinstance(spec, StopRule):
            return spec
        known = [one.name for one in fields(cls)]
        for key in spec:
            if key not in known:
                raise ValueError(
                    f"stop of the stage {stage!r} has no option {key!r}{did_you_mean(str(key), known)}; "
                    f"there are {', '.join(known)}."
                )
        rule = cls(**spec)
        if rule.better not in ("lower", "higher"):
            raise ValueError(f'stop of the stage {stage!r}: better is {rule.better!r}; expected "lower" or "higher".')
        if rule.reaches is None and (rule.patience is None or rule.patience < 1):
            raise ValueError(f"stop of the stage {stage!r} never stops; give patience (at least 1) or reaches.")
        return rule

    def reason(self, values: Sequence[float]) -> str | None:
        """Why a training with these values of the metric, in order, ends; None where it goes on."""
        signed = [value if self.better == "lower" else -value for value in values]
        if self.reaches is not None and signed[-1] <= (self.reaches if self.better == "lower" else -self.reaches):
            return f"{self.metric} has reached {values[-1]:g}"
        if self.patience is not None and len(signed) - 1 - signed.index(min(signed)) >= self.patience:
            return f"{self.metric} has not improved for {self.patience} evaluations"
        return None


class Stop(TrainerCallback):
    """Follows a rule. What it goes by is the trainer's log, which a checkpoint holds: it has no state to resume."""

    def __init__(self, rule: StopRule) -> None:
        self.rule = rule

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End the training where the rule says so.

        Raises:
            ValueError: the evaluation does not give the metric.
        """
        if self.reason(state) is not None:
            control.should_training_stop = True
            # A run that is killed from here on goes back to an older checkpoint and stops at this step again; from one
            # of this step it would take another. The best model of `load_best_model_at_end` must be kept, though.
            control.should_save = control.should_save and args.load_best_model_at_end

    def reason(self, state: TrainerState) -> str | None:
        """Why the training so far ends; None where it does not."""
        values = [entry[self.rule.metric] for entry in state.log_history if self.rule.metric in entry]
        if values:
            return self.rule.reason(values)
        there = sorted({name for entry in state.log_history for name in entry if name.startswith("eval_")})
        raise ValueError(
            f"stop looks at {self.rule.metric!r}, which evaluation does not give"
            f"{did_you_mean(self.rule.metric, there)}; it gives {', '.join(there) or 'nothing'}."
        )
