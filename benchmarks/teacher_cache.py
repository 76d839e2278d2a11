"""The teacher cache: bytes per token, what they keep of the teacher, and how fast they are written and read.

    python benchmarks/teacher_cache.py --json benchmarks/results/teacher_cache.json --check
    python benchmarks/teacher_cache.py --distillkit path/to/DistillKit

Logits are those of real models on text that they were not trained on, from the folder that HF_DISTILL_SHARED_DATA
names: "teacher_lm" (V = 4,096, eleven domains) and "stories260k" (V = 512). No model with a big vocabulary is there:
"teacher_lm split" has V = 151,936, made of teacher_lm's by splitting the mass of each token among 37 or so words by
Zipf's law, the same way at each position; ids are numbered at random, so that they have no pattern to use. It is there
for the bytes: so flat a tail makes its KL larger than real models', for all methods alike.

Everything on the disk is counted, but "in order" codes ids in the order of frequency of other text by the same model's
tokenizer, and that order (4 bytes a word, once) is counted as for a capture of 1,000,000 tokens.

KL is from the teacher to what is stored, normalised, with what is left spread equally over all that is not kept. Plain
top-k packs ids in as many bits as the vocabulary needs, beside log-probabilities in bfloat16. DistillKit (a checkout of
arcee-ai/DistillKit) compresses with the "recommended" and "budget" settings of its README, counted by itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Threads that wait give up their core: beside other work, spinning ones would measure the neighbours.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import transformers
from teacher_logits import BIG, LENGTH, SHARED, Source, sources
from torch import Tensor

from hf_distill.cache.manifest import Manifest
from hf_distill.cache.ordering import by_frequency
from hf_distill.cache.rows import BOUND, TokenRows
from hf_distill.cache.store import CacheStore
from hf_distill.cache.writer import CacheWriter

BATCH = 8  # sequences read at once
CAPTURE = 1_000_000  # tokens that share the order of the vocabulary
LEAST = 1e-6  # what is left where a method stores that nothing is
OURS, ORDERED, PLAIN = "hf_distill", "hf_distill, in order", "plain top-k, bfloat16"
RECOMMENDED, BUDGET = "DistillKit, recommended", "DistillKit, budget"
DISTILLKIT = {
    RECOMMENDED: {"k": 128, "exact_k": 16, "polynomial_terms": [0, 1, 2, 3, 4, "sqrt"]},
    BUDGET: {"k": 50, "exact_k": 1, "polynomial_terms": [0, 1, "sqrt"]},
}


@dataclass
class Result:
    """What one method does with one source."""

    source: str
    vocab_size: int
    method: str
    k: int
    bytes: float
    kl: float
    worst: float
    encode: float | None = None
    decode: float | None = None


def main() -> int:
    """Run the comparison, print the tables, and give the exit status."""
    args = parse_arguments()
    if not SHARED.is_dir():
        print(f"skipped: {SHARED} is not there; set HF_DISTILL_SHARED_DATA to the folder of shared data")
        return 0
    torch.set_num_threads(args.threads)
    compressor = load_distillkit(args.distillkit)
    load = [os.getloadavg()[0]]
    results = []
    for source in sources(args.sequences, args.split_sequences):
        for one in measure(source, compressor, args):
            results.append(one)
            print(render_result(one), flush=True)
    load.append(os.getloadavg()[0])
    held = checks(results)
    text = render(results, held, load, args, compressor)
    print(text)
    if args.json:
        report = {"date": datetime.date.today().isoformat(), "machine": machine(), "load": load, "rows": rows(results)}
        report |= {"results": [asdict(one) for one in results], "checks": held}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        args.json.with_suffix(".md").write_text(text)
    return int(args.check and not all(held.values()))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, nargs="+", default=[8, 32, 50, 128], help="ids kept for each position")
    parser.add_argument("--sequences", type=int, default=8, help=f"of {LENGTH} tokens, from each of the domains")
    parser.add_argument("--split-sequences", type=int, default=16, help="that the big vocabulary is made for")
    parser.add_argument("--rounds", type=int, default=5, help="of reading and writing; their median is told")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; the cache itself uses one")
    parser.add_argument("--distillkit", type=Path, help="a checkout of arcee-ai/DistillKit, to run its compressor")
    parser.add_argument("--json", type=Path, help="write the figures here, and a table beside them (.md)")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a promise is broken")
    return parser.parse_args()


# ---- Methods ----


def measure(source: Source, compressor: Any, args: argparse.Namespace) -> Iterator[Result]:
    """All methods on one source."""
    vocab_size = source.log_probs.shape[1]
    for k in args.k:
        if k > vocab_size:
            continue
        values, ids = source.log_probs.topk(k)
        kept = token_rows(source, values, ids)
        for method in (OURS, ORDERED):
            yield ours(source, kept, method, args)
        bits = k * (math.ceil(math.log2(vocab_size)) + 16)
        stored = values.bfloat16().float()
        yield result(source, PLAIN, k, bits / 8, ids, stored, left_over(stored))
    for method, options in DISTILLKIT.items() if compressor is not None else ():
        yield distillkit(source, compressor, method, options, args)


def token_rows(source: Source, values: Tensor, ids: Tensor) -> TokenRows:
    """What is kept of a source."""
    entropy = torch.cat([-(part.exp() * part).sum(-1) for part in source.log_probs.split(256)])
    following = source.log_probs.gather(1, source.tokens[:, None])[:, 0]
    tail = torch.log1p(-values.double().exp().sum(-1).clamp(max=1 - 1e-12))
    return TokenRows(ids.numpy(), values.numpy(), tail.numpy(), following.numpy(), entropy.numpy())


def ours(source: Source, kept: TokenRows, method: str, args: argparse.Namespace) -> Result:
    """A store on the disk, written and read."""
    vocab_size, k = source.log_probs.shape[1], kept.ids.shape[1]
    keys = [number.to_bytes(16, "big") for number in range(len(kept) // LENGTH)]
    order = by_frequency(source.frequency) if method == ORDERED else None
    manifest = Manifest({"teacher": "0" * 64, "tokenizer": "0" * 64}, vocab_size=vocab_size, k=k)
    writing, reading = [], []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            with CacheWriter(folder, manifest, order=order) as writer:
                start = time.perf_counter()
                for i in range(0, len(keys), BATCH):
                    part = kept[i * LENGTH : (i + BATCH) * LENGTH]
                    writer.add(keys[i : i + BATCH], part, [LENGTH] * (len(part) // LENGTH))
                writer.flush()
                writing.append(len(kept) / (time.perf_counter() - start))
            store = CacheStore(folder)
            store.read(keys[:1])
            start = time.perf_counter()
            for i in range(0, len(keys), BATCH):
                store.read(keys[i : i + BATCH])
            reading.append(len(kept) / (time.perf_counter() - start))
            once = vocab_size * 4 if order is not None else 0
            size = (store.num_bytes - once) / len(kept) + once / CAPTURE
            found = store.read(keys).rows
    assert found is not None
    tail = torch.from_numpy(found.tail).double().exp()
    one = result(source, method, k, size, torch.from_numpy(found.ids), torch.from_numpy(found.log_probs), tail)
    for name in ("tail", "target", "entropy"):
        error = np.abs(getattr(found, name).astype(np.float64) - getattr(kept, name)).max()
        one.worst = max(one.worst, float(error))
    one.encode, one.decode = statistics.median(writing), statistics.median(reading)
    return one


def load_distillkit(path: Path | None) -> Any:
    """DistillKit's module of compression, or None with the reason printed."""
    if path is None:
        print("DistillKit: skipped, no --distillkit")
        return None
    sys.path.insert(0, str(path))
    try:
        from distillkit import compression
    except ImportError as error:
        print(f"DistillKit: skipped, {error}")
        return None
    return compression


