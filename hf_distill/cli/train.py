"""``hf-distill train CONFIG.yaml``: distil as a YAML file says.

The file holds the fields of `DistillationArguments` (those of `transformers.TrainingArguments` among them), and

    data: {task: causal_lm, texts: python, max_length: 128}    # see docs/data.md; the same in every command
    tokenizer: path/or/name                   # by default the teacher's, or the student's where that is another

Any of them may be given on the command line instead: ``--max_steps 100 --teacher path --losses '["forward_kl"]'``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..drivers.config_file import read_config
from ..drivers.training import run

if TYPE_CHECKING:
    pass


def train(argv: list[str]) -> int:
    """Run ``hf-distill train`` and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="hf-distill train",
        description="Distil as a YAML file says. Saves the student, its tokenizer and a record of the run (run.json).",
        epilog="Any other --name value replaces what the file says; nested values are JSON.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="a YAML file of fields of DistillationArguments, and data and tokenizer")
    parser.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint in output_dir")
    options, overrides = parser.parse_known_args(argv)
    run(read_config(options.config), overrides=overrides, resume=options.resume, title=Path(options.config).stem)
    return 0
