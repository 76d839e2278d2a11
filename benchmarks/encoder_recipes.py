"""German, French and English encoders by `examples/encoders.py`, on real text, with models trained on the spot.

    python benchmarks/encoder_recipes.py                               # four families, three seeds each, one core
    python benchmarks/encoder_recipes.py --only gottbert --seeds 1     # the results of the others stay as they are

Of each family a tiny model (four blocks, 96 wide, 2,000 tokens) is pre-trained as a masked language model on text of
its language for a few hundred steps, which is far from enough for what such models are made for, and then goes through
the recipe: fine-tuned, halved with and without the teacher. German: is a passage of eight words from a law or from the
web. French: which of four languages three words are in. English: is a sentence from a plot or from a review. The last
column says whether the half learned more with its teacher in every seed, by more than the deviation; where it did not,
that is the result. Steps and learning rates were chosen on German with a seed that is not among those shown.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gzip
import io
import json
import os
import random
import runpy
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import transformers as hf
from tokenizers import ByteLevelBPETokenizer

from hf_distill import StagesDriver

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("HF_DISTILL_SHARED_DATA", ROOT.parent / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "encoder_recipes.json"
SIZES = {
    **{"vocab_size": 2000, "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{
        "intermediate_size": 256,
        "max_position_embeddings": 66,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
}
RELATIVE = {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gottbert": ("RobertaForMaskedLM", "RobertaConfig", {}),
    "camembert2": ("RobertaForMaskedLM", "RobertaConfig", {}),
    "deberta": ("DebertaForMaskedLM", "DebertaConfig", {**RELATIVE, "max_relative_positions": 64}),
    "deberta3": ("DebertaV2ForMaskedLM", "DebertaV2Config", {**RELATIVE, "share_att_key": True}),
}
PRETRAINING = {"max_steps": 300, "learning_rate": 1e-3}
COMMON = {
    **{"max_steps": 100, "learning_rate": 5e-4, "per_device_train_batch_size": 16, "save_strategy": "no"},
    **{"use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, "logging_strategy": "no"},
}
TEACHER_STEPS = 300
ENOUGH = 3
ROWS = 1500


def recipe(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """The stages of the example."""
    stages: list[dict[str, Any]] = runpy.run_path(str(ROOT / "examples" / "encoders.py"))["recipe"](
        *arguments, **options
    )
    return stages


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for, keep and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(MODELS), help="families to run")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="which")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where results are kept; a table goes beside it")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    hf.logging.set_verbosity_error()
    for family in MODELS if options.only is None else options.only:
        for seed in options.seeds:
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                found = measure(family, seed, Path(folder))
            report = json.loads(options.json.read_text()) if options.json.exists() else {"families": {}}
            seconds = round(time.perf_counter() - start, 1)
            report["families"].setdefault(family, {})[str(seed)] = {**found, "seconds": seconds}
            report["families"] = {name: report["families"][name] for name in MODELS if name in report["families"]}
            report |= {"date": datetime.date.today().isoformat(), "hardware": "one core, shared with other work"}
            report["versions"] = {name: version(name) for name in ("torch", "transformers")}
            options.json.write_text(json.dumps(report, indent=1) + "\n")
            options.json.with_suffix(".md").write_text(table(report))
    print(table(json.loads(options.json.read_text())))
    return 0


def measure(family: str, seed: int, folder: Path) -> dict[str, float]:
    """Accuracies of the teacher and of its halves, and the share of the most frequent class."""
    language = {"gottbert": "de", "camembert2": "fr"}.get(family, "en")
    rows = list(_tasks[language]())
    random.Random(seed).shuffle(rows)
    with (folder / "task.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows[:ROWS]])
    texts = list(documents(f"web_{language}" if language != "en" else "wiki_en"))
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = make_tokenizer(texts)
    model_class, config_class, more = MODELS[family]
    hf.set_seed(seed)
    model = getattr(hf, model_class)(getattr(hf, config_class)(**SIZES, **more))
    data = {"task": "masked_lm", "data_files": str(folder / "text.jsonl"), "max_length": 48}
    stages = recipe(family, {"data_files": str(folder / "task.csv")}, max_length=48)
    stages[0] |= {"max_steps": TEACHER_STEPS}
    result = StagesDriver(
        [{"name": "pretraining", "losses": ["task"], "data": data, **PRETRAINING}, *stages],
        student=model,
        tokenizer=tokenizer,
        output_dir=folder / "run",
        defaults={**COMMON, "seed": seed},
    ).run()
    pretraining, *records = result.records
    labels = [label for _, label in rows[:ROWS]]
    return {
        **{record.name: round(record.metrics["eval_accuracy"], 4) for record in records},
        "most frequent class": round(max(map(labels.count, set(labels))) / len(labels), 4),
        "masked language model, nats": round(pretraining.metrics["eval_loss"], 3),
    }


def make_tokenizer(texts: Sequence[str]) -> hf.PreTrainedTokenizerFast:
    """Byte-level pairs, 2,000 of them, with the special tokens of RoBERTa."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=SIZES["vocab_size"], special_tokens=special, show_progress=False)
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, model_max_length=64, **dict(zip(names, special, strict=True))
    )


