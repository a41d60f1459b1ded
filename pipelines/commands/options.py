"""What several commands share: their options, and how these are read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.catlib.artifacts import replacing
from components.catlib.disk import writing_to
from components.catlib.errors import UserError
from components.catlib.recipes import read_yaml
from components.kubeflow import DEFAULT_IMAGE

if TYPE_CHECKING:
    from pipelines.connection import Connection

PIPELINE_HELP = {
    "compress": "train a teacher and make a student per budget (the default)",
    "distill-only": "make students of an earlier or a published teacher (--argument teacher=ADDRESS)",
    "evaluate-only": "score earlier models (--argument students=[ADDRESS, …], optionally --argument teacher=ADDRESS)",
    "sweep": "train a teacher and make a student per budget, variation and seed of the recipe's section `sweep`",
}

Answer = tuple[str, dict[str, object]]
"""Answer of a command: lines to print, and the same facts for `--json`."""


def described(text: str) -> dict[str, Any]:
    """Returns what shows a sentence in the list of commands and in the command's own help."""
    return {"help": text, "description": text}


def add_recipe_command(commands: Any, name: str, help_text: str, function: Any) -> argparse.ArgumentParser:
    """Adds a command that takes a pipeline and a recipe."""
    pipelines = "; ".join(f"{pipeline}: {meaning}" for pipeline, meaning in PIPELINE_HELP.items())
    command = commands.add_parser(name, **described(help_text))
    command.add_argument(
        "--recipe", required=True, help="name of a recipe (the command `recipes` lists them), or path of a .yaml file"
    )
    command.add_argument("--pipeline", choices=PIPELINE_HELP, default="compress", help=pipelines)
    add_overrides(command)
    command.add_argument(
        "--argument",
        action="append",
        metavar="NAME=VALUE",
        help="value of a parameter of the pipeline, as YAML; repeatable",
    )
    command.add_argument("--image", default=DEFAULT_IMAGE, help=f"image of every task (default: {DEFAULT_IMAGE})")
    command.set_defaults(command=function)
    return command


def add_overrides(command: argparse.ArgumentParser) -> None:
    """Adds the options that change settings of a recipe."""
    command.add_argument(
        "--set",
        action="append",
        metavar="SECTION.KEY=VALUE",
        help="change one setting, such as teacher.epochs=2 or resources.profile=gpu; repeatable",
    )
    command.add_argument(
        "--budget",
        action="extend",
        nargs="+",
        metavar="B",
        help="compute budgets instead of the recipe's: MACs such as 2.6e9, shares of the teacher's such as 0.05x, or "
        "milliseconds such as 15ms, which a table of layers' times predicts (prune.latency_table; a run on this "
        "machine measures its own)",
    )


def add_placement(command: argparse.ArgumentParser) -> None:
    """Adds the options that say where on a cluster a run goes."""
    command.add_argument(
        "--root", help="address below which the run writes its artifacts (default: as the cluster is configured)"
    )
    command.add_argument(
        "--service-account", help="service account of the pods (default: as the cluster is configured)"
    )


def add_no_cache(command: argparse.ArgumentParser) -> None:
    """Adds the option that makes stages run anew."""
    command.add_argument(
        "--no-cache",
        action="extend",
        nargs="+",
        default=[],
        metavar="STAGE",
        help="run these stages anew whatever the cache holds, such as teacher or train-teacher; with what reads their "
        "results",
    )


def choices(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what `add_recipe_command` asked for, but for the recipe and the arguments, as `api` takes it."""
    return {
        "pipeline": options.pipeline,
        "overrides": options.set or (),
        "budgets": options.budget,
        "image": options.image,
    }


def arguments_of(options: argparse.Namespace, flag: str = "--argument") -> dict[str, Any]:
    """Reads the NAME=VALUE texts of an option; VALUE is YAML."""
    arguments = {}
    for text in getattr(options, flag.removeprefix("--")) or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"{flag} {text!r} is not of the form NAME=VALUE, for example teacher=s3://bucket/run.")
        arguments[name] = read_yaml(value, where=f"The value in {flag} {text!r}")
    return arguments


def whole_number(text: str) -> int:
    """Reads a number of times, 0 or more; argparse says what is wrong with another text."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def write(path: Path, text: str) -> None:
    """Writes a file, its folder included; raises UserError where that is not possible."""
    with writing_to(path, what=f"--output {path}", need=len(text.encode())):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")


def add_connection(command: argparse.ArgumentParser) -> None:
    """Adds the options that say where Kubeflow is and who asks."""
    group = command.add_argument_group(
        "connection",
        "Without --host, a pod connects with its service account and any other machine with its kubeconfig.",
    )
    group.add_argument("--host", metavar="URL", help="address of Kubeflow Pipelines, such as http://localhost:8080")
    group.add_argument("--namespace", help="namespace of your profile, if Kubeflow has profiles")
    group.add_argument(
        "--token-file", type=Path, metavar="FILE", help="file with a token for Kubeflow, read before every request"
    )
    group.add_argument("--kube-context", help="context of the kubeconfig (default: the current one)")
    group.add_argument(
        "--kubeflow-namespace", default="kubeflow", help="namespace of Kubeflow Pipelines itself (default: kubeflow)"
    )
    group.add_argument("--ca-file", metavar="FILE", help="file of certificates to trust instead of the usual ones")


def connection_of(options: argparse.Namespace) -> Connection:
    """Returns what `add_connection` asked for."""
    from pipelines.connection import Connection

    return Connection(
        host=options.host,
        namespace=options.namespace,
        kubeflow_namespace=options.kubeflow_namespace,
        token_file=options.token_file,
        kube_context=options.kube_context,
        ca_file=options.ca_file,
    )
