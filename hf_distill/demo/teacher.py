"""The demo's tokenizer and teacher: trained on the first run, kept in the cache folder, found again by their recipe.

The folder is ``$HF_DISTILL_HOME`` or ``~/.cache/hf_distill`` (``$XDG_CACHE_HOME/hf_distill`` where that is set).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from datasets import Dataset, DatasetDict
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .._version import __version__
from ..data.language_modeling import load_text_data
from ..drivers.config_file import RECORD
from ..drivers.training import run

END = "<|end|>"


@dataclass(frozen=True)
class TeacherRecipe:
    """Everything that decides what the teacher is, beside the text and the versions of the libraries.

    Attributes:
        data: `hf_distill.data.language_modeling.TextData`, as a mapping.
        vocab_size: of the tokenizer.
        model: fields of its `LlamaConfig`.
        training: fields of `DistillationArguments`.
    """

    data: Mapping[str, Any]
    vocab_size: int
    model: Mapping[str, Any]
    training: Mapping[str, Any]


def home() -> Path:
    """The folder where hf_distill keeps what can be made again."""
    if "HF_DISTILL_HOME" in os.environ:
        return Path(os.environ["HF_DISTILL_HOME"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "hf_distill"


def teacher_folder(recipe: TeacherRecipe, console: Console) -> Path:
    """The folder of the teacher, its tokenizer and its record; trains it where there is none of this recipe.

    An interrupted training leaves nothing behind that a later one could take for a teacher.
    """
    documents = load_text_data(recipe.data)
    console.print(f"to train on, found in this Python: {_sizes(documents['train'])}", highlight=False)
    folder = home() / "demo" / f"teacher-{_key(recipe, documents)}"
    if folder.exists():
        console.print(f"found in the cache: {folder}", soft_wrap=True, highlight=False)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unfinished-") as unfinished:
        start, finished = Path(unfinished) / "start", Path(unfinished) / "finished"
        console.print(f"training the tokenizer, {recipe.vocab_size:,} tokens")
        tokenizer = train_tokenizer(documents["train"]["text"], recipe.vocab_size)
        tokenizer.save_pretrained(start)
        _new_model(recipe, tokenizer).save_pretrained(start)
        config = {"student": str(start), "losses": ["task"], "data": dict(recipe.data), "output_dir": str(finished)}
        run({**config, **recipe.training}, title="teacher", console=console, describe=False)
        finished.rename(folder)  # in one step, so that the folder is there as a whole or not at all
    console.print(f"kept for the next time in {folder}", soft_wrap=True, highlight=False)
    return folder


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, in which every text can be written."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        model_input_names=["input_ids", "attention_mask"],
    )


def read_record(folder: Path) -> dict[str, Any]:
    """What `hf-distill train` wrote about a run."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def _new_model(recipe: TeacherRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    end = tokenizer.eos_token_id
    fields = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": end, "pad_token_id": end}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**fields, **recipe.model))


def _sizes(documents: Dataset) -> str:
    sizes: Counter[str] = Counter()
    for text, domain in zip(documents["text"], documents["domain"], strict=True):
        sizes[domain] += len(text)
    return ", ".join(f"{domain} {size / 1e6:.1f} MB" for domain, size in sizes.most_common())


def _key(recipe: TeacherRecipe, documents: DatasetDict) -> str:
    """A hash of the recipe, the text and the versions: what is cached under it need not be trained again."""
    versions = [module.__version__ for module in (torch, transformers, tokenizers)]
    digest = hashlib.sha256(json.dumps([asdict(recipe), __version__, *versions], sort_keys=True).encode())
    for split in sorted(documents):
        for text in documents[split]["text"]:
            digest.update(f"{split}:{len(text)}:{text}".encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]
