"""What all tests run under, those of the core and those of the plugins: offline, seeded, on few threads."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

# Before transformers or torch are imported, by the tests or by processes that they start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist already uses every core
os.environ.pop("HF_DISTILL_PLUGINS", None)

import pytest

# Started in the background of a shell, a process ignores Ctrl-C, and so would those that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` on machines without a GPU; torch is imported only where there are any."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Models made from a config are the same in every run, whatever ran before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared data sets; tests that need it are skipped where it is absent."""
    default = Path(__file__).parent.parent / "shared" / "data"
    folder = Path(os.environ.get("HF_DISTILL_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip("the shared data sets are not here; set HF_DISTILL_SHARED_DATA to their folder")
    return folder
