"""The matrix of model families: a teacher halved by every builder, distilled, saved, loaded, in seconds each.

    python benchmarks/families.py                            # all families and builders, one core
    python benchmarks/families.py --only BERT Mamba2         # these; the results of the others stay as they are
    python benchmarks/families.py --check                    # exit with 1 where a cell fails that is not known to

A cell takes a tiny random teacher of four blocks and a student that the builder makes of it (two blocks, except where
the builder grows), and 30 steps on logits (forward KL) and hidden states (mean squared error), or on one of them
where a family lacks the other. It *works* if the loss on the training data falls, the saved student gives the same
outputs when it is loaded, and both are stock classes of transformers. Where the library refuses in words (a
ValueError) to build or to begin, the builder *does not apply*, and the words are the reason. Everything else *fails*.
It says that a family is supported, not that a method is good: nothing is learned from random teachers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import transformers
from family_models import DEPTH, FAMILIES, WIDTH, Family
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments

from hf_distill import (
    DistillationTrainer,
    Plugins,
    build_student,
    disable_from_pretrained,
    enable_from_pretrained,
    load_student,
)

RESULTS = Path(__file__).parent / "results" / "families.json"
STEPS = 30
# The options of each builder, by the plugin that it comes from, for a teacher of `family_models`.
BUILDERS: dict[str, dict[str, dict[str, Any]]] = {
    "hf_distill": {"layer_drop": {}, "fresh": {"layers": DEPTH // 2}},
    "weightmaps": {
        "layer_stride": {},
        "coalesce": {},
        "decoalesce": {"hidden_size": 2 * WIDTH, "layers": 2 * DEPTH},
        "grow": {"hidden_size": 2 * WIDTH, "layers": 2 * DEPTH},
        "miniature": {"shape": "tiny"},
    },
}
WORKS, REFUSED, FAILS = "works", "does not apply", "fails"
# What fails for a reason that is not ours, or not yet: (family, builder) -> why. `--check` lets these pass.
KNOWN_FAILURES: dict[tuple[str, str], str] = {}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cells that were asked for, keep and print the results, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="FAMILY", help="families to run")
    parser.add_argument("--builders", nargs="*", metavar="NAME", help="builders to run")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where results are kept; a table goes beside it")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a cell fails that is not known to")
    options = parser.parse_args(argv)
    plugins = installed()
    builders = {name: found for one in plugins for name, found in BUILDERS[one].items()}
    for what, asked, known in (("family", options.only, FAMILIES), ("builder", options.builders, builders)):
        if unknown := sorted(set(asked or ()) - set(known)):
            parser.error(f"there is no {what} {unknown[0]!r}; there are {', '.join(known)}")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    console = Console(stderr=True)
    active = Plugins([name for name in plugins if name != "hf_distill"])
    for family in FAMILIES if options.only is None else options.only:
        for builder in builders if options.builders is None else options.builders:
            result = cell(FAMILIES[family], builder, builders[builder], active)
            console.print(f"{family}, {builder}: {result['outcome']} {result['why']}", highlight=False, markup=False)
            report = read(options.json)  # only now: another run may have written meanwhile
            report["cells"].setdefault(family, {})[builder] = result
            write(report, options.json)
    report = read(options.json)
    print(table(report))
    failed = {
        (family, builder): cell["why"]
        for family, cells in report["cells"].items()
        for builder, cell in cells.items()
        if cell["outcome"] == FAILS and (family, builder) not in KNOWN_FAILURES
    }
    for (family, builder), why in failed.items():
        console.print(f"{family}, {builder}: {why}", style="red", highlight=False, markup=False)
    return int(options.check and bool(failed))


def installed() -> list[str]:
    """The plugins of `BUILDERS` that are here, the core first."""
    there = {info.name for info in Plugins().installed()}
    return [name for name in BUILDERS if name == "hf_distill" or name in there]


def cell(family: Family, builder: str, options: Mapping[str, Any], plugins: Plugins) -> dict[str, Any]:
    """One family and one builder: the outcome, why, the losses before and after, and the seconds that it took."""
    start = time.perf_counter()
    result: dict[str, Any] = {"outcome": WORKS, "why": "", "losses": None}
    try:
        with tempfile.TemporaryDirectory() as folder:
            result |= distil(family, builder, options, plugins, Path(folder))
    except ValueError as error:
        result |= {"outcome": REFUSED, "why": _short(error)}
    except Exception as error:  # whatever a family does, the others go on
        result |= {"outcome": FAILS, "why": f"{type(error).__name__}: {_short(error)}"}
    return {**result, "seconds": round(time.perf_counter() - start, 1)}


def distil(family: Family, builder: str, options: Mapping[str, Any], plugins: Plugins, folder: Path) -> dict[str, Any]:
    """Build, train, save and load; what is not as it should be is in the outcome.

    Raises:
        ValueError: the builder, the losses or the trainer refuse.
    """
    teacher = family.make()
    if builder == "layer_drop" and family.layers is not None:
        options = {**options, "layers": family.layers}
    student = build_student(teacher, builder, plugins=plugins, **options).model
    stock = type(student)
    rows = family.rows()
    trainer, refusal = _trainer(student, teacher, rows, folder)
    try:
        return {"why": refusal} | _train(trainer, stock, rows, plugins, folder)
    except ValueError as error:
        raise RuntimeError(f"in the training: {error}") from error


def _train(
    trainer: DistillationTrainer,
    stock: type[PreTrainedModel],
    rows: list[dict[str, Tensor]],
    plugins: Plugins,
    folder: Path,
) -> dict[str, Any]:
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    saved = folder / "student"
    trainer.save_model(str(saved))
    trained = trainer.student
    loaded = load_student(saved, plugins=plugins)
    enable_from_pretrained(plugins)
    try:
        again = getattr(transformers, stock.__name__).from_pretrained(saved)
    finally:
        disable_from_pretrained()
    inputs = _inputs(trained, rows)
    problems = {
        f"the loss did not fall: {before:.4f} to {after:.4f}": not after < before,
        "the loaded student gives other outputs": not torch.equal(_output(loaded, inputs), _output(trained, inputs)),
        "the stock class gives other outputs": not torch.equal(_output(again, inputs), _output(trained, inputs)),
        f"{stock.__name__} is no stock class": getattr(transformers, stock.__name__, None) is not type(loaded),
    }
    found = [problem for problem, there in problems.items() if there]
    losses = {"losses": [round(before, 4), round(after, 4)]}
    return {"outcome": FAILS, "why": "; ".join(found), **losses} if found else losses


def _trainer(
    student: PreTrainedModel, teacher: PreTrainedModel, rows: list[dict[str, Tensor]], folder: Path
) -> tuple[DistillationTrainer, str]:
    """On logits and hidden states; on one of them, and why, where the other is refused."""
    refused: list[ValueError] = []
    for losses, title in (
        (["forward_kl", "hidden_mse"], ""),
        (["forward_kl"], "logits alone"),
        (["hidden_mse"], "hidden states alone"),
    ):
        try:
            trainer = DistillationTrainer(
                model=student,
                args=TrainingArguments(
                    output_dir=str(folder / "trainer"), max_steps=STEPS, per_device_train_batch_size=8,
                    per_device_eval_batch_size=16, learning_rate=3e-3, lr_scheduler_type="constant", use_cpu=True,
                    report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
                    dataloader_pin_memory=False, prediction_loss_only=True, remove_unused_columns=False, seed=0,
                ),
                teacher=teacher, losses=losses, train_dataset=rows, eval_dataset=rows, data_collator=stack,
            )  # fmt: skip
        except ValueError as error:
            refused.append(error)
        else:
            trainer.remove_callback(PrinterCallback)
            return trainer, f"{title}: {_short(refused[0])}" if refused else ""
    raise refused[0]


def stack(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of equal shapes as a batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _inputs(student: PreTrainedModel, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    batch = stack(rows[:2])
    labels = batch.pop("labels", None)
    if student.config.is_encoder_decoder and labels is not None:
        batch["decoder_input_ids"] = labels
    return batch


@torch.no_grad()
def _output(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits, or whatever a model without them gives first."""
    output = model.eval()(**inputs)
    return output.logits if "logits" in output else output[0]


