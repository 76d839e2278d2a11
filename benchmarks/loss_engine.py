"""Distillation losses on logits: time over the bare matrix products and extra peak memory, of the engine and of peers.

    python benchmarks/loss_engine.py --json results.json --check
    python benchmarks/loss_engine.py --vocab 32000 --rows 512 --losses forward_kl
    python benchmarks/loss_engine.py --losses all    # those above, and a row of each registered row loss

Everything gets the same hidden states and two linear heads, and gives the gradients of the student's states and head.
"bare" is what any method must do: both projections and both products of the gradient, over the whole batch at once; one
projection more where a loss listens to two teachers. What takes the engine over 1.6 times as long is marked.
Times are taken in rounds; in each, every method runs once, and its time is divided by that of "bare" of the same round.
The table holds medians over the rounds. Peaks are taken in a fresh process per figure, without the head's own gradient.
Peers that are not installed (trl, liger-kernel) are left out, with the reason.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Threads that wait give up their core: beside other work, spinning ones would measure the neighbours.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F
from row_losses import num_teachers, row_columns, row_loss, row_loss_names, temperature
from torch import Tensor, nn

from hf_distill.batch.signals import Rows
from hf_distill.losses.engine import RowTerm, row_losses
from hf_distill.models.heads import Head

MEGABYTE = 1e6
METHODS = ("bare", "plain", "liger", "trl", "engine")
LOSSES = ("forward_kl", "reverse_kl", "jsd", "plugin")
LIMIT = 1.6  # times the bare products; a loss above it is looked into
BETAS = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}  # as TRL and Liger number them


def total_variation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """What a plugin's author would write: a plain function, differentiated by autograd."""
    return 0.5 * (student_logits.softmax(-1) - teacher_logits.softmax(-1)).abs().sum(-1)


@dataclass
class Problem:
    """The inputs that all methods share."""

    states: Tensor
    weight: nn.Parameter
    teacher_states: Tensor
    teacher_weight: Tensor

    @classmethod
    def make(cls, rows: int, vocab: int, args: argparse.Namespace) -> Problem:
        """Draw the inputs in place, so that no copy counts as peak memory."""
        torch.manual_seed(0)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.empty(*shape, device=args.device, dtype=getattr(torch, args.dtype)).normal_(std=scale)

        return cls(
            states=draw(rows, args.hidden).requires_grad_(),
            weight=nn.Parameter(draw(vocab, args.hidden, scale=2 * args.hidden**-0.5)),
            teacher_states=draw(rows, args.teacher_hidden),
            teacher_weight=draw(vocab, args.teacher_hidden, scale=2 * args.teacher_hidden**-0.5),
        )

    def gradients(self, total: Tensor) -> tuple[Tensor, ...]:
        """Gradients of the student's states and head."""
        return torch.autograd.grad(total, [self.states, self.weight])


def bare(problem: Problem, loss: str) -> tuple[Tensor, ...]:
    """The four matrix products."""
    states, weight = problem.states.detach(), problem.weight.detach()
    logits = states @ weight.T
    for _ in range(_num_teachers(loss)):
        problem.teacher_states @ problem.teacher_weight.T
    return logits @ weight, logits.T @ states


def plain(problem: Problem, loss: str) -> tuple[Tensor, ...]:
    """Whole logits and ordinary autograd."""
    student = (problem.states @ problem.weight.T).float()
    teacher = (problem.teacher_states @ problem.teacher_weight.T).float()
    if loss not in BETAS:
        teachers = [teacher] * _num_teachers(loss)
        values = _function(loss)(student, *teachers, **_columns(problem, loss), **temperature(loss))
        return problem.gradients(values.sum() / len(student))
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    if loss == "forward_kl":
        value = F.kl_div(log_q, log_p, log_target=True, reduction="sum")
    elif loss == "reverse_kl":
        value = F.kl_div(log_p, log_q, log_target=True, reduction="sum")
    else:
        log_m = torch.logaddexp(log_q, log_p) - torch.log(torch.tensor(2.0))
        value = F.kl_div(log_m, log_p, log_target=True, reduction="sum")
        value = 0.5 * (value + F.kl_div(log_m, log_q, log_target=True, reduction="sum"))
    return problem.gradients(value / len(student))


