"""A small classifier from few labelled texts: in rounds, a teacher writes what the student cannot do yet (PGKD).

    python examples/pgkd.py                                    # without data and language model: docstrings
    python examples/pgkd.py --data tickets.csv --student path/of/encoder --url http://127.0.0.1:8000/v1 --model name

The CSV has the columns text and label. `hf-distill rounds examples/pgkd.yaml` does the same from a file; this script is
to be copied and changed.
"""

from __future__ import annotations

import argparse

from hf_distill import Plugins, RoundsDriver, TextClassification, load_labelled_texts

# What makes a student of random weights learn in seconds; a pretrained one has the defaults, those of the paper.
FRESH = {"num_train_epochs": 20, "per_device_train_batch_size": 16, "learning_rate": 2e-3}


def main() -> None:
    """Train in rounds, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a table of the columns text and label; docstrings where it is not given")
    parser.add_argument("--student", help="folder or hub name of a pretrained encoder; a tiny new one by default")
    parser.add_argument("--url", help="of an OpenAI-compatible endpoint")
    parser.add_argument("--model", help="what the endpoint calls the teacher")
    parser.add_argument("--api-key-env", help="the environment variable that holds the endpoint's key")
    parser.add_argument("--requests", type=int, default=20, help="how often the teacher may be asked")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output-dir", default="outputs/pgkd")
    args = parser.parse_args()
    if (args.data is None) != (args.url is None):
        parser.error("give --data and --url together: the built-in teacher knows docstrings only.")

    if args.data:
        spec = {"data_files": args.data, "validation_fraction": 0.2, "test_fraction": 0.1, "held_out_fraction": 0.1}
        teacher = {"kind": "endpoint", "url": args.url, "model": args.model, "api_key_env": args.api_key_env}
    else:
        spec = {"texts": "docstrings", "train_rows": 300, "test_fraction": 0.15, "held_out_fraction": 0.1}
        spec["pool_fraction"] = 0.4
        teacher = {"kind": "retrieval", "pool": spec}  # NOT a language model: it owns labelled texts
    data = load_labelled_texts(spec)

    plugins = Plugins(["pgkd"])
    task = TextClassification(
        args.student or {"fresh": {"hidden_size": 96, "layers": 1, "vocab_size": 2000, "hidden_dropout_prob": 0.3}},
        labels=data.labels,
        validation=data.validation,
        training={"disable_tqdm": True, **({} if args.student else FRESH)},
        early_stopping=3,
        max_length=128,
    )
    driver = RoundsDriver(
        task,
        # The paper takes mistakes from the training texts, where a student that has learnt them makes none.
        plugins.registry("generators", "round").create("pgkd", {"error_source": "held_out"}),
        rows=data.train,
        validation=data.validation,
        held_out=data.held_out,
        forbidden=[row["text"] for row in data.test],
        teacher=teacher,
        budget={"requests": args.requests},
        num_rounds=args.rounds,
        output_dir=args.output_dir,
        plugins=plugins,
        on_round=lambda records: print(
            f"round {records[-1].index}: accuracy {records[-1].report.accuracy:.3f}, {records[-1].num_rows} rows, "
            f"{records[-1].num_accepted} of {records[-1].num_proposed} accepted, {records[-1].num_requests} requests"
        ),
    )
    result = driver.run()
    test = task.open(result.folder).report(data.test)
    print(f"stopped: {result.stopped}")
    print(f"best is round {result.best.index}: test accuracy {test.accuracy:.3f}; its student is in {result.folder}")


if __name__ == "__main__":
    main()
