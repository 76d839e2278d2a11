"""`StagesDriver`: several trainings of one student, one after the other, each with its own teacher, data and losses.

    driver = StagesDriver(
        [
            {"name": "general", "teacher": "path/of/pretrained", "losses": ["hidden_mse"], "data": general},
            {"name": "task", "teacher": "path/of/finetuned", "losses": ["task", "forward_kl"], "data": task},
        ],
        student="path/of/student", output_dir="out", defaults={"learning_rate": 1e-4, "max_steps": 1000},
    )
    driver.run().folder

A run that was killed is started again in the same way: stages that have ended are not repeated, the one that was under
way goes on from its newest complete checkpoint, and the student is the same as without the kill.
"""

from __future__ import annotations

import copy
import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.utils import logging

from ..arguments import DistillationArguments
from ..data.tasks import load_training_data
from ..data.training_data import TrainingData
from ..plugins.manager import Plugins
from ..students import load_student
from ..trainer import DistillationTrainer
from ..training.checkpoints import last_complete_checkpoint
from .files import write_folder
from .first_process import on_first_process
from .stage_files import StageFiles, StageRecord
from .stage_spec import INITIAL, PREVIOUS, Stage, as_json, parse_stages, reference
from .stage_stop import Stop
from .stage_student import carry_over, is_transformed, make_start, train_only

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class StagesResult:
    """The end of a run.

    Attributes:
        records: its stages.
        folder: the student of the last one.
    """

    records: Sequence[StageRecord]
    folder: Path