def _short(error: Exception) -> str:
    """The beginning of an error, on one line."""
    return textwrap.shorten(re.sub(r"0x[0-9a-f]+", "0x...", str(error)), 200, placeholder=" ...")


def _gist(why: str) -> str:
    """The first clause of a reason, in words that families share."""
    return re.sub(r"'[\w-]+'", "'...'", re.split(r"; |\. ", why)[0])


# ---- The report ----


def read(path: Path) -> dict[str, Any]:
    """What was found so far."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"cells": {}}
    return found


def write(report: dict[str, Any], path: Path) -> None:
    """Keep the report and its table, with what it was made on."""
    report["cells"] = {name: report["cells"][name] for name in FAMILIES if name in report["cells"]}
    report |= {
        "date": datetime.date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "hardware": f"{platform.machine()}, one core",
        "steps": STEPS,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(report))


def table(report: Mapping[str, Any]) -> str:
    """The matrix in Markdown, and below it why what does not apply does not, and what fails."""
    builders = list(dict.fromkeys(name for cells in report["cells"].values() for name in cells))
    lines = [
        "# Model families and student builders",
        "",
        f"{report.get('date', '')}; {', '.join(f'{k} {v}' for k, v in report.get('versions', {}).items())}; "
        f"{report.get('hardware', '')}. Written by `benchmarks/families.py`, which says what *works* means.",
        "",
        f"| family | class | {' | '.join(builders)} |",
        "|---" * (len(builders) + 2) + "|",
    ]
    notes: dict[str, list[str]] = {}
    for name, cells in report["cells"].items():
        shown = []
        for builder in builders:
            found = cells.get(builder)
            shown.append("" if found is None else found["outcome"] + ("*" if found["why"] else ""))
            if found and found["why"]:
                notes.setdefault(f"{found['outcome']}: {_gist(found['why'])}", []).append(f"{name} ({builder})")
        note = f" ({FAMILIES[name].note})" if name in FAMILIES and FAMILIES[name].note else ""
        model = FAMILIES[name].model if name in FAMILIES else ""
        lines.append(f"| {name}{note} | {model} | {' | '.join(shown)} |")
    lines += ["", *(f"- {', '.join(cells)}: *{why}*" for why, cells in notes.items()), ""]
    known = [f"- {family} ({builder}): {why}" for (family, builder), why in KNOWN_FAILURES.items()]
    return "\n".join(lines + (["Known failures:", "", *known, ""] if known else []))


if __name__ == "__main__":
    sys.exit(main())
