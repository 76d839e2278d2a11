"""`DistillationTrainer`: `transformers.Trainer` with teachers, losses from plugins, and data selection.

The only file that overrides methods of `transformers.Trainer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_pt_utils import nested_detach
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy
from transformers.utils import logging

from .batch.reader import BatchReader, num_real_examples, refuse_cut_parts
from .batch.signals import Batch
from .data.probe import DomainProbe
from .models.features import Taps
from .training.callback import TrainingEvents
from .training.checkpoints import last_complete_checkpoint, read_state, warn_of_other_versions, write_state
from .training.context import TrainingContext
from .training.distributed import check_processes, end_processes_in_order, sum_over_processes
from .training.evaluation import Evaluation
from .training.logs import TrainingLog
from .training.loss_state import auxiliary_state, load_auxiliary, save_auxiliary
from .training.meter import peak_memory_mb
from .training.plan import Plan, uses_fsdp
from .training.rewriting import rewrite
from .training.selection import DataSelection, make_interval_loader, make_probe
from .training.separate_gradients import SeparateGradient, separate_loss
from .training.step import DistillationStep, StepResult

logger = logging.get_logger(__name__)


class DistillationTrainer(Trainer):
    """A `transformers.Trainer` whose model learns from teachers, too.

    Takes every argument of `Trainer`. Without teacher, losses and selector it *is* `Trainer`: same losses, logs and
    checkpoints, to the bit. With a teacher and nothing else, the loss is half the task's own and half forward KL.

    Args:
        model: the student. May be left out where `args.student` says how to build or load one.
        args: a `DistillationArguments`, or a plain `TrainingArguments`.
        teacher: a model, a folder or hub name, a mapping of options, or a list of these; before `args.teacher`.
        losses: names, functions, or mappings of name, weight, temperature and options; before `args.losses`.
        selector: which data comes next; a `Selector` or a mapping of name and options; before `args.selector`.
        generator: who writes batches inside the loop; a `BatchGenerator` or a mapping; before `args.generator`.
        metrics: what evaluations measure beside the losses: names, mappings, `Metric` objects; before `args.metrics`.
        probe_dataset: what a selector measures the models on; a data set like `train_dataset`.
        plugins: names of plugins, paths of Python files, or plugin objects; before `args.plugins`.
        **trainer_arguments: everything else that `Trainer` takes.

    Raises:
        ValueError: whatever of the above does not fit together; says what was given and what to do.

    Example:
        >>> trainer = DistillationTrainer(model=student, args=args, teacher="path/to/teacher", train_dataset=data)
        >>> trainer.train()
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *positional: Any,
        teacher: Any = None,
        losses: Sequence[Any] | None = None,
        selector: Any = None,
        generator: Any = None,
        probe_dataset: Any = None,
        metrics: Sequence[Any] | None = None,
        plugins: Sequence[Any] | None = None,
        **trainer_arguments: Any,
    ) -> None:
        if args is None:
            args = TrainingArguments(output_dir="tmp_trainer")
        given = {"teacher": teacher, "losses": losses, "selector": selector, "generator": generator, "metrics": metrics}
        self.plan = Plan(args, **given, plugins=plugins)
        self.probe_dataset = probe_dataset
        self._step: DistillationStep | None = None
        self._separate: SeparateGradient | None = None
        self._selection = None if self.plan.selector is None else DataSelection(self.plan.selector)
        self._log, self._evaluation = TrainingLog(), Evaluation(self.plan.metrics)
        self._extra_logs: dict[str, float] = {}
        if self.plan.active:
            self.plan.check(args)
            if model is None and getattr(args, "student", None) is not None:
                model = self.plan.make_student(getattr(args, "student", None))
            if model is not None:
                self._fit(model, trainer_arguments.get("processing_class"), args)
        super().__init__(model, args, *positional, **trainer_arguments)
        end_processes_in_order()
        if self.plan.active:
            self._start()

    # ---- Building ----

    def _fit(self, model: nn.Module, tokenizer: Any, args: TrainingArguments) -> None:
        """Fit the plan to a student that no wrapper has touched yet."""
        self.plan.fit(model, _tokenizer(tokenizer), whole_logits=uses_fsdp(args))
        self._step = None
        loss = separate_loss(self.plan.losses)
        self._separate = None if loss is None else SeparateGradient(loss, model.parameters())

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Fit every new student that `model_init` makes."""
        model = super().call_model_init(trial)
        if self.plan.active:
            self._fit(model, getattr(self, "processing_class", None), self.args)
            self.plan.pass_train_dataset(getattr(self, "train_dataset", None))
        return model

    def _start(self) -> None:
        """What needs the accelerator: place teachers, compare processes, keep columns, keep time."""
        check_processes(self.accelerator, self.plan.plugins.fingerprint())
        for teacher in self.plan.teachers.values():
            teacher.prepare(self.accelerator)
        self.data_collator = self.plan.wrap_collator(self.data_collator)
        if self.plan.nested:
            for dataset in (self.train_dataset, self.eval_dataset):
                refuse_cut_parts(dataset, self.accelerator)
        self.add_callback(
            TrainingEvents(
                before_first_step=self._before_first_step,
                after_optimizer_step=self._after_optimizer_step,
                after_last_step=lambda: self.plan.plugins.training_finished(self),
            )
        )
        if self._separate is not None:
            self._separate.check(self.accelerator)
        self.plan.pass_train_dataset(self.train_dataset)
        if self.plan.distils:
            # A sum over counts of the whole optimizer step, which Trainer must not divide again.
            self.loss_is_scaled_for_ga = True
        if self.plan.distils and self.is_world_process_zero():
            logger.warning(self.plan.describe(self.student))  # transformers shows warnings, and no less, by default

    @property
    def student(self) -> nn.Module:
        """The student without wrappers."""
        assert isinstance(self.model, nn.Module)
        return self.model

    @property
    def batch_reader(self) -> BatchReader:
        """Finds rows and labels in a batch for the current student."""
        return BatchReader(self.student, shifted=self._loss_shifts_labels, extra_columns=self.plan.columns)

    @property
    def distillation_step(self) -> DistillationStep:
        """The step for the current student."""
        if self._step is None:
            self._step = DistillationStep(
                self.student,
                head=self.plan.head,
                teachers=self.plan.teachers,
                losses=self.plan.losses,
                reader=self.batch_reader,
                taps=Taps(self.student, self.plan.student_taps),
                shared_columns=self.plan.shared_columns,
                memory=self.plan.memory,
                task_function=self.compute_loss_func,
                accepts_item_count=self.model_accepts_loss_kwargs,
                metrics=self.plan.metrics,
            )
        return self._step

    @property
    def _context(self) -> TrainingContext:
        """The training, as it is now, for its parts."""
        return TrainingContext(
            plan=self.plan,
            args=self.args,
            accelerator=self.accelerator,
            tokenizer=_tokenizer(self.processing_class),
            student=self.student,
            wrapper=self.model_wrapped,
            reader=self.batch_reader,
            global_step=self.state.global_step,
            prepare_inputs=self._prepare_inputs,
            autocast=self.compute_loss_context_manager,
            shared_rows=lambda name, rows: self.distillation_step.row_terms.shared_rows(name, rows),
        )

    # ---- Data ----

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        # Losses read labels, whether or not the student's forward pass takes any.
        wanted = ("labels", *self.plan.columns) if self.plan.distils else self.plan.columns
        columns.extend(name for name in wanted if name not in columns)

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        # From which columns the parts of a nested batch are made, the collator alone knows.
        return dataset if self.plan.nested else super()._remove_unused_columns(dataset, description)

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        if self.plan.nested:
            return data_collator
        return super()._get_collator_with_removed_columns(data_collator, description)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The training loader; with a selector, one that draws anew at every interval of optimizer steps."""
        if self._selection is None:
            return super().get_train_dataloader()
        loader = self._selection.loader = make_interval_loader(
            self._context,
            self.train_dataset,
            batch_size=self._train_batch_size,
            make_loader=lambda sampler: self._get_dataloader(
                dataset=self.train_dataset,  # type: ignore[arg-type]
                description="Training",
                batch_size=self._train_batch_size,
                sampler_fn=lambda _: sampler,
                is_training=True,
            ),
        )
        return loader.dataloader

    def _make_probe(self) -> DomainProbe:
        dataset = self.probe_dataset
        columns = self._remove_unused_columns(dataset, description="probe") if isinstance(dataset, Dataset) else dataset
        return make_probe(self._context, dataset, used_columns=columns, collator=self.data_collator)

    def num_examples(self, dataloader: DataLoader[Any]) -> int:
        """Examples of an epoch, which a stream of ready batches does not know."""
        loader = None if self._selection is None else self._selection.loader
        if loader is not None and dataloader is loader.dataloader:
            return len(self.train_dataset)  # type: ignore[arg-type]
        return super().num_examples(dataloader)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The micro-batches of an optimizer step, as a batch generator makes them, and counts of what is in these."""
        batches, counts = super().get_batch_samples(*args, **kwargs)
        if self.plan.generator is None or not batches:
            return batches, counts
        batches = rewrite(self._context, batches)
        return batches, self._get_num_items_in_batch(batches, self.args.device)

    # ---- Loss ----

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """A micro-batch; after the step's last one, gradients that were kept apart are put together."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._separate is not None and self.accelerator.sync_gradients:
            self._separate.merge(self.accelerator)
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """What each loss is divided by: counted over all micro-batches and processes of the step, before any runs."""
        if not self.plan.distils or not batch_samples:
            return super()._get_num_items_in_batch(batch_samples, device)
        step = self.distillation_step
        return sum_over_processes(step.counts([step.reader.read(inputs) for inputs in batch_samples]).to(device))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The weighted sum of all losses; `Trainer`'s own where there are none."""
        if not self.plan.distils:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = self.distillation_step.reader.read(inputs)
        result = self._run_step(
            model,
            batch,
            num_items_in_batch if isinstance(num_items_in_batch, Tensor) else None,
            whole_logits=return_outputs,
            observe=model.training and self._logs_this_step(),
        )
        if self._separate is not None and result.separate is not None:
            self._separate.add(result.separate, self.accelerator)
        if model.training:
            self._log.add(result.sums, num_tokens=self.distillation_step.num_tokens(batch))
        return (result.loss, result.outputs) if return_outputs else result.loss

    def _run_step(
        self,
        model: nn.Module,
        batch: Batch,
        counts: Tensor | None,
        *,
        whole_logits: bool,
        observe: bool,
        measure: bool = False,
    ) -> StepResult:
        step = self.distillation_step
        if counts is None:
            counts = sum_over_processes(step.counts([batch]))
        return step.run(
            model,
            batch,
            counts,
            step=self.state.global_step,
            max_steps=self.state.max_steps,
            num_processes=self.accelerator.num_processes // self.get_tp_size(),
            whole_logits=whole_logits,
            observe=observe,
            measure=measure,
        )

    # ---- Logging ----

    def _logs_this_step(self) -> bool:
        """Whether the step under way will be logged; teacher entropy and agreement are measured only there."""
        if self.args.logging_strategy != IntervalStrategy.STEPS:
            return True
        step = self.state.global_step + 1
        return step % max(self.state.logging_steps, 1) == 0 or (step == 1 and self.args.logging_first_step)

    def _before_first_step(self) -> None:
        """Called when everything is placed and a checkpoint, if any, is loaded; on every process."""
        self._log.start()
        if self._selection is not None:
            probe = self._make_probe() if self._selection.selector.needs_probe else None
            self._selection.begin(probe, resumed=self.state.global_step > 0)
        self.plan.plugins.training_started(self)

    def _after_optimizer_step(self) -> None:
        """Move what keeps time; called once per optimizer step on every process."""
        self.plan.end_step(
            step=self.state.global_step,
            max_steps=self.state.max_steps,
            losses=lambda: self._log.step_means(self.args.device),
        )
        self._log.end_step()
        if self._selection is not None:
            self._selection.end_step(self.state.global_step)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.plan.active and self.control.should_log and self.state.global_step > self._globalstep_last_logged:
            self._extra_logs = self._read_log()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _read_log(self) -> dict[str, float]:
        logs, tokens_per_second = self._log.read(self.args.device)
        if self.plan.distils:
            logs |= {"tokens_per_second": tokens_per_second, "peak_memory_mb": peak_memory_mb()}
        if self.plan.selector is not None:
            logs.update(self.plan.selector.logs())
        return logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each loss's own value and what was observed to the training log."""
        if "loss" in logs:
            logs.update(self._extra_logs)
            self._extra_logs = {}
        super().log(logs, start_time)

    # ---- Evaluation ----

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """One evaluation batch: all losses, with or without labels, and the logits where they are wanted."""
        if not self.plan.distils:
            loss_only = prediction_loss_only and not self.plan.metrics
            loss, logits, labels = super().prediction_step(model, inputs, loss_only, ignore_keys)
            if self.plan.metrics:
                self._evaluation.add_logits(logits, self._read_for_evaluation(inputs), self.plan.memory)
            return (loss, None, None) if prediction_loss_only else (loss, logits, labels)
        batch = self._read_for_evaluation(inputs)
        whole_logits = not prediction_loss_only
        with torch.no_grad(), self.compute_loss_context_manager():
            result = self._run_step(model, batch, None, whole_logits=whole_logits, observe=True, measure=True)
        self._evaluation.add(result.sums)
        if prediction_loss_only:
            return result.loss.detach(), None, None
        ignored = ignore_keys or getattr(getattr(self.model, "config", None), "keys_to_ignore_at_inference", [])
        kept = tuple(v for k, v in result.outputs.items() if k not in (*ignored, "loss", "past_key_values"))
        logits = nested_detach(kept[0] if len(kept) == 1 else kept)
        return result.loss.detach(), logits, nested_detach(batch.labels) if batch.labels is not None else None

    def _read_for_evaluation(self, inputs: dict[str, Any]) -> Batch:
        """The batch on the device, without the duplicates that fill up the last one."""
        inputs = self._prepare_inputs(inputs)
        return self.batch_reader.read(inputs, num_real=num_real_examples(inputs, self.accelerator))

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """`Trainer.evaluation_loop`, and each loss, teacher agreement and perplexity over the whole set."""
        self._evaluation.clear()
        output = super().evaluation_loop(*args, **kwargs)
        if self.plan.distils or self.plan.metrics:
            prefix = kwargs.get("metric_key_prefix", "eval")
            total = partial(self.distillation_step.total, step=self.state.global_step, max_steps=self.state.max_steps)
            measured = self._evaluation.results(total, self.args.device, has_vocabulary=self.plan.head is not None)
            assert output.metrics is not None
            output.metrics.update({f"{prefix}_{name}": value for name, value in measured.items()})
        if not self.is_in_train:
            self._close_teachers()
        return output

    # ---- Checkpoints ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; ``resume_from_checkpoint=True`` takes the newest checkpoint that was written to its end."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(str(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no complete checkpoint to resume from in {self.args.output_dir}.")
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self._selection is not None:
                self._selection.close()
            self._close_teachers()

    def _close_teachers(self) -> None:
        for teacher in self.plan.teachers.values():
            teacher.close()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        auxiliary = auxiliary_state(self.student, state_dict)  # before save_pretrained takes the dictionary apart
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            save_auxiliary(auxiliary, output_dir or str(self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_auxiliary(self.student, resume_from_checkpoint, buffers_only=False)

    def _save_rng_state(self, output_dir: str) -> None:
        # Before the trainer state, whose presence says that the checkpoint is complete.
        super()._save_rng_state(output_dir)
        if not self.plan.active:
            return
        if self.args.should_save:
            selection = {} if self._selection is None else self._selection.state_dict(self.state.global_step)
            write_state(output_dir, {"plugins": dict(self.plan.versions()), **selection})
        self.accelerator.wait_for_everyone()

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader[Any], resume_from_checkpoint: str | None
    ) -> Any:
        prepared = super()._prepare_for_training(  # type: ignore[no-untyped-call]
            max_steps, train_dataloader, resume_from_checkpoint
        )
        if self.plan.active and resume_from_checkpoint is not None:
            state = read_state(resume_from_checkpoint)
            warn_of_other_versions(state["plugins"], self.plan.versions())
            if self._selection is not None:
                self._selection.load_state_dict(state, skip_batches=not self.args.ignore_data_skip)
            if self.is_deepspeed_enabled:
                load_auxiliary(self.student, resume_from_checkpoint, buffers_only=True)
        return prepared


def _tokenizer(processing_class: Any) -> PreTrainedTokenizerBase | None:
    """The student's tokenizer, unless it is a processor of something else."""
    return processing_class if isinstance(processing_class, PreTrainedTokenizerBase) else None
