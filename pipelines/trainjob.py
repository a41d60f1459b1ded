"""Training on several machines: manifests for Kubeflow Trainer, which runs the teacher or the distill stage.

A pod of a pipeline has one machine. Kubeflow Trainer (v2) starts a pod per machine and gives torch the addresses of
the others; each runs the same command as everywhere else, `python -m components STAGE`, under `torchrun`. The trained
artifact then goes into a pipeline by its address: `--pipeline distill-only --argument teacher=s3://…`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.catlib.config import ResourcesConfig, StageName, StageResources
from components.catlib.errors import UserError
from components.catlib.storage.settings import WAIT_VARIABLE
from components.kubeflow import CHECKPOINTS_VARIABLE
from components.stages import STAGES, TRAININGS
from pipelines.resources import SHARED_MEMORY, STORE_VARIABLES, stage_resources

API_VERSION = "trainer.kubeflow.org/v1alpha1"

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
) -> list[dict[str, Any]]:
    """Writes the manifests of a training on several machines.

    Args:
        stage: Stage to run, one of `TRAININGS`.
        recipe: Name of a recipe in the image.
        overrides: `SECTION.KEY=VALUE` texts.
        resources: Resources of every machine, as for the stage in a pipeline; needs `store_secret`.
        inputs: Option -> s3:// address, for every artifact that the stage reads.
        output: s3:// address of the artifact that it writes.
        nodes: Number of machines.
        image: Image of the pods.
        namespace: Namespace of the Kubernetes objects.

    Returns:
        A TrainingRuntime, which describes a machine, and the TrainJob that uses it.

    Raises:
        UserError: An input is missing or not in the object store, or `store_secret` is missing.
    """
    assert stage in TRAININGS
    _check_reachable(stage, resources, inputs, output)
    given = stage_resources(resources, stage)
    assert given.hours is not None and given.gpus is not None
    name = f"cat-{stage}"
    command = ["torchrun", "-m", "components", stage, "--recipe", recipe]
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
            "template": {"spec": {"replicatedJobs": [_job(resources, retries=given.retries or 0)]}},
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
    return [runtime, job]


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


def _job(resources: ResourcesConfig, *, retries: int) -> dict[str, Any]:
    """Returns the job of one machine; the TrainJob adds image, command and resources."""
    secret = resources.store_secret
    environment: list[dict[str, Any]] = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}} for name in STORE_VARIABLES
    ]
    environment.append({"name": WAIT_VARIABLE, "value": "1"})
    if resources.checkpoints:
        environment.append({"name": CHECKPOINTS_VARIABLE, "value": resources.checkpoints})
    container = {
        "name": "node",
        "env": environment,
        "securityContext": _RESTRICTED,
        "volumeMounts": [{"name": "shared-memory", "mountPath": SHARED_MEMORY}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": dict(resources.node_selector),
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in resources.tolerations],
        "volumes": [
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
            {"name": "tmp", "emptyDir": {}},
        ],
        "containers": [container],
    }
    return {
        "name": "node",
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {"backoffLimit": retries, "template": {"spec": pod}},
        },
    }
