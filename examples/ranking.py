"""A bi-encoder from a cross-encoder's scores (Margin-MSE): search for a function by what it does.

    python examples/ranking.py                                            # nothing needed but Python: a minute
    python examples/ranking.py --teacher path/to/cross-encoder --student path/to/encoder --data pairs.jsonl

Without a teacher, scores of shared words (BM25) stand in for a cross-encoder's, in a column of the data; without data,
queries are docstrings of the standard library and documents are its functions' names; without a student, one is made.
`hf-distill train examples/ranking.yaml` does the same from a file, with the student that this script has made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from hf_distill_ranking.data import function_search, rankings
from hf_distill_ranking.functions import load_function_search
from hf_distill_ranking.scoring import embed
from tokenizers import BertWordPieceTokenizer
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from hf_distill import DistillationArguments, DistillationTrainer


def make_student(folder: str) -> None:
    """A small encoder of random weights, with word pieces of the standard library's functions."""
    rows = load_function_search()["train"]
    pieces = BertWordPieceTokenizer()
    texts = [text for row in rows for text in (row["query"], row["documents"][0])]
    pieces.train_from_iterator(texts, vocab_size=4000, show_progress=False)
    BertTokenizerFast(tokenizer_object=pieces).save_pretrained(folder)
    shape = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=4000, initializer_range=0.05, **shape)).save_pretrained(folder)


def main() -> None:
    """Train, evaluate, save, and search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="folder or hub name of a cross-encoder (one logit)")
    parser.add_argument("--student", help="folder or hub name of an encoder")
    parser.add_argument("--data", help="a JSON object a line: query, positive, negatives; or query, documents, labels")
    parser.add_argument("--test", help="the same, to measure MRR and nDCG on")
    parser.add_argument("--output_dir", default="outputs/ranking")
    parser.add_argument("--max_steps", type=int, default=300)
    args = parser.parse_args()
    student = args.student or f"{args.output_dir}/untrained"
    if args.student is None and not (Path(student) / "config.json").exists():
        make_student(student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    if args.data is None:
        data = function_search(tokenizer, teacher_tokenizer=args.teacher, scores=None if args.teacher else "words")
    else:
        data = rankings(tokenizer, train=args.data, test=args.test, teacher_tokenizer=args.teacher)
    cosines = {"normalize": True, "scale": 20.0}  # scores from -20 to 20, which is as far apart as the teacher's are
    margins = {"name": "margin_mse", "weight": 0.05, **cosines}
    if args.teacher is None:
        margins["column"] = "teacher_scores"
    trainer = DistillationTrainer(
        AutoModel.from_pretrained(student),
        DistillationArguments(
            output_dir=args.output_dir,
            plugins=["ranking"],
            losses=[margins, {"name": "contrastive", "in_batch_negatives": True, **cosines}],
            max_steps=args.max_steps,
            per_device_train_batch_size=16,
            learning_rate=2e-3 if args.student is None else 5e-5,
            lr_scheduler_type="cosine",
            logging_steps=50,
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
        # A pair's score is asked once and kept: the second epoch and the next run do without the teacher.
        teacher=args.teacher and {"kind": "cache", "path": f"{args.output_dir}/scores", "source": args.teacher},
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        data_collator=data.collator,
        compute_metrics=data.compute_metrics,
        processing_class=tokenizer,
    )
    trainer.train()
    if data.evaluation is not None:
        trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model()

    encoder = AutoModel.from_pretrained(args.output_dir)  # no trace of how it was trained
    row = (data.evaluation or data.train)[0]
    documents = row.get("documents") or [row["positive"]]
    scores = embed(encoder, tokenizer, documents, normalize=True) @ embed(encoder, tokenizer, [row["query"]])[0]
    print(f"{row['query']}\nfound: {documents[scores.argmax()]}")


if __name__ == "__main__":
    main()
