"""Every student builder against random initialisation, layer-drop or its own control, on real weights and real text.

    python benchmarks/students.py                 # all experiments, three seeds each, one core
    python benchmarks/students.py --only grow     # these; the results of the others stay as they are
    python benchmarks/students.py --only          # none: the table of what was found before

An experiment is a file in `builders/`; what it is, and what "shown" means, is told in `methods.py`. Its arms get the
same data, training budget and seeds. A direction that is not seen is a result and stays in the table. Results are kept
in results/students.json, with a table beside it, and are replaced experiment by experiment.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from experiments.frame import broken, experiment_names, load
from methods import console, read, run, table, write

RESULTS = Path(__file__).parent / "results" / "students.json"
PACKAGE, SCRIPT = "builders", "students.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiments that were asked for, keep and print the results, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="experiments to run, by the names of their files")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where results are kept; a table goes beside it")
    parser.add_argument("--check", action="store_true", help="exit with 1 where an experiment is broken or incomplete")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    known = load(experiment_names(PACKAGE), PACKAGE)
    if unknown := sorted(set(args.only or ()) - known.keys()):
        parser.error(f"there is no experiment {unknown[0]!r}; there are {', '.join(known)}")
    for name in known if args.only is None else args.only:
        console.rule(name)
        result = run(known[name], args.seeds)
        report = read(args.json)  # only now: other experiments may have been run meanwhile
        report["experiments"][name] = result
        write(report, known, args.json, script=SCRIPT)
    report = read(args.json)
    print(table(report, known, script=SCRIPT))
    found = {name: problem for name in known if (problem := broken(known[name], report["experiments"].get(name)))}
    for name, problem in found.items():
        console.print(f"{name}: {problem}", style="red", highlight=False)
    return int(args.check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