def liger(problem: Problem, loss: str) -> tuple[Tensor, ...]:
    """Liger's fused linear JSD, not compiled; it always computes a cross-entropy too, here of weight 0."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    function = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETAS[loss], compiled=False)
    labels = torch.zeros(len(problem.states), dtype=torch.long, device=problem.states.device)
    inputs = problem.states, problem.weight, problem.teacher_states, problem.teacher_weight
    return problem.gradients(function(*inputs, labels))


def trl(problem: Problem, loss: str) -> tuple[Tensor, ...]:
    """TRL's tiled divergence, with PyTorch operations where there is no Triton device."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    student, teacher = (problem.states, problem.weight, None), (problem.teacher_states, problem.teacher_weight, None)
    values, _ = ChunkedDivergenceFunction.apply(*student, *teacher, BETAS[loss])
    return problem.gradients(values.mean())


def engine(problem: Problem, loss: str) -> tuple[Tensor, ...]:
    """hf_distill's."""
    names = tuple(f"teacher {index}" for index in range(_num_teachers(loss)))
    student = Rows(states=problem.states, head=_linear(problem.weight))
    teachers = {name: Rows(states=problem.teacher_states, head=_linear(problem.teacher_weight)) for name in names}
    term = RowTerm(loss, _function(loss), 1 / len(problem.states), teachers=names)
    return problem.gradients(row_losses(student, teachers, [term], columns=_columns(problem, loss)).total)


def _function(loss: str) -> Callable[..., Tensor]:
    return total_variation if loss == "plugin" else row_loss(loss)


def _num_teachers(loss: str) -> int:
    return 1 if loss == "plugin" else num_teachers(loss)


def _columns(problem: Problem, loss: str) -> dict[str, Tensor]:
    if loss == "plugin":
        return {}
    return row_columns(loss, len(problem.states), len(problem.weight), problem.states.device.type)


def _linear(weight: Tensor) -> Head:
    model = nn.Module()
    model.lm_head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    model.lm_head.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, requires_grad=False)
    return Head(model, model.lm_head, ())


RUN = {"bare": bare, "plain": plain, "liger": liger, "trl": trl, "engine": engine}


def reason_to_skip(method: str, loss: str, rows: int, vocab: int, args: argparse.Namespace) -> str | None:
    """Why `method` is left out here, or None."""
    if method in ("liger", "trl") and loss not in BETAS:
        return "takes no loss but its own"
    # Copies of the logits that live at a time; others use this machine, too.
    copies = {"plain": 14 if loss == "jsd" else 9, "bare": 2}.get(method, 0)
    needed = copies * rows * vocab * 4
    if args.device == "cpu" and needed > (free := _available_memory()) * 0.7:
        return f"needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
    try:
        small = argparse.Namespace(**{**vars(args), "hidden": 16, "teacher_hidden": 24})
        problem = Problem.make(40, 100, small)
        found, expected = RUN[method](problem, loss), plain(problem, loss)
    except Exception as error:  # not installed, or does not run here
        return f"{type(error).__name__}: {error}".splitlines()[0]
    if method != "bare":  # whoever is compared computes the same
        tolerance = 1e-4 if args.dtype == "float32" else 5e-2
        for one, other in zip(found, expected, strict=True):
            assert (one - other).norm() <= tolerance * other.norm(), f"{method} differs from plain PyTorch in {loss}"
    return None


def _available_memory() -> int:
    return _field("/proc/meminfo", "MemAvailable")


def _resident(field: str) -> int:
    return _field("/proc/self/status", field)


