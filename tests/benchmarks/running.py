"""Runs cases: first checks that their forms compute the same, then times them in turn and measures their memory."""

from __future__ import annotations

import dataclasses
import datetime
import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.catlib.distributed.machines import device_name, torch_machine
from components.catlib.errors import UserError
from components.catlib.timing import Machine, Measured, busy, measure, ratio
from tests.benchmarks.cases import CASES
from tests.benchmarks.peaks import measure_peaks

STEP_COSTS = Path(__file__).parents[2] / "pipelines" / "step_costs.json"

FACTORS = (0.25, 0.5, 1.0)
"""What a property of a step is multiplied by, to see how its time and memory grow."""

AXES = ("size", "batch", "width")


def run_all(
    names: list[str],
    *,
    device: str,
    scale: str,
    threads: int,
    repeats: int,
    seconds: float,
    growth: bool,
    output: Path | None,
    resume: bool = False,
) -> dict[str, Any]:
    """Runs cases and returns the JSON; with a file, every case is written to it when it ends.

    With `resume`, cases that the file holds are not run again; raises UserError if it is of another machine.
    """
    machine = _machine(device, threads)
    results = _begin(output if resume else None, device=device, scale=scale, threads=threads)
    torch.set_num_threads(threads)
    if "peaks" not in results:
        results["peaks"] = measure_peaks(device, scale, machine)
    for name in names:
        if name in results["cases"]:
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        results["cases"][name] = run_case(
            name, device=device, scale=scale, machine=machine, repeats=repeats, seconds=seconds, growth=growth
        )
        results["load"] = max(filter(None, (results["load"], busy())), default=None)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            partial = output.with_name(f"{output.name}.partial")
            partial.write_text(json.dumps(results, indent=1) + "\n")
            partial.replace(output)  # whole or not at all: --resume reads it
    return results


def run_case(
    name: str, *, device: str, scale: str, machine: Machine, repeats: int, seconds: float, growth: bool = False
) -> dict[str, Any]:
    """Runs one case and returns its part of the JSON.

    Raises:
        AssertionError: The forms do not compute the same.
    """
    case = CASES[name]
    torch.manual_seed(0)
    forms = case.make(device, scale)
    difference = forms.difference()
    assert difference <= forms.tolerance, f"{name}: the forms differ by {difference:.1e}"
    warmup = 1 if case.heavy else 3
    times = measure(forms.calls, repeats=repeats, warmup=warmup, machine=machine, seconds=seconds, memory=True)
    found = {
        "what": case.what,
        "difference": difference,
        "flops": forms.flops,
        **forms.facts,
        "forms": {form: _figures(each, times["plain"], forms.flops) for form, each in times.items()},
    }
    if growth and case.grows is not None:
        found["growth"] = {axis: _growth(name, axis, device=device, scale=scale, machine=machine) for axis in AXES}
    del forms
    gc.collect()
    return found


def _figures(each: Measured, plain: Measured, flops: int | None) -> dict[str, Any]:
    return {
        "seconds": each.median,
        "p95": each.p95,
        "spread": each.spread,
        "rounds": len(each.seconds),
        "speedup": ratio(plain, each),
        "flops_per_second": flops / each.median if flops else None,
        "host_bytes": each.host_bytes,
        "device_bytes": each.device_bytes,
    }


def _growth(name: str, axis: str, *, device: str, scale: str, machine: Machine) -> dict[str, Any]:
    """Returns by axis the factors and figures of both forms, and the exponent of a fitted power of the factor."""
    grows = CASES[name].grows
    assert grows is not None
    points: list[dict[str, Measured]] = []
    factors = [factor for factor in FACTORS if _possible(name, axis, factor, scale)]
    for factor in factors:
        forms = grows(device, scale, axis, factor)
        points.append(measure(forms.calls, repeats=3, warmup=1, machine=machine, memory=True))
        del forms
        gc.collect()
    memory = "device_bytes" if device == "cuda" else "host_bytes"
    found: dict[str, Any] = {"factors": factors}
    for form in ("plain", "ours"):
        seconds = [point[form].median for point in points]
        sizes = [getattr(point[form], memory) or 0 for point in points]
        found[form] = {
            "seconds": seconds,
            "bytes": sizes,
            "exponent_of_time": _exponent(factors, seconds),
            "exponent_of_memory": _exponent(factors, sizes),
        }
    return found


def _possible(name: str, axis: str, factor: float, scale: str) -> bool:
    """SPADE's images must fit its up-sampling, and kernel alignment needs two images."""
    from tests.benchmarks.steps import EXTENTS

    _, family = name.split("-")
    extent = EXTENTS[scale][family].grown(axis, factor)
    smallest = {"normal": 32, "more": 64, "most": 128}[extent.upsampling] if family == "spade" else 32
    return min(extent.size) >= smallest and extent.batch >= 2 and extent.width >= 4


def _exponent(factors: list[float], values: list[float] | list[int]) -> float | None:
    """Fits values = c · factor^exponent by least squares of logarithms; None without two positive values."""
    if len(factors) < 2 or min(values) <= 0:
        return None
    return float(np.polyfit(np.log(factors), np.log(values), 1)[0])


def _machine(device: str, threads: int) -> Machine:
    """Its peak is what a call adds to the memory that stays in use: the weights of the other forms do not count."""
    machine = torch_machine(device, threads=threads)
    if machine.peak is None:
        return machine
    return dataclasses.replace(machine, peak=lambda: torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated())


def _begin(output: Path | None, *, device: str, scale: str, threads: int) -> dict[str, Any]:
    about = {
        "machine": device_name(device, threads=threads),
        "device": device,
        "threads": threads,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if device == "cuda" else None,
        "scale": scale,
    }
    if output is not None and output.exists():
        try:
            earlier = json.loads(output.read_text())
        except ValueError:
            raise UserError(f"{output} is not JSON; give another --output, or leave out --resume.") from None
        if {name: earlier.get(name) for name in about} == about:
            return earlier
        raise UserError(
            f"{output} holds results of another machine, torch or scale; give another --output, or leave out --resume."
        )
    return {**about, "date": datetime.date.today().isoformat(), "load": busy(), "cases": {}}


def step_costs(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the costs of the steps among the results, as `pipelines/step_costs.json` holds them."""
    return [
        {
            "device": results["device"],
            "machine": results["machine"],
            "precision": "fp32",
            "torch": results["torch"],
            "date": results["date"],
            "family": name.split("-")[1],
            "stage": name.split("-")[0],
            "batch_size": case["batch_size"],
            "size": case["size"],
            "work_macs": case["work_macs"],
            "seconds": case["forms"]["ours"]["seconds"],
            "flops": case["flops"],
        }
        for name, case in results["cases"].items()
        if "work_macs" in case
    ]


def write_step_costs(path: Path, costs: list[dict[str, Any]]) -> None:
    """Puts costs into the file, in the place of earlier ones of the same machine, family, stage and precision."""

    def key(cost: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(cost[name] for name in ("device", "machine", "precision", "family", "stage"))

    earlier = json.loads(path.read_text())["measured"] if path.exists() else []
    new = {key(cost) for cost in costs}
    measured = [cost for cost in earlier if key(cost) not in new] + costs
    lines = ",\n".join(f"  {json.dumps(cost)}" for cost in measured)
    path.write_text('{"measured": [\n' + lines + "\n]}\n")
