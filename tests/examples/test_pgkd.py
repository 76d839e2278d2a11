"""The example of rounds, as script and as file, from nothing but a Python installation to a classifier."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from transformers import AutoModelForSequenceClassification

from hf_distill.data.labelled_texts import load_labelled_texts
from hf_distill.rounds.commands import RoundsConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
CHANCE = 1 / 12


def run(*command, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_the_script_makes_a_classifier_that_is_better_than_chance(tmp_path):
    output = run(str(EXAMPLES / "pgkd.py"), "--rounds", "2", folder=tmp_path)
    accuracies = [float(text) for text in re.findall(r"^round \d: accuracy ([\d.]+)", output, re.MULTILINE)]
    assert len(accuracies) == 3
    assert float(re.search(r"test accuracy ([\d.]+)", output)[1]) > 3 * CHANCE
    assert re.search(r"^round 1: .* \d\d of 32 accepted, 1 requests$", output, re.MULTILINE)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "outputs/pgkd/model")
    assert model.config.label2id["asyncio"] == 0


@contextmanager
def chat_server():
    """An OpenAI-compatible endpoint that writes, for every class of the prompt, new sentences about it."""
    prompts = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompts.append(request["messages"][0]["content"])
            names = re.findall(r"^\d+: (\w+)$", prompts[-1], re.MULTILINE)
            rng = random.Random(len(prompts))
            words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=12)) for _ in range(32)]
            rows = [
                {"text": f"{names[n % len(names)]} {word}", "label": n % len(names)} for n, word in enumerate(words)
            ]
            message = {"role": "assistant", "content": f"Here you are:\n```json\n{json.dumps(rows)}\n```"}
            usage = {"prompt_tokens": 700, "completion_tokens": 300, "total_tokens": 1000}
            reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
            body = json.dumps({"id": "1", "object": "chat.completion", "model": "m", **reply}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", prompts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_table_and_an_endpoint_become_a_classifier_in_one_command(tmp_path):
    rows = [f"{name} item {n},{name}" for n in range(30) for name in ("billing", "delivery")]
    (tmp_path / "tickets.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    arguments = ["--data", str(tmp_path / "tickets.csv"), "--model", "m", "--rounds", "2", "--requests", "1"]
    with chat_server() as (url, prompts):
        output = run(str(EXAMPLES / "pgkd.py"), *arguments, "--url", url, folder=tmp_path)
    assert len(prompts) == 1, "the budget"
    assert "0: billing\n1: delivery" in prompts[0]
    validation = load_labelled_texts(
        {"data_files": str(tmp_path / "tickets.csv"), "validation_fraction": 0.2, "test_fraction": 0.1}
    ).validation
    assert not [row["text"] for row in validation if f'"{row["text"]}"' in prompts[0]]
    assert "32 of 32 accepted, 1 requests" in output
    assert "stopped: The budget of 1 in requests is spent" in output
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "outputs/pgkd/model")
    assert model.config.id2label == {0: "billing", 1: "delivery"}


def test_the_script_is_short_enough_to_be_copied():
    assert len((EXAMPLES / "pgkd.py").read_text().splitlines()) < 100


def test_a_dry_run_of_the_file_shows_the_prompt(tmp_path):
    output = run("-m", "hf_distill.cli", "rounds", str(EXAMPLES / "pgkd.yaml"), "--dry-run", folder=tmp_path)
    assert "## Validation report" in output
    assert "## What it gets wrong and is sure of" in output
    assert "Nothing was asked." in output


def test_the_pool_of_the_teacher_shares_no_text_with_the_other_splits():
    config = RoundsConfig.parse(yaml.safe_load((EXAMPLES / "pgkd.yaml").read_text()))
    assert config.teacher["pool"] == config.data
    data = load_labelled_texts(config.data)
    pool = {row["text"] for row in data.pool}
    others = [row["text"] for rows in (data.train, data.validation, data.test, data.held_out) for row in rows]
    assert pool
    assert not pool & set(others)
