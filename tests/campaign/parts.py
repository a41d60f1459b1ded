"""The table of the campaign: each part is one command of at most ten minutes on one card."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from components.catlib.distributed.machines import device_name
from components.catlib.timing import busy
from tests.campaign.steps import RECIPES, STAGES

ROOT = Path(__file__).parents[2]
GRACE = 20
"""Seconds that an interrupted training gets to save a checkpoint."""


@dataclass(frozen=True)
class Campaign:
    """What all parts have in common.

    Attributes:
        device: cpu or cuda.
        folder: Where results land: `PART.json`, and a folder of a part's own files.
        tiny: Whether everything is small, to try the parts.
    """

    device: str
    folder: Path
    tiny: bool

    def command(self, *arguments: str, check: bool = True, **environment: str) -> str:
        """Runs Python beside this process, in the folder of the code, and returns what it prints.

        If this process is interrupted, the other one gets `GRACE` seconds to save what it has.
        """
        with subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                printed, _ = process.communicate()
            except BaseException:
                process.terminate()
                try:
                    process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
        if check and process.returncode:
            raise RuntimeError(
                f"{' '.join(arguments[:4])} ended with exit code {process.returncode}: {printed[-2000:]}"
            )
        return printed


@dataclass(frozen=True)
class Part:
    """A part: what it shows, and how it runs; it returns the JSON of its result."""

    what: str
    run: Callable[[Campaign], dict[str, Any]]


def _tests(campaign: Campaign) -> dict[str, Any]:
    report = campaign.folder / "tests.xml"
    campaign.command(
        *(
            "-m",
            "pytest",
            "-c",
            "tests/gpu/pytest.ini",
            "--rootdir",
            ".",
            "tests/gpu",
            f"--junitxml={report.resolve()}",
        ),
        check=False,
        GPU_TESTS_DEVICE=campaign.device,
    )
    from xml.etree import ElementTree

    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    states = {
        f"{case.get('classname')}::{case.get('name')}": next(
            (child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed"
        )
        for case in cases
    }
    counts = {state: list(states.values()).count(state) for state in ("passed", "skipped", "failure", "error")}
    assert cases, "no test ran"
    return {**counts, "not passed": {name: state for name, state in states.items() if state != "passed"}}


def _bench(only: str, campaign: Campaign, *options: str) -> dict[str, Any]:
    """Runs cases of the bench; those that an interrupted run has finished are not repeated."""
    name = only.split("-")[0].strip("*,") + "".join(options)
    output = campaign.folder / f"bench{name}.json"
    scale = ("--scale", "tiny", "--repeats", "3", "--threads", "1") if campaign.tiny else ()
    campaign.command(
        *(
            "-m",
            "tests.benchmarks",
            "--device",
            campaign.device,
            "--only",
            only,
            "--output",
            str(output.resolve()),
            "--resume",
        ),
        *(*options, *scale),
    )
    return json.loads(output.read_text())


def _each_step(what: str, family: str, campaign: Campaign) -> dict[str, Any]:
    """Runs a measurement of every published recipe of a family and stage, each in a process of its own.

    What is measured is kept, whatever happens to the others.

    Raises:
        RuntimeError: Some failed, after all the others ran.
    """
    kept = campaign.folder / what
    kept.mkdir(parents=True, exist_ok=True)
    found, failed = {}, []
    for recipe, stage in product(RECIPES, STAGES):
        if ("gaugan" in recipe) != (family == "spade"):
            continue
        path = kept / f"{recipe}-{stage}.json"
        if not path.exists():
            options = (recipe, stage, campaign.device, str(int(campaign.tiny)), str(campaign.folder / "weights"))
            try:
                printed = campaign.command("-m", "tests.campaign.one_step", what, *options)
            except RuntimeError as error:
                failed.append(str(error))
                continue
            _write_whole(path, printed.strip().splitlines()[-1] + "\n")
        found[path.stem] = json.loads(path.read_text())
    if failed:
        raise RuntimeError("\n".join(failed))
    return found


def _write_whole(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".partial")
    unfinished.write_text(text)
    unfinished.replace(path)


def _stages(*names: str, campaign: Campaign) -> dict[str, Any]:
    """Runs stages of the recipe demo-h100, or of smoke when tiny; a stage whose output exists is not repeated."""
    runs = campaign.folder / "demo-h100"
    recipe = "smoke" if campaign.tiny else "demo-h100"
    seconds = {}
    inputs: dict[str, list[str]] = {
        "dataset": [],
        "real-stats": ["dataset"],
        "teacher": ["dataset", "real-stats"],
        "prune": ["teacher"],
        "distill": ["teacher", "student", "dataset", "real-stats"],
        "evaluate": ["student", "teacher", "dataset", "real-stats"],
        "report": ["evaluation", "dataset", "real-stats", "teacher", "student", "distilled"],
    }
    places = {("distill", "student"): "prune", ("evaluate", "student"): "distill"}
    places |= {("report", "evaluation"): "evaluate", ("report", "student"): "prune", ("report", "distilled"): "distill"}
    for name in names:
        if not (runs / name / "manifest.json").exists():
            given = [
                part for each in inputs[name] for part in (f"--{each}", str(runs / places.get((name, each), each)))
            ]
            given += ["--checkpoint", str(runs / f"checkpoint-{name}")] if name in STAGES else []
            began = time.monotonic()
            campaign.command(
                *("-m", "components", name, "--recipe", recipe, *given, "--output", str(runs / name)),
                **({"CUDA_VISIBLE_DEVICES": ""} if campaign.device == "cpu" else {}),
            )
            seconds[name] = time.monotonic() - began
    manifests = {name: json.loads((runs / name / "manifest.json").read_text()) for name in names}
    return {
        "recipe": recipe,
        "seconds": seconds,
        "summaries": {name: manifest.get("summary", {}) for name, manifest in manifests.items()},
    }


PARTS: dict[str, Part] = {
    "tests": Part("the tests marked gpu", _tests),
    "bench-teacher": Part("steps of teachers, plain PyTorch beside ours", partial(_bench, "teacher-*")),
    "bench-distill": Part("steps of distillation", partial(_bench, "distill-*")),
    "bench-rest": Part(
        "validation, loader, features, Fréchet distance, packing",
        partial(_bench, "validation,loader-*,features,frechet,packing"),
    ),
    "growth": Part(
        "how time and memory grow with size, batch and width",
        lambda campaign: _bench("teacher-pix2pix", campaign, "--growth"),
    ),
    "memory-images": Part("memory of a step of each published recipe, images", partial(_each_step, "memory", "images")),
    "memory-labels": Part(
        "memory of a step of each published recipe, label maps", partial(_each_step, "memory", "spade")
    ),
    "exactness-images": Part(
        "20 steps of each recipe at full width, batch 2, against float64, images",
        partial(_each_step, "exactness", "images"),
    ),
    "exactness-labels": Part("the same, label maps", partial(_each_step, "exactness", "spade")),
    "demo-teacher": Part(
        "a real training: the teacher of demo-h100",
        lambda campaign: _stages("dataset", "real-stats", "teacher", campaign=campaign),
    ),
    "demo-student": Part(
        "its student, scores and report",
        lambda campaign: _stages("prune", "distill", "evaluate", "report", campaign=campaign),
    ),
}
"""Name -> part, in the order in which they run."""


def run_part(name: str, campaign: Campaign) -> Path:
    """Runs a part unless its result exists, and returns the file of its result."""
    path = campaign.folder / f"{name}.json"
    if path.exists():
        print(f"{name}: done before, {path}", file=sys.stderr)
        return path
    campaign.folder.mkdir(parents=True, exist_ok=True)
    print(f"{name}: {PARTS[name].what} …", file=sys.stderr, flush=True)
    began = time.monotonic()
    result = PARTS[name].run(campaign)
    about = {
        "part": name,
        "what": PARTS[name].what,
        "device": campaign.device,
        "machine": device_name(campaign.device, threads=torch.get_num_threads()),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "tiny": campaign.tiny,
        "load": busy(),
        "seconds": round(time.monotonic() - began, 1),
    }
    _write_whole(path, json.dumps(about | {"result": result}, indent=1) + "\n")
    return path
