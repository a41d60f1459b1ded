"""Times everything that takes long, the plain form beside ours: `make bench`, or `python -m tests.benchmarks`."""

from __future__ import annotations

import argparse
import fnmatch
import json
import logging
import math
import os
import sys
from pathlib import Path

from tests.benchmarks.cases import CASES
from tests.benchmarks.report import table
from tests.benchmarks.running import STEP_COSTS, run_all, step_costs, write_step_costs


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--only", default="*", help="names of cases, with * and ?, separated by commas; see --list")
    parser.add_argument(
        "--scale", choices=("tiny", "normal", "full"), help="how large (default: normal; with cuda full; tiny: a trial)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: one per core that may be used)")
    parser.add_argument("--repeats", type=int, default=20, help="timed rounds of a case at most (default: 20)")
    parser.add_argument("--seconds", type=float, default=20, help="time for the rounds of a case (default: 20)")
    parser.add_argument("--growth", action="store_true", help="also time steps at other sizes, batches and widths")
    parser.add_argument("--output", type=Path, help="JSON file of the results")
    parser.add_argument("--resume", action="store_true", help="do not run cases again that the file of --output holds")
    parser.add_argument(
        "--step-costs", action="store_true", help=f"write the costs of steps to {STEP_COSTS}, which estimates use"
    )
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        print("\n".join(f"{name:18} {case.what}; plain: {case.plain}" for name, case in CASES.items()))
        return 0
    patterns = [pattern.strip() for pattern in chosen.only.split(",")]
    names = [name for name in CASES if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if not names:
        print(f"--only {chosen.only} names none of the cases {', '.join(CASES)}.", file=sys.stderr)
        return 2
    logging.disable(logging.WARNING)  # stages log what they do
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    results = run_all(
        names,
        device=chosen.device,
        scale=chosen.scale or ("full" if chosen.device == "cuda" else "normal"),
        threads=chosen.threads or cores,
        repeats=chosen.repeats,
        seconds=chosen.seconds if chosen.repeats else math.inf,
        growth=chosen.growth,
        output=chosen.output,
        resume=chosen.resume,
    )
    print(table(results))
    if chosen.step_costs:
        write_step_costs(STEP_COSTS, step_costs(results))
    if chosen.output is None:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
