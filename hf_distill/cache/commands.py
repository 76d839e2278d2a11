"""``hf-distill cache info|verify|compare``: what a teacher cache holds, whether it is whole, how far two are apart."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .rows import TokenRows
    from .store import CacheStore

_SAMPLE = 256


def cache(argv: list[str]) -> int:
    """Run ``hf-distill cache`` and return the exit status: 1 where `verify` finds damage."""
    parser = argparse.ArgumentParser(prog="hf-distill cache", description="Look into teacher caches.")
    actions = parser.add_subparsers(dest="action", required=True)
    for name, what in (
        ("info", "what it holds: who said it, how much, and how sure the teacher was"),
        ("verify", "read every byte and compare checksums"),
        ("compare", "two caches of one teacher: sizes, and the divergence between what they say of the same examples"),
    ):
        action = actions.add_parser(name, help=what, description=what)
        action.add_argument("path", nargs=2 if name == "compare" else 1, type=Path, help="the folder of a cache")
        action.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args(argv)
    actions_by_name: dict[str, Callable[..., dict[str, Any]]] = {"info": _info, "verify": _verify, "compare": _compare}
    result = actions_by_name[options.action](*options.path)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        _print(result)
    return 1 if result.get("damaged") else 0


def _info(path: Path) -> dict[str, Any]:
    from .store import CacheStore

    store = CacheStore(path)
    return {
        "cache": str(path),
        **_sizes(store),
        "settings": dict(store.manifest.settings),
        "fingerprints": dict(store.manifest.fingerprints),
        "arrays": dict(store.manifest.arrays),
        "sample": _statistics(store),
    }


def _sizes(store: CacheStore) -> dict[str, Any]:
    each = round(store.num_bytes / store.num_tokens, 2) if store.num_tokens else None
    return {
        "examples": len(store),
        "tokens": store.num_tokens,
        "bytes": store.num_bytes,
        "bytes_per_token": each,
        "shards": len(store.shards),
    }


def _statistics(store: CacheStore) -> dict[str, float]:
    """Means over the positions of some examples, evenly chosen."""
    import numpy as np

    if store.manifest.vocab_size is None or not len(store):
        return {}
    keys = list(store.keys())
    rows = store.read(keys[:: max(len(keys) // _SAMPLE, 1)]).rows
    assert rows is not None
    kept = rows.ids < store.manifest.vocab_size
    figures = {
        "entropy_nats": np.nanmean(rows.entropy),
        "next_token_cross_entropy_nats": -np.nanmean(rows.target),
        "probability_of_the_tail": np.exp(rows.tail).mean(),
        "kept_columns": kept.sum(-1).mean(),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}


def _verify(path: Path) -> dict[str, Any]:
    from .store import verify

    problems = dict(verify(path))
    damaged = {name: problem for name, problem in problems.items() if problem is not None}
    return {"cache": str(path), "shards": len(problems), "damaged": damaged}


def _compare(one: Path, other: Path) -> dict[str, Any]:
    import numpy as np

    from .store import CacheStore

    stores = {str(path): CacheStore(path) for path in (one, other)}
    first, second = stores.values()
    for name, found in first.manifest.fingerprints.items():
        if (theirs := second.manifest.fingerprints.get(name)) != found:
            raise ValueError(
                f"{one} and {other} are of another {name} ({found} and {theirs}), so that no example of the one has a "
                "counterpart in the other. Compare two captures of one teacher."
            )
    vocab_size = first.manifest.vocab_size
    if vocab_size is None or second.manifest.vocab_size is None:
        raise ValueError("One of the caches holds no distributions over a vocabulary; there is nothing to compare.")
    common = [key for key in first.keys() if key in second]
    result: dict[str, Any] = {path: _sizes(store) for path, store in stores.items()}
    result["common_examples"] = len(common)
    if common:
        sample = common[:: max(len(common) // _SAMPLE, 1)]
        rows = [store.read(sample).rows for store in stores.values()]
        assert rows[0] is not None
        assert rows[1] is not None
        forward, agreement = _divergence(rows[0], rows[1], vocab_size)
        result["sample"] = {
            f"KL({one} || {other})_nats": round(float(np.mean(forward)), 5),
            f"KL({other} || {one})_nats": round(float(np.mean(_divergence(rows[1], rows[0], vocab_size)[0])), 5),
            "same_most_likely_token": round(float(np.mean(agreement)), 4),
        }
    return result


def _divergence(rows: TokenRows, others: TokenRows, vocab_size: int) -> tuple[Any, Any]:
    """KL of each position, the tails spread equally; and whether both have the same most likely id."""
    import torch

    from ..batch.signals import SparseRows
    from ..losses.sparse import forward_kl

    sparse = []
    for one in (rows, others):
        ids, log_probs, tail = map(torch.from_numpy, (one.ids, one.log_probs, one.tail))
        sparse.append(SparseRows(ids, log_probs, tail, vocab_size))
    parts = []
    for start in range(0, len(rows), 64):
        part = slice(start, start + 64)
        parts.append(forward_kl(sparse[1][part].logits(), sparse[0][part]))
    best = [one.ids.gather(-1, one.log_probs.argmax(-1, keepdim=True)) for one in sparse]
    return torch.cat(parts).numpy(), (best[0] == best[1]).numpy()


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in _flat(result):
        table.add_row(name, Text(f"{value:,}" if isinstance(value, int) else str(value)))
    Console().print(table)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name} ") or [(f"{prefix}{name}", "none")]
        else:
            rows.append((f"{prefix}{name}", value))
    return rows
