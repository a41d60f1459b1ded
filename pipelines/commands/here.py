"""The commands that need no cluster: recipes, show, validate, run, compile, trainjob."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import yaml

from components.catlib.errors import UserError
from components.catlib.exits import EXIT_INTERRUPTED, note
from components.catlib.recipes import load_recipe, recipe_names
from components.kubeflow import DEFAULT_IMAGE
from components.stages import TRAININGS
from pipelines import api
from pipelines.commands.options import (
    Answer,
    add_connection,
    add_no_cache,
    add_overrides,
    add_placement,
    add_recipe_command,
    arguments_of,
    choices,
    connection_of,
    described,
    write,
)

ETCD_BYTES = 1_500_000
"""The largest object that Kubernetes stores."""


def add_commands(commands: Any) -> None:
    """Adds these commands to those of `python -m pipelines`."""
    recipes = commands.add_parser("recipes", **described("List the recipes."))
    recipes.set_defaults(command=_recipes)

    show = commands.add_parser(
        "show", **described("Print every setting of a recipe, and what differs from its file and from the defaults.")
    )
    show.add_argument("recipe", metavar="RECIPE", help="name of a recipe, or path of a .yaml file")
    add_overrides(show)
    show.set_defaults(command=_show)

    sentence = "Check a run without starting it, and say what it will cost; with --host, on a cluster."
    validate = add_recipe_command(commands, "validate", sentence, _validate)
    where = "folder of local runs, whose cache is asked (default: runs)"
    validate.add_argument("--workspace", type=Path, default=Path("runs"), help=where)
    add_placement(validate)
    add_connection(validate)

    run = add_recipe_command(commands, "run", "Run a pipeline on this machine.", _run)
    run.set_defaults(interrupted=("run the same command again; finished stages come from the cache", EXIT_INTERRUPTED))
    add_no_cache(run)
    run.add_argument("--output", type=Path, help="folder for the report and the students (default: WORKSPACE/RECIPE)")
    run.add_argument(
        "--workspace", type=Path, default=Path("runs"), help="folder for artifacts, cache and logs (default: runs)"
    )
    run.add_argument(
        "--runner",
        choices=("process", "docker"),
        default="process",
        help="run each stage in a process, or in a container of --image (default: process)",
    )

    compile_ = add_recipe_command(commands, "compile", "Write a pipeline as a file for Kubeflow.", _compile)
    compile_.add_argument("--output", type=Path, required=True, help="the .yaml file to write")

    _add_trainjob(commands)


def _add_trainjob(commands: Any) -> None:
    """Adds the command that trains on several machines."""
    trainjob = commands.add_parser(
        "trainjob", **described("Write manifests for Kubeflow Trainer, which trains on several machines.")
    )
    trainjob.add_argument("stage", choices=TRAININGS, help="stage to run")
    trainjob.add_argument(
        "--recipe",
        required=True,
        help="name of a recipe in the image (the command `recipes` lists them), or path of a .yaml file",
    )
    trainjob.add_argument("--set", action="append", metavar="SECTION.KEY=VALUE", help="change one setting; repeatable")
    trainjob.add_argument(
        "--input",
        action="append",
        metavar="NAME=URI",
        help="artifact that the stage reads, such as dataset=s3://bucket/dataset; repeatable",
    )
    trainjob.add_argument(
        "--artifact", required=True, metavar="URI", help="s3:// address to which the training writes its artifact"
    )
    trainjob.add_argument("--nodes", type=int, default=2, help="number of machines (default: 2)")
    trainjob.add_argument(
        "--namespace", default="kubeflow", help="namespace of the Kubernetes objects (default: kubeflow)"
    )
    trainjob.add_argument(
        "--ca-config-map",
        default="cat-ca",
        metavar="NAME",
        help="ConfigMap with certificates of your own, mounted at /kfp/certs if it exists (default: cat-ca)",
    )
    trainjob.add_argument("--image", default=DEFAULT_IMAGE, help=f"image of the pods (default: {DEFAULT_IMAGE})")
    trainjob.add_argument("--output", type=Path, required=True, help="the .yaml file to write")
    trainjob.set_defaults(command=_trainjob)


def _recipes(options: argparse.Namespace) -> Answer:
    listing = {name: load_recipe(name).description for name in recipe_names()}
    width = max(map(len, listing), default=0)
    lines = [f"{name:{width}}  {description}" for name, description in listing.items()]
    return "\n".join(lines), {"recipes": listing}


def _validate(options: argparse.Namespace) -> Answer:
    on_cluster = options.host or options.kube_context or options.namespace
    valid = api.validate(
        options.recipe,
        connection=connection_of(options) if on_cluster else None,
        arguments=arguments_of(options),
        root=options.root,
        service_account=options.service_account,
        workspace=options.workspace,
        **choices(options),
    )
    size = len(valid.compiled.text.encode())
    share = 100 * size / ETCD_BYTES
    lines = [
        f"{options.pipeline} with {options.recipe}: valid, {size} bytes, {share:.0f} % of a cluster's limit",
        *valid.forecast.lines(),
        *(
            f"{what}: {', '.join(tasks) or 'nothing'}"
            for what, tasks in (("from the cache", valid.cached), ("runs", valid.executed))
            if valid.cached or valid.executed
        ),
    ]
    facts: dict[str, object] = {"pipeline": options.pipeline, "recipe": options.recipe, "bytes": size}
    facts |= dataclasses.asdict(valid.forecast)
    return "\n".join(lines), facts | {"cached": list(valid.cached), "executed": list(valid.executed)}


def _show(options: argparse.Namespace) -> Answer:
    from pipelines.showing import Resolved

    recipe = load_recipe(options.recipe, options.set, options.budget)
    resolved = Resolved.of(recipe, written=load_recipe(options.recipe), defaults=load_recipe(None))
    return resolved.text().rstrip(), {"recipe": dict(resolved.settings), "overridden": resolved.overridden()}


def _compile(options: argparse.Namespace) -> Answer:
    if options.output.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output {options.output} must end in .yaml or .yml.")
    compiled = api.compile_recipe(options.recipe, **choices(options))
    write(options.output, compiled.text)
    return str(options.output), {"output": str(options.output)}


def _run(options: argparse.Namespace) -> Answer:
    chosen = choices(options)
    if options.runner != "docker":
        chosen["image"] = None
    result = api.run(
        options.recipe,
        arguments=arguments_of(options),
        output=options.output,
        workspace=options.workspace,
        no_cache=options.no_cache,
        **chosen,
    )
    report = result.output / "report.html"
    note(f"{len(result.executed)} stages ran, {len(result.cached)} came from the cache, {result.seconds:.0f} s in all")
    return f"Report: {report}", {
        "report": str(report),
        "output": str(result.output),
        "executed": result.executed,
        "cached": result.cached,
        "seconds": round(result.seconds, 1),
    }


def _trainjob(options: argparse.Namespace) -> Answer:
    from pipelines.trainjob import training_manifests

    manifests = training_manifests(
        options.stage,
        recipe=options.recipe,
        overrides=options.set or (),
        resources=load_recipe(options.recipe, options.set).resources,
        inputs={name: str(value) for name, value in arguments_of(options, "--input").items()},
        output=options.artifact,
        nodes=options.nodes,
        image=options.image,
        namespace=options.namespace,
        certificates=options.ca_config_map,
    )
    write(options.output, yaml.safe_dump_all(manifests, sort_keys=False))
    return str(options.output), {"output": str(options.output)}