class StagesDriver:
    """Trains a student in stages.

    Each stage builds a new `DistillationTrainer`, with a fresh optimizer, around the student that the stage before left
    on disk: what is trainable and how modules look never changes inside a live engine. Parameters that a loss owns go
    on in the next stage where that names a loss of the same label.

    Args:
        stages: mappings, see `hf_distill.drivers.stage_spec.Stage`.
        output_dir: see `hf_distill.drivers.stage_files`; shared by all processes.
        student: what the first stage trains: a folder or hub name, ``{"builder": ...}`` for one made from that stage's
            teacher, a model, or a function that makes one.
        tokenizer: the student's.
        plugins: names of plugins, paths of Python files, or plugin objects.
        defaults: fields of every stage that does not set them.
        callbacks: makes further callbacks for a stage's training from its name.
        on_stage: called on the first process with the record of every stage that ends.

    Raises:
        ValueError: an unknown field, stage or transform, or two stages of one name; before anything runs.
    """

    def __init__(
        self,
        stages: Sequence[Mapping[str, Any]],
        *,
        output_dir: str | Path,
        student: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        plugins: Sequence[Any] = (),
        defaults: Mapping[str, Any] | None = None,
        callbacks: Callable[[str], Sequence[TrainerCallback]] | None = None,
        on_stage: Callable[[StageRecord], None] | None = None,
    ) -> None:
        self.plugin_names = list(plugins)
        self.plugins = Plugins(self.plugin_names)
        self.stages = parse_stages(stages, defaults or {}, self.plugins)
        self.student = student
        self.tokenizer = tokenizer
        self.callbacks = callbacks
        self.on_stage = on_stage
        self.files = StageFiles(output_dir, [stage.name for stage in self.stages])
        for index in range(len(self.stages)):
            self._source(index)  # what cannot be built from is an error now

    def run(self) -> StagesResult:
        """Run the stages that are left.

        Raises:
            ValueError: `output_dir` holds a run of other stages; data, patterns, metrics or models do not fit.
        """
        records = []
        for index, stage in enumerate(self.stages):
            args = self._arguments(stage)  # also starts the process group that the rest talks over
            on_first_process(partial(self.files.begin, stage.name, self._described(index)))
            if not on_first_process(self.files.model(stage.name).exists):
                self._train(index, args)
            records.append(StageRecord(**on_first_process(partial(self.files.read_record, stage.name))))
        on_first_process(lambda: self.files.publish(self.stages[-1].name))
        return StagesResult(records, self.files.final_model)

    # ---- One stage ----

    def _train(self, index: int, args: DistillationArguments) -> None:
        stage = self.stages[index]
        with args.main_process_first(desc="loading data"):
            try:
                data = load_training_data(stage.data, self.tokenizer, by_domain=False)
            except ValueError as error:
                raise ValueError(f"The stage {stage.name!r}: {error}") from error
        if stage.stop is not None and (data.evaluation is None or args.eval_strategy == "no"):
            raise ValueError(
                f"The stage {stage.name!r} has a stop rule, which looks at evaluations, but it "
                f"{'has no evaluation data' if data.evaluation is None else 'has eval_strategy no'}."
            )
        start = self._start(index, args, data)
        trainer = self._trainer(stage, args, data, load_student(start, plugins=self.plugins), index)
        train_only(trainer.student, stage.patterns, stage=stage.name)
        carried = carry_over(trainer.student, self._origin(index) or Path(), stage=stage.name)
        checkpoint = on_first_process(partial(last_complete_checkpoint, str(args.output_dir)))
        trainer.train(resume_from_checkpoint=checkpoint)
        metrics = trainer.evaluate() if data.evaluation is not None else {}
        self._save(trainer, stage, metrics, carried)
        trainer.accelerator.free_memory()
        del trainer
        gc.collect()  # the engine and the optimizer of this stage, before those of the next

    def _trainer(
        self, stage: Stage, args: DistillationArguments, data: TrainingData, model: Any, index: int
    ) -> DistillationTrainer:
        callbacks = [*(self.callbacks(stage.name) if self.callbacks is not None else ())]
        if stage.stop is not None:
            callbacks.append(Stop(stage.stop))  # type: ignore[arg-type]
        trainer = DistillationTrainer(
            model=model,
            args=args,
            teacher=self._teachers(index) or None,
            losses=copy.deepcopy(stage.losses),  # loss objects begin every stage as they were given
            selector=copy.deepcopy(stage.selector),
            generator=copy.deepcopy(stage.generator),
            plugins=self.plugin_names,
            probe_dataset=data.probe,
            train_dataset=data.train,
            eval_dataset=data.evaluation,
            data_collator=data.collator,
            processing_class=self.tokenizer,
            compute_metrics=data.compute_metrics,
            callbacks=callbacks,
        )
        if args.disable_tqdm:
            trainer.remove_callback(PrinterCallback)
        return trainer

    def _save(
        self, trainer: DistillationTrainer, stage: Stage, metrics: Mapping[str, float], carried: list[str]
    ) -> None:
        reason = Stop(stage.stop).reason(trainer.state) if stage.stop is not None else None  # type: ignore[arg-type]
        record = StageRecord(
            name=stage.name,
            steps=trainer.state.global_step,
            stopped=reason or "all steps are taken",
            metrics={k: v for k, v in metrics.items() if not k.endswith(("_runtime", "_per_second", "_mb"))},
            carried_over=carried,
            num_trainable=sum(p.numel() for p in trainer.student.parameters() if p.requires_grad),
        )
        folder = self.files.stage(stage.name) / "model.partial"
        on_first_process(lambda: shutil.rmtree(folder, ignore_errors=True))
        trainer.save_model(str(folder))  # collective
        trainer.accelerator.wait_for_everyone()

        def finish() -> None:
            if not list(folder.glob("*.safetensors")):
                raise ValueError(
                    f"The student of the stage {stage.name!r} was not gathered, so the next one cannot begin with it. "
                    "Set stage3_gather_16bit_weights_on_model_save to true in the DeepSpeed configuration."
                )
            self.files.finish(folder, record)
            if self.on_stage is not None:
                self.on_stage(record)

        on_first_process(finish)

    def _arguments(self, stage: Stage) -> DistillationArguments:
        parser = HfArgumentParser([DistillationArguments])  # type: ignore[list-item]
        fields = {"report_to": "none", **stage.arguments, "output_dir": str(self.files.trainer(stage.name))}
        parser.set_defaults(**fields)  # YAML reads 1e-4 as text, which the parser turns into a number
        (args,) = parser.parse_args_into_dataclasses([], look_for_args_file=False)
        return args

    # ---- Where things come from ----

    def _start(self, index: int, args: DistillationArguments, data: TrainingData) -> str | Path:
        """Where the student is as a stage begins; made on the first process where it is nowhere yet."""
        stage, source = self.stages[index], self._source(index)
        if isinstance(source, (str, Path)) and stage.model_class is None and not stage.transforms:
            return source
        folder = self.files.start(stage.name)

        def make() -> None:
            if folder.exists():
                return
            model = make_start(
                stage,
                source,
                args=args,
                teachers=self._teachers(index),
                plugins=self.plugins,
                plugin_names=self.plugin_names,
                labels=data.labels,
            )
            write_folder(folder, model.save_pretrained)

        on_first_process(make)
        return folder

    def _source(self, index: int) -> Any:
        """What a stage's student is made from."""
        stage = self.stages[index]
        if (origin := self._origin(index)) is not None:
            return origin
        wanted = self.student if stage.student is None or reference(stage.student) == INITIAL else stage.student
        if not isinstance(wanted, Mapping):
            return wanted
        return {key: self._folder(str(name), index) if (name := reference(one)) else one for key, one in wanted.items()}

    def _folder(self, name: str, index: int) -> str:
        """The folder of an earlier student that a builder reads."""
        if name != INITIAL:
            return str(self._model_of(name, index))
        if not isinstance(self.student, (str, Path)):
            raise ValueError(
                f"The stage {self.stages[index].name!r} builds from the initial student, which is no folder."
            )
        return str(self.student)

    def _origin(self, index: int) -> Path | None:
        """The finished student of the earlier stage that a stage goes on with, if it does."""
        wanted = self.stages[index].student
        if wanted is None:
            return self._model_of(PREVIOUS, index) if index > 0 else None
        name = reference(wanted)
        return None if name in (None, INITIAL) else self._model_of(str(name), index)

    def _model_of(self, name: str, index: int) -> Path:
        return self.files.model(self.stages[index - 1].name if name == PREVIOUS else name)

    def _teachers(self, index: int) -> list[Any]:
        """What the trainer is told of the teachers of a stage, those that were students of earlier ones found."""
        found = []
        for spec in self.stages[index].teachers:
            name = reference(spec)
            if name is not None:
                folder = self._model_of(name, index)
                model = load_student(folder, plugins=self.plugins) if is_transformed(folder) else str(folder)
                tokenizer = {} if self.tokenizer is None else {"tokenizer": self.tokenizer}
                spec = {**{k: v for k, v in spec.items() if k != "stage"}, **tokenizer, "model": model}
            found.append(spec)
        return found

    def _described(self, index: int) -> dict[str, Any]:
        """What decides the outcome of a stage, beside the outcome of the earlier ones."""
        before = self.stages[index - 1].name if index > 0 else None
        return {"run_student": as_json(self.student), **self.stages[index].described(), "stage_before": before}
