"""Times everything that takes long, the plain form beside ours: `make bench`, or `python -m tests.benchmarks`."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

import torch

from components.catlib.errors import UserError
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
    parser.add_argument(
        "--threads", type=_positive, help="CPU threads of torch (default: one per core that may be used)"
    )
    parser.add_argument("--repeats", type=_positive, default=20, help="timed rounds of a case at most (default: 20)")
    parser.add_argument("--seconds", type=_seconds, default=20, help="time for the rounds of a case (default: 20)")
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
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("DEVICE=cuda needs a GPU, and torch finds none; leave DEVICE out to measure the CPU.", file=sys.stderr)
        return 2
    if chosen.output is not None and (reason := _unwritable(chosen.output)):
        print(f"--output {chosen.output} cannot be written ({reason}); choose another path.", file=sys.stderr)
        return 2
    logging.disable(logging.WARNING)  # stages log what they do
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        results = run_all(
            names,
            device=chosen.device,
            scale=chosen.scale or ("full" if chosen.device == "cuda" else "normal"),
            threads=chosen.threads or cores,
            repeats=chosen.repeats,
            seconds=chosen.seconds,
            growth=chosen.growth,
            output=chosen.output,
            resume=chosen.resume,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = (
            "nothing is kept without --output" if chosen.output is None else "with --resume, the same command goes on"
        )
        print(f"interrupted: {kept}.", file=sys.stderr)
        return 75
    finally:
        logging.disable(logging.NOTSET)
    print(table(results))
    if chosen.step_costs:
        write_step_costs(STEP_COSTS, step_costs(results))
    if chosen.output is None:
        print(json.dumps(results))
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) > 0:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")


def _unwritable(output: Path) -> str | None:
    """Returns why a file cannot be written, before minutes are spent on what belongs into it; None: it can."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            return "it is a folder" if output.is_dir() else None
    except OSError as error:
        return error.strerror


if __name__ == "__main__":
    sys.exit(main())