def _field(path: str, name: str) -> int:
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def seconds(method: str, problem: Problem, loss: str) -> float:
    """Wall time of one run."""
    on_gpu = problem.states.is_cuda
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    RUN[method](problem, loss)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_megabytes(method: str, loss: str, rows: int, vocab: int, args: argparse.Namespace) -> float:
    """Extra peak memory in a process of its own, without the head's gradient."""
    case = ["--measure", method, loss, str(rows), str(vocab)]
    shared = ["hidden", "teacher_hidden", "device", "dtype", "threads"]
    options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in shared]
    finished = subprocess.run([sys.executable, __file__, *case, *options], check=True, capture_output=True, text=True)
    return float(finished.stdout.splitlines()[-1])


def measure_here(args: argparse.Namespace) -> float:
    """What `peak_megabytes` runs in the new process."""
    method, loss, rows, vocab = args.measure[0], args.measure[1], int(args.measure[2]), int(args.measure[3])
    RUN[method](Problem.make(64, 2000, args), loss)  # libraries' own buffers are not of interest
    problem = Problem.make(rows, vocab, args)
    if problem.states.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = RUN[method](problem, loss)
        extra = torch.cuda.max_memory_allocated() - before
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (ru_maxrss starts with the parent's)
        before = _resident("VmRSS")
        kept = RUN[method](problem, loss)
        extra = _resident("VmHWM") - before
    return (extra - kept[1].nbytes) / MEGABYTE


def compare(vocab: int, loss: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One line of results per method."""
    methods = METHODS if loss in LOSSES else ("bare", "plain", "engine")
    reasons = {method: reason_to_skip(method, loss, args.rows, vocab, args) for method in methods}
    lines = [{"vocab": vocab, "loss": loss, "method": name, "skipped": reason} for name, reason in reasons.items()]
    problem = Problem.make(args.rows, vocab, args)
    times: dict[str, list[float]] = {method: [] for method, reason in reasons.items() if reason is None}
    for _ in range(args.rounds):
        for method in times:
            times[method].append(seconds(method, problem, loss))
    del problem
    for line in lines:
        own = times.get(str(line["method"]))
        if own:
            ratios = [one / reference for one, reference in zip(own, times["bare"], strict=True)]
            line |= {
                "seconds": statistics.median(own),
                "best_seconds": min(own),
                "over_bare": statistics.median(ratios),
            }
            line["peak_mb"] = peak_megabytes(str(line["method"]), loss, args.rows, vocab, args)
        print(render_line(line), flush=True)
    return lines


def checks(lines: list[dict[str, Any]], by_rows: list[dict[str, Any]]) -> dict[str, bool]:
    """What the project promises of its engine, and whether it held."""
    found = {(line["vocab"], line["loss"], line["method"]): line for line in lines if line["skipped"] is None}
    results = {}
    for (vocab, loss, method), line in found.items():
        if method != "engine":
            continue
        limit = 1.25 if loss in ("forward_kl", "reverse_kl") else LIMIT
        results[f"{loss}, {vocab}: at most {limit} times the bare products"] = line["over_bare"] <= limit
        if (other := found.get((vocab, loss, "plain"))) is not None:
            results[f"{loss}, {vocab}: not slower than plain PyTorch"] = line["over_bare"] <= other["over_bare"]
        if (other := found.get((vocab, loss, "trl"))) is not None:
            results[f"{loss}, {vocab}: at most half of TRL's time"] = line["over_bare"] <= other["over_bare"] / 2
        results[f"{loss}, {vocab}: at most 300 MB beside the head's gradient"] = line["peak_mb"] <= 300
    for line in by_rows:
        results[f"{line['loss']}, {line['vocab']}, {line['rows']} rows: at most 300 MB"] = line["peak_mb"] <= 300
    return results


def render_line(line: dict[str, Any]) -> str:
    """One row of the Markdown table."""
    start = f"| {line['vocab']:,} | {line['loss']} | {line['method']} |"
    if line["skipped"] is not None:
        return f"{start} | | {line['skipped']} |"
    flag = f" **(above {LIMIT})**" if line["method"] == "engine" and line["over_bare"] > LIMIT else ""
    return f"{start} {line['seconds']:.2f} | {line['over_bare']:.2f}{flag} | {line['peak_mb']:,.0f} MB |"


def render(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    config = report["config"]
    text = [
        "# Losses on logits: time and memory",
        "",
        f"{report['date']}. {report['hardware']}. {', '.join(f'{k} {v}' for k, v in report['versions'].items())}.",
        f"{config['rows']:,} rows, widths {config['hidden']} (student) and {config['teacher_hidden']} (teacher), "
        f"{config['dtype']}, {config['threads']} threads, medians over {config['rounds']} interleaved rounds. "
        f"Load average {report['load'][0]:.1f} at the start and {report['load'][1]:.1f} at the end.",
        f"Made by `python benchmarks/loss_engine.py {' '.join(report['arguments'])}`; how is told in its first lines.",
        "",
        "| vocabulary | loss | method | seconds | times bare products | extra peak, without the head's gradient |",
        "|---:|---|---|---:|---:|---:|",
        *map(render_line, report["results"]),
        "",
        "The engine's extra peak by number of rows:",
        "",
        "| vocabulary | loss | rows | extra peak |",
        "|---:|---|---:|---:|",
        *(f"| {r['vocab']:,} | {r['loss']} | {r['rows']:,} | {r['peak_mb']:,.0f} MB |" for r in report["by_rows"]),
        "",
        "Checks:",
        "",
        *(f"- {'holds' if held else '**does not hold**'}: {what}" for what, held in report["checks"].items()),
    ]
    return "\n".join(text) + "\n"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048, help="predictions in the batch")
    parser.add_argument("--vocab", type=int, nargs="+", default=[32000, 151936], help="columns of both heads")
    parser.add_argument("--hidden", type=int, default=896, help="width of the student")
    parser.add_argument("--teacher-hidden", type=int, default=2048, help="width of the teacher")
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), help='names, or "all"')
    parser.add_argument("--memory-rows", type=int, nargs="*", default=[512, 8192], help="rows of the memory table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--json", type=Path, help="write the figures here, and a table beside them (.md)")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the engine breaks a promise")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    known = list(dict.fromkeys([*LOSSES, *row_loss_names()]))
    args.losses = known if args.losses == ["all"] else args.losses
    if unknown := [loss for loss in args.losses if loss not in known]:
        parser.error(f"there is no row loss {unknown[0]!r}; there are {', '.join(known)}")
    return args


def main() -> int:
    """Run the comparison."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.measure:
        print(measure_here(args))
        return 0
    load = [os.getloadavg()[0]]
    lines = [line for vocab in args.vocab for loss in args.losses for line in compare(vocab, loss, args)]
    by_rows = [
        {"vocab": vocab, "loss": loss, "rows": rows, "peak_mb": peak_megabytes("engine", loss, rows, vocab, args)}
        for vocab in args.vocab
        for loss in args.losses
        for rows in args.memory_rows
    ]
    load.append(os.getloadavg()[0])
    packages = ["torch", "transformers", "trl", "liger-kernel"]
    report = {
        "date": datetime.date.today().isoformat(),
        "hardware": _hardware(args.device),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "config": {key: value for key, value in vars(args).items() if key not in ("json", "measure", "check")},
        "arguments": [argument for argument in sys.argv[1:] if not argument.endswith(".json")],
        "load": load,
        "results": lines,
        "by_rows": by_rows,
        "checks": checks(lines, by_rows),
    }
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        args.json.with_suffix(".md").write_text(render(report))
    print(render(report))
    return int(args.check and not all(report["checks"].values()))


def _hardware(device: str) -> str:
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {os.cpu_count()} cores, shared with other work"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