def distillkit(
    source: Source, compression: Any, method: str, options: dict[str, Any], args: argparse.Namespace
) -> Result:
    """DistillKit's own compressor; its times are of compressing and decompressing alone, without files."""
    fixed = {"exact_dtype": "bfloat16", "term_dtype": "float32", "residual_bins": [], "delta_encoding": False}
    config = compression.DistributionQuantizationConfig(d=source.log_probs.shape[1], **options, **fixed)
    compressor = compression.LogprobCompressor(config)
    values, ids = source.log_probs.topk(options["k"])
    parts = list(zip(ids.split(BATCH * LENGTH), values.split(BATCH * LENGTH), strict=True))
    n = len(ids)
    packed, encode = timed(lambda: [compressor.compress_from_sparse(*part) for part in parts], args.rounds)
    found, decode = timed(lambda: [compressor.decompress_to_sparse(part) for part in packed], args.rounds)
    found_ids, stored = (torch.cat([part[place] for part in found]) for place in (0, 1))
    one = result(source, method, options["k"], config.total_bits() / 8, found_ids, stored, left_over(stored))
    one.encode, one.decode = n / encode, n / decode
    return one


def timed(function: Callable[[], Any], rounds: int) -> tuple[Any, float]:
    """What a function returns, and the median of its seconds."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = function()
        seconds.append(time.perf_counter() - start)
    return found, statistics.median(seconds)


def left_over(stored: Tensor) -> Tensor:
    """The mass of the tail where it is not stored: what the stored ids leave."""
    return 1 - stored.double().exp().sum(-1)


def result(source: Source, method: str, k: int, size: float, ids: Tensor, stored: Tensor, tail: Tensor) -> Result:
    """The size, KL and worst error of what is stored: log-probabilities of `ids`, and the mass of the tail."""
    n, vocab_size = source.log_probs.shape
    true = source.log_probs.gather(1, ids).double()
    kept = stored.double()
    worst = (kept - true).abs().max().item()
    left = vocab_size - k
    tail = tail.clamp(min=LEAST) if left else torch.zeros(n, dtype=torch.float64)
    total = torch.logsumexp(torch.cat([kept, tail.log()[:, None]], dim=1), dim=1)
    negative_entropy = torch.cat([(part.exp() * part.double()).sum(-1) for part in source.log_probs.split(256)])
    cross = (true.exp() * (kept - total[:, None])).sum(-1)
    if left:
        cross += (1 - true.exp().sum(-1)).clamp(min=0) * ((tail / left).log() - total)
    return Result(source.name, vocab_size, method, k, size, (negative_entropy - cross).mean().item(), worst)


# ---- The report ----


def rows(results: list[Result]) -> list[dict[str, Any]]:
    """One row per figure of ours: what, figure, unit, and what to hold it against, plain top-k's and DistillKit's."""
    units = {"bytes": "bytes a token", "kl": "nats", "worst": "nats", "encode": "positions/s", "decode": "positions/s"}
    names = {"bytes": "size", "kl": "KL(teacher || stored)", "worst": "worst error", "encode": "writing"}
    found = []
    for one, peer in pairs(results, PLAIN) + pairs(results, *DISTILLKIT):
        about = f"{one.source}, V={one.vocab_size:,}, {one.method}, k={one.k}"
        for field, unit in units.items():
            if (against := getattr(peer, field)) is not None:
                what = f"{about}: {names.get(field, 'reading')}, against {peer.method}"
                figure = round(getattr(one, field), 5)
                found.append({"what": what, "figure": figure, "unit": unit, "against": round(against, 5)})
    return found


def pairs(results: list[Result], *methods: str) -> list[tuple[Result, Result]]:
    """Ours beside those of other methods for the same source and k."""
    peers = {(one.source, one.k): one for one in results if one.method in methods}
    return [(r, peers[r.source, r.k]) for r in results if r.method in (OURS, ORDERED) and (r.source, r.k) in peers]


def checks(results: list[Result]) -> dict[str, bool]:
    """What the project promises of the cache, and whether it held everywhere."""
    own = [one for one in results if one.method in (OURS, ORDERED)]
    k32 = [one for one in own if one.k == 32]
    largest = max((one.bytes for one in k32), default=math.nan)
    slowest = min((one.decode or 0 for one in k32), default=math.nan)
    plain = pairs(results, PLAIN)
    above = max(one.kl - peer.kl for one, peer in plain)
    held = {
        "no stored number is off by more than 1/32 nat": all(one.worst <= BOUND for one in own),
        f"k=32: at most 96 bytes a token (found {largest:.1f})": largest <= 96,
        f"k=32: at least 100,000 positions a second are read (found {slowest:,.0f})": slowest >= 100_000,
        "smaller than plain top-k": all(one.bytes < peer.bytes for one, peer in plain),
        f"KL at most 0.002 nats above plain top-k's (found {above:.5f})": above <= 0.002,
    }
    if kits := pairs(results, *DISTILLKIT):
        held["closer to the teacher than DistillKit at the same k"] = all(one.kl < peer.kl for one, peer in kits)
        big = [(one, peer) for one, peer in kits if one.vocab_size == BIG]
        held[f"V={BIG:,}: smaller than DistillKit at the same k"] = all(one.bytes < peer.bytes for one, peer in big)
    return held


def render_result(one: Result) -> str:
    """One row of the Markdown table."""
    speeds = " | ".join("" if speed is None else f"{speed:,.0f}" for speed in (one.encode, one.decode))
    numbers = f"{one.bytes:.1f} | {one.kl:.4f} | {one.worst:.4f}"
    return f"| {one.source} | {one.vocab_size:,} | {one.k} | {one.method} | {numbers} | {speeds} |"


def render(
    results: list[Result], held: dict[str, bool], load: list[float], args: argparse.Namespace, compressor: Any
) -> str:
    """The report as Markdown."""
    command = " ".join(part for part in sys.argv[1:] if not part.endswith(".json"))
    if args.distillkit:
        command = command.replace(str(args.distillkit), "DistillKit")
    text = [
        "# The teacher cache",
        "",
        f"{datetime.date.today().isoformat()}. {machine()}. Load average {load[0]:.1f} at the start, {load[1]:.1f} at "
        "the end.",
        f"Made by `python benchmarks/teacher_cache.py {command}`; how is told in its first lines. Sequences of "
        f"{LENGTH} tokens, read {BATCH} at a time by one thread; medians over {args.rounds} rounds."
        + ("" if compressor is not None else " DistillKit was not there."),
        "",
        "| teacher | vocabulary | k | method | bytes a token | KL, nats | worst error, nats | written/s | read/s |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|",
        *map(render_result, results),
        "",
        "Checks:",
        "",
        *(f"- {'holds' if ok else '**does not hold**'}: {what}" for what, ok in held.items()),
    ]
    losses = [(one, peer) for one, peer in pairs(results, *DISTILLKIT) if one.bytes >= peer.bytes]
    text += [""] * bool(losses) + [
        f"{peer.method} is smaller ({peer.bytes:.1f} to {one.bytes:.1f} bytes, KL {peer.kl:.4f} to {one.kl:.4f}) for "
        f"{one.source}, k={one.k}, {one.method}."
        for one, peer in losses
    ]
    return "\n".join(text) + "\n"


def machine() -> str:
    """Where and with what this ran."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}, {versions}"


if __name__ == "__main__":
    sys.exit(main())