# ---- Text ----


def documents(name: str) -> Iterator[str]:
    """The texts of one domain."""
    for line in gzip.decompress((SHARED / "lm_domains" / f"{name}.jsonl.gz").read_bytes()).decode().splitlines():
        yield json.loads(line)["text"]


def _passages(name: str, words: int, rows: int) -> list[str]:
    found = [text.split() for text in documents(name)]
    cut = [" ".join(text[at : at + words]) for text in found for at in range(0, len(text) - words + 1, words)]
    return random.Random(0).sample(sorted(set(cut)), rows)


def _german() -> Iterator[tuple[str, str]]:
    for name in ("law_de", "web_de"):
        yield from ((text, name) for text in _passages(name, 8, ROWS // 2))


def _french() -> Iterator[tuple[str, str]]:
    for name in ("web_fr", "web_de", "mixed_ro", "wiki_en"):
        yield from ((text, name) for text in _passages(name, 3, ROWS // 4))


def _english() -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(SHARED / "sentence_polarity" / "subjectivity.zip") as archive:
        for label in ("quote", "plot"):
            file = io.TextIOWrapper(archive.open(f"subjectivity/{label}.tok.gt9.5000"), encoding="latin-1")
            lines = sorted(set(file.read().splitlines()))
            yield from ((line, label) for line in random.Random(0).sample(lines, ROWS // 2))


_tasks = {"de": _german, "fr": _french, "en": _english}


# ---- The report ----


def table(report: Mapping[str, Any]) -> str:
    """Means and deviations in Markdown."""
    lines = [
        "# Encoders by `examples/encoders.py`, trained on the spot",
        "",
        f"{report['date']}; {', '.join(f'{k} {v}' for k, v in report['versions'].items())}; {report['hardware']}. "
        "Accuracy on the evaluation fifth, mean and deviation over seeds. Written by `benchmarks/encoder_recipes.py`.",
        "",
        "| family | seeds | most frequent class | teacher | half, distilled | half, alone | gain | shown |",
        "|---" * 8 + "|",
    ]
    for family, seeds in report["families"].items():
        columns = {
            name: [one[name] for one in seeds.values()]
            for name in ("most frequent class", "teacher", "distilled", "alone")
        }
        gains = [ours - theirs for ours, theirs in zip(columns["distilled"], columns["alone"], strict=True)]
        verdict = f"fewer than {ENOUGH} seeds"
        if len(gains) >= ENOUGH:
            verdict = "yes" if min(gains) > 0 and statistics.mean(gains) > statistics.stdev(gains) else "no"
        cells = [_spread(values) for values in (*columns.values(), gains)]
        lines.append(f"| {family} | {len(seeds)} | {' | '.join(cells)} | {verdict} |")
    return "\n".join([*lines, ""])


def _spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    sys.exit(main())
