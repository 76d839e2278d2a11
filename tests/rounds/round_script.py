"""Small runs in rounds, for tests in this process and for those that kill one: a teacher made of words.

python round_script.py FOLDER killed      the same run, killed at every stage in turn, each time taken up again
accelerate launch ... round_script.py FOLDER processes
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from hf_distill.rounds.classification import TextClassification
from hf_distill.rounds.driver import RoundsDriver
from hf_distill.rounds.files import RoundFiles
from hf_distill.rounds.generators import RoundGenerator
from hf_distill.serving.answers import Answer, Usage
from hf_distill.serving.text_teacher import TextTeacher

LABELS = ("animal", "colour", "number")
WORDS = {
    "animal": "dog cat horse cow sheep goat mouse lion tiger bear wolf fox deer hare seal whale".split(),
    "colour": "red green blue white black pink brown grey cyan violet orange yellow teal lime rose gold".split(),
    "number": "one two three four five six seven eight nine ten twelve twenty thirty forty fifty sixty".split(),
}
STAGES = ("first training", "answered", "asked", "rows", "model", "record", "training")


def make_rows(counts: dict[str, int], seed: int) -> list[dict[str, str]]:
    """Texts of words of their class; every class has more words than its rows can show."""
    generator = random.Random(seed)
    return [
        {"text": " ".join(generator.sample(WORDS[label], 4)), "label": label}
        for label, count in counts.items()
        for _ in range(count)
    ]


class WordTeacher(TextTeacher):
    """Writes rows of the classes that the prompt names, and keeps what it was asked in a file."""

    model = "words"

    def __init__(self, log: Path, kill: str | None = None) -> None:
        self.log = log
        self.kill = kill

    def ask(self, requests, account):
        for request in requests:
            account.begin(request)
            with self.log.open("a") as file:
                file.write(f"{request.id}\n")
            if self.kill == "asked" and request.messages.endswith("part 1"):
                end()
            rows = make_rows(dict.fromkeys(LABELS, 2), seed=10 * request.seed + int(request.messages[-1]))
            rows.append({"text": "too far", "label": "no such class"})
            account.finish(request, Answer(f"```json\n{json.dumps(rows)}\n```", usage=Usage(100, 50, 0.5)))
            if self.kill == "answered" and request.messages.endswith("part 0"):
                end()


class WordGenerator(RoundGenerator):
    """Asks twice a round, showing what the student got wrong."""

    error_source = "train"
    num_rows = 14

    def propose(self, context):
        shown = [f"{confidence:.6f}" for confidence in context.errors_of.confidences]
        prompt = f"round {context.index}: {context.rng.random()} {context.report.worst(2)} {shown}"
        return [row for part in range(2) for row in context.ask(f"{prompt} part {part}", num_rows=7)]


class Kill(TrainerCallback):
    """Ends the process in the middle of a training."""

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 2:
            end()


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def make_driver(folder: Path, *, kill: str | None = None, generator=None, teacher=None, quick=False, **options):
    """A run of two rounds on three unequal classes; the student of a `quick` one never learns."""
    validation = make_rows(dict.fromkeys(LABELS, 6), seed=1)

    def callbacks(title):
        wanted = {"round 0": "first training", "round 2": "training"}.get(title)
        return [Kill()] if kill == wanted is not None else []

    training = {
        "num_train_epochs": 1 if quick else 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "use_cpu": True,
    }
    task = TextClassification(
        {"fresh": {"hidden_size": 16, "vocab_size": 320}},
        labels=LABELS,
        validation=validation,
        training={**training, "dataloader_pin_memory": False, "disable_tqdm": True},
        early_stopping=2,
        max_length=16,
        callbacks=callbacks,
    )
    if quick:
        task.fit = lambda start, rows, folder, **_: shutil.copytree(start, folder)
    return RoundsDriver(
        task,
        generator or WordGenerator(),
        rows=make_rows({"animal": 8, "colour": 4, "number": 3}, seed=0),
        validation=validation,
        output_dir=folder,
        teacher=teacher or WordTeacher(folder.with_name(f"{folder.name}.log"), kill),
        num_rounds=options.pop("num_rounds", 2),
        **options,
    )


def run_killed(folder: Path) -> None:
    """Kill the run at each stage in turn; the last time let it end."""
    for kill in (*STAGES, None):
        child = os.fork()
        if child == 0:
            patch(kill)
            make_driver(folder, kill=kill).run()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        expected = 0 if kill is None else signal.SIGKILL
        assert status == expected, f"{kill}: {status}"


def patch(kill: str | None) -> None:
    """End the process right after the file of a stage was written, or right before."""

    def after(owner, name, wanted):
        method = getattr(owner, name)

        def ended(*args, **kwargs):
            result = method(*args, **kwargs)
            if wanted(*args, **kwargs):
                end()
            return result

        setattr(owner, name, ended)

    if kill == "rows":
        after(RoundFiles, "write_rows", lambda *_: True)
    elif kill == "model":
        after(TextClassification, "fit", lambda *_, title, **__: title == "round 1")
    elif kill == "record":
        after(RoundFiles, "write_records", lambda self, fingerprint, records, **_: len(list(records)) == 2)


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if sys.argv[2] == "killed":
        run_killed(folder)
        return
    driver = make_driver(folder)
    result = driver.run()
    rank = PartialState().process_index
    weights = sum(parameter.double().sum().item() for parameter in driver.task.open(result.folder).model.parameters())
    losses = [record.report.loss for record in result.records]
    seen = {"losses": losses, "rows": [r.num_rows for r in result.records], "weights": weights}
    folder.with_name(f"rank-{rank}.json").write_text(json.dumps(seen))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
