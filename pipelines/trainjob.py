"""Training on several machines: manifests for Kubeflow Trainer, which runs the teacher or the distill stage.

A pod of a pipeline has one machine. Kubeflow Trainer (v2) starts a pod per machine and gives torch the addresses of
the others; each runs the same command as everywhere else, `python -m components STAGE`, under `torchrun`. The trained
artifact then goes into a pipeline by its address: `--pipeline distill-only --argument teacher=s3://…`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.attempts import JOB_VARIABLE
from components.catlib.config import ResourcesConfig, StageName, StageResources
from components.catlib.config.resources import ACCELERATORS_VARIABLE
from components.catlib.credentials import refuse_credentials
from components.catlib.errors import UserError
from components.catlib.storage.settings import WAIT_VARIABLE
from components.catlib.training.upkeep import CHECKPOINTS_VARIABLE, variables
from components.stages import STAGES, TRAININGS
from pipelines.resources import OPTIONAL_VARIABLES, SHARED_MEMORY, STORE_VARIABLES, stage_resources

API_VERSION = "trainer.kubeflow.org/v1alpha1"

RECIPES = "/recipes"
"""Where pods find a recipe of one's own."""

CERTIFICATES = "/kfp/certs"
"""Where pods find the certificates of the ConfigMap: where KFP mounts it in runs, so that AWS_CA_BUNDLE fits both."""

_JOB_UID = "metadata.labels['batch.kubernetes.io/controller-uid']"

_RESTRICTED: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def training_manifests(
    stage: StageName,
    *,
    recipe: str,
    overrides: Sequence[str],
    resources: ResourcesConfig,
    inputs: Mapping[str, str],
    output: str,
    nodes: int,
    image: str,
    namespace: str,
    certificates: str,
) -> list[dict[str, Any]]:
    """Writes the manifests of a training on several machines.

    Args:
        stage: Stage to run, one of `TRAININGS`.
        recipe: Name of a recipe in the image, or path of a .yaml file, which a ConfigMap then brings to the pods.
        overrides: `SECTION.KEY=VALUE` texts.
        resources: Resources of every machine, as for the stage in a pipeline; needs `store_secret`.
        inputs: Option -> s3:// address, for every artifact that the stage reads.
        output: s3:// address of the artifact that it writes.
        nodes: Number of machines.
        image: Image of the pods.
        namespace: Namespace of the Kubernetes objects.
        certificates: Name of the ConfigMap with certificates of one's own, which need not exist.

    Returns:
        A TrainingRuntime, which describes a machine, and the TrainJob that uses it; before them the ConfigMap of a
        recipe file.

    Raises:
        UserError: An input is missing or not in the object store, `store_secret` is missing, or the recipe file cannot
            be read.
    """
    assert stage in TRAININGS
    refuse_credentials({**inputs, "output": output, "--set": overrides}, "")
    _check_reachable(stage, resources, inputs, output)
    given = stage_resources(resources, stage)
    assert given.hours is not None and given.gpus is not None
    name = f"cat-{stage}"
    own = recipe if Path(recipe).suffix in (".yaml", ".yml") else None
    command = ["torchrun", "-m", "components", stage, "--recipe", f"{RECIPES}/{Path(own).name}" if own else recipe]
    for override in overrides:
        command += ["--set", override]
    for option, address in inputs.items():
        command += [f"--{option}", address]
    trainer = {
        "image": image,
        "command": [*command, "--output", output],
        "numNodes": nodes,
        "resourcesPerNode": _quantities(given, resources.accelerator),
    }
    if given.gpus:
        trainer["numProcPerNode"] = given.gpus
    metadata = {"name": name, "namespace": namespace}
    runtime = {
        "apiVersion": API_VERSION,
        "kind": "TrainingRuntime",
        # By these labels Trainer finds the runtime, and the job that gets the TrainJob's settings.
        "metadata": {**metadata, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": nodes, "torch": {}},
            "template": {
                "spec": {"replicatedJobs": [_job(resources, given, f"{name}-recipe" if own else None, certificates)]}
            },
        },
    }
    job = {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": name},
            "activeDeadlineSeconds": round(given.hours * 3600),
            "trainer": trainer,
        },
    }
    return [*([_recipe_map(Path(own), {**metadata, "name": f"{name}-recipe"})] if own else []), runtime, job]


def _recipe_map(file: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the ConfigMap that holds a recipe file, which `load_recipe` has read before."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"Recipe {file} cannot be read ({error}).") from error
    refuse_credentials(text, f"Recipe {file}")
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": dict(metadata), "data": {file.name: text}}


def _check_reachable(stage: StageName, resources: ResourcesConfig, inputs: Mapping[str, str], output: str) -> None:
    """Refuses a training with missing inputs, or with addresses that not all machines can reach."""
    if resources.store_secret is None:
        raise UserError(
            "A training on several machines exchanges artifacts through s3://; give resources.store_secret."
        )
    read = [wanted.flag.removeprefix("--") for wanted in STAGES[stage].inputs]
    if set(inputs) != set(read):
        raise UserError(
            f"Stage {stage} reads {', '.join(read)}, but --input gives {', '.join(inputs) or 'none'}; give each once."
        )
    for name, address in {**inputs, "output": output}.items():
        if not address.startswith("s3://"):
            raise UserError(f"{name} {address!r} must be an s3:// address, so that all machines can reach it.")


def _quantities(given: StageResources, accelerator: str) -> dict[str, dict[str, str]]:
    accelerators = {accelerator: str(given.gpus)} if given.gpus else {}
    assert given.cpu is not None and given.memory is not None
    return {
        "requests": {"cpu": given.cpu, "memory": given.memory, **accelerators},
        "limits": {"memory": given.memory, **accelerators},
    }


def _job(
    resources: ResourcesConfig, given: StageResources, recipe_map: str | None, certificates: str
) -> dict[str, Any]:
    """Returns the job of one machine; the TrainJob adds image, command and resources."""
    recipes = {"name": "recipes", "configMap": {"name": recipe_map}}
    secret = resources.store_secret
    environment: list[dict[str, Any]] = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name, "optional": optional}}}
        for names, optional in ((STORE_VARIABLES, False), (OPTIONAL_VARIABLES, True))
        for name in names
    ]
    environment.append({"name": WAIT_VARIABLE, "value": "1"})
    environment.append({"name": JOB_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": _JOB_UID}}})
    if given.gpus:
        environment.append({"name": ACCELERATORS_VARIABLE, "value": str(given.gpus)})
    if resources.checkpoints:
        environment.append({"name": CHECKPOINTS_VARIABLE, "value": resources.checkpoints})
    environment += [{"name": name, "value": value} for name, value in variables(resources, on_cluster=True).items()]
    container = {
        "name": "node",
        "env": environment,
        "securityContext": _RESTRICTED,
        "volumeMounts": [
            {"name": "shared-memory", "mountPath": SHARED_MEMORY},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "certificates", "mountPath": CERTIFICATES, "readOnly": True},
            *([{"name": "recipes", "mountPath": RECIPES, "readOnly": True}] if recipe_map else []),
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": dict(resources.node_selector),
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in resources.tolerations],
        "volumes": [
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "certificates", "configMap": {"name": certificates, "optional": True}},
            *([recipes] if recipe_map else []),
        ],
        "containers": [container],
    }
    return {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {"backoffLimit": given.retries or 0, "template": {"spec": pod}},
        },
    }
