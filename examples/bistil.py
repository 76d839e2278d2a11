"""A bilingual student of a multilingual teacher in two phases (bistil.yaml): BiStil, on French and Romanian.

    python examples/bistil.py

A multilingual teacher loses the word pieces that neither language uses and is trained. In the general phase every other
of its blocks learns from its hidden states and attention; in that of the task, which words have a capital, from a
teacher finetuned on French, by sparse finetuning; the score is on Romanian, of which no labels are seen. Without the
project's shared data, sentences are made from a pattern. Sparse finetunings of the languages themselves are left out.
"""

import gzip
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForMaskedLM, EvalPrediction, PreTrainedTokenizerBase

from hf_distill import Plugins, TrainingData, build_student, load_student

CONFIG = Path(__file__).with_name("bistil.yaml")
MODELS, OUTPUT = Path("outputs/bistil-models"), Path("outputs/bistil")
SHARED = Path(os.environ.get("HF_DISTILL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "lm_domains"
FILES = {"de": "web_de", "fr": "web_fr", "ro": "mixed_ro"}
PATTERNS = {"de": "heute fährt {} nach {}", "fr": "aujourd'hui {} va à {}", "ro": "astăzi {} merge la {}"}
WORDS = "Maria Paul Ana Martin Elena Victor Sofia Paris Berlin Cluj Arad Lyon".split()


def sentences(language: str) -> list[str]:
    """Of a language, from the shared data or from a pattern."""
    if not SHARED.is_dir():
        return [PATTERNS[language].format(*pair) for pair in itertools.permutations(WORDS, 2)]
    lines = gzip.decompress((SHARED / f"{FILES[language]}.jsonl.gz").read_bytes()).decode().splitlines()
    return [one for line in lines for one in json.loads(line)["text"].split(". ") if len(one) > 20]


def capitals(tokenizer: PreTrainedTokenizerBase, *, train: str, test: str) -> TrainingData:
    """Which words begin with a capital, told from lower case: a file of text to learn from, and one to measure."""

    def encode(path: str) -> Dataset:
        texts = Path(path).read_text(encoding="utf-8").splitlines()
        rows = tokenizer(texts, truncation=True, max_length=32, return_offsets_mapping=True)
        labels = []
        for index, (text, offsets) in enumerate(zip(texts, rows["offset_mapping"], strict=True)):
            words = itertools.pairwise([None, *rows.word_ids(index)])
            first = [word not in (None, before) for before, word in words]  # other pieces have no label
            labels.append([int(text[at[0]].isupper()) if new else -100 for new, at in zip(first, offsets, strict=True)])
        return Dataset.from_dict({"input_ids": rows["input_ids"], "labels": labels})

    def f1(prediction: EvalPrediction) -> dict[str, float]:
        counted = prediction.label_ids != -100
        found, wanted = (one[counted] == 1 for one in (prediction.predictions.argmax(-1), prediction.label_ids))
        return {"f1": float(2 * (found & wanted).sum() / max(found.sum() + wanted.sum(), 1))}

    collator = transformers.DataCollatorForTokenClassification(tokenizer)
    return TrainingData(encode(train), encode(test), None, collator, ["small", "capital"], f1)


def make_models() -> None:
    """The text, a multilingual teacher without training, and that without the word pieces of other languages."""
    texts, folder = {language: sentences(language) for language in FILES}, MODELS / "multilingual"
    pieces = BertWordPieceTokenizer(strip_accents=False)
    pieces.train_from_iterator(itertools.chain(*texts.values()), vocab_size=2000, show_progress=False)
    transformers.BertTokenizerFast(tokenizer_object=pieces, model_max_length=64).save_pretrained(folder)
    for language, own in texts.items():
        (MODELS / f"{language}.test.txt").write_text("\n".join(own[: len(own) // 10]), encoding="utf-8")
        (MODELS / f"{language}.txt").write_text("\n".join(own[len(own) // 10 :]), encoding="utf-8")
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    BertForMaskedLM(BertConfig(vocab_size=2000, **shape)).save_pretrained(folder)
    files = [str(MODELS / f"{language}.txt") for language in ("fr", "ro")]
    build = build_student(folder, "trim_vocabulary", plugins=Plugins(["weightmaps"]), texts=files)
    build.model.save_pretrained(MODELS / "bilingual")
    build.tokenizer.save_pretrained(MODELS / "bilingual")
    print(f"{build.model.config.vocab_size} of 2000 word pieces are in use")


def main() -> None:
    """Make the models, run the stages, and say how good teacher and student are, and how much of it changed."""
    if not (MODELS / "bilingual").exists():
        make_models()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CONFIG.parent), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-m", "hf_distill.cli", "stages", str(CONFIG)], check=True, env=environment)
    for stage in json.loads((OUTPUT / "run.json").read_text())["stages"][2:]:
        print(f"{stage['name']}: F1 {stage['metrics']['eval_f1']:.3f} on Romanian")
    models = (load_student(OUTPUT / name, plugins=["prune"]) for name in ("stages/03-head/model", "model"))
    base, student = (dict(model.named_parameters()) for model in models)
    changed = sum(int((student[name] != base[name]).sum()) for name in base if name.startswith("bert."))
    print(f"the task changed {changed} of {sum(one.numel() for one in base.values())} parameters of the student")


if __name__ == "__main__":
    main()
