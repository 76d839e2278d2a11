"""Every block of docs/data.md means what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from hf_distill import load_training_data
from hf_distill.data import tasks
from hf_distill.testing import tiny_tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "notes").mkdir()
    notes = [{"text": f"note {number} " * 40, "source": "ab"[number % 2]} for number in range(60)]
    (tmp_path / "notes" / "a.jsonl").write_text("\n".join(map(json.dumps, notes)))
    (tmp_path / "notes.txt").write_text("\n".join(note["text"] for note in notes))
    (tmp_path / "tickets.csv").write_text("text,label\n" + "".join(f"t {n},{'ab'[n % 2]}\n" for n in range(20)))
    rows = "".join(f"p {n},h {n},{'yn'[n % 2]}\n" for n in range(20))
    (tmp_path / "nli.csv").write_text(f"premise,hypothesis,label\n{rows}")
    (module,) = re.findall(r"^```python\n# my_module.py\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "my_module.py").write_text(module)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_gives_data(number):
    spec = yaml.safe_load(BLOCKS[number])["data"]
    if spec.get("texts") == "python":
        spec["texts"] = {"name": "python", "share": 0.02, "test_fraction": 0.3, "probe_fraction": 0.3}
    data = load_training_data(spec, tiny_tokenizer())
    assert len(data.train) > 0


def test_the_page_names_every_task():
    named = set(re.findall(r"^\| `(\w+)`(?: \(the default\))? \| ", PAGE.partition("## Text")[0], flags=re.MULTILINE))
    assert named == set(tasks._TASKS)
