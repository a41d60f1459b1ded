"""Resources of every stage on a cluster: image, cores, memory, accelerators, retries, time limits, secrets.

The recipe's `resources` section decides: `PROFILES` holds what a stage gets under each profile, and the section's
`stages` changes it. Local runs use only how often trainings save and log.
"""

from __future__ import annotations

from collections.abc import Callable

from kfp import kubernetes
from kfp.dsl import PipelineConfig, PipelineTask

from components.catlib.code_digest import code_digest
from components.catlib.config import ResourcesConfig, StageName, StageResources
from components.catlib.config.resources import ACCELERATORS_VARIABLE
from components.catlib.training.upkeep import CHECKPOINTS_VARIABLE, variables
from components.stages import TRAININGS

_SMALL = StageResources(cpu="1", memory="4Gi", gpus=0, hours=6, retries=2)
_LAPTOP = StageResources(cpu="1", memory="4Gi", gpus=0, hours=24, retries=2)
_DATA = StageResources(cpu="4", memory="16Gi", gpus=0, hours=24, retries=2)
_EVALUATION = StageResources(cpu="4", memory="16Gi", gpus=1, hours=24, retries=2)
_TRAINING = StageResources(cpu="8", memory="32Gi", gpus=1, hours=240, retries=5)
_PARALLEL_TRAINING = StageResources(cpu="32", memory="128Gi", gpus=4, hours=240, retries=5)

_GPU: dict[StageName, StageResources] = {
    "dataset": _DATA,
    "real_stats": _EVALUATION,
    "teacher": _TRAINING,
    "prune": _SMALL,
    "distill": _TRAINING,
    "evaluate": _EVALUATION,
    "export": _DATA,
    "report": _SMALL,
    "publish": _SMALL,
    "other": _SMALL,
}

PROFILES: dict[str, dict[StageName, StageResources]] = {
    "cpu": dict.fromkeys(_GPU, _LAPTOP),
    "gpu": _GPU,
    "multi-gpu": {**_GPU, "teacher": _PARALLEL_TRAINING, "distill": _PARALLEL_TRAINING},
}

RETRY_PAUSE_SECONDS = 60
"""Pause before the first retry; each later one is twice as long."""

SHARED_MEMORY = "/dev/shm"
"""Where processes of one training exchange data; a pod has 64 MiB of it by default."""

STORE_VARIABLES = ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
OPTIONAL_VARIABLES = (
    *("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_CA_BUNDLE"),
    *("CAT_WEB_HOST", "CAT_WEB_TOKEN", "CAT_WEB_USER", "CAT_WEB_PASSWORD"),
    *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
)
"""Keys that the same Secret may have: for the store, for a server of the web, for the registry of runs."""


def stage_resources(resources: ResourcesConfig, stage: StageName) -> StageResources:
    """Returns what a stage gets: its profile's values, changed by the section's."""
    profile = PROFILES[resources.profile][stage]
    changes = resources.stages.get(stage)
    return profile.model_copy(update=changes.model_dump(exclude_none=True)) if changes else profile


def pipeline_config(resources: ResourcesConfig | None) -> PipelineConfig:
    """Returns the limits of a whole run: when it is ended, and when its pods are removed."""
    if resources is None:
        return PipelineConfig()
    kept = round(resources.days_kept * 86400)
    return PipelineConfig(
        # All three: Kubeflow's own settings give success and failure an hour where a run does not, and these two win.
        ttl_seconds_after_finished=kept,
        ttl_seconds_after_success=kept,
        ttl_seconds_after_failure=kept,
        active_deadline_seconds=round(resources.days_limit * 86400),
    )


class Placement:
    """Gives tasks their image, the digests of their code and, on a cluster, their resources."""

    def __init__(
        self,
        image: str,
        resources: ResourcesConfig | None = None,
        *,
        code_digest: Callable[[str], str] = code_digest,
    ) -> None:
        """Stores where tasks run.

        Args:
            image: Image of every task.
            resources: The recipe's section; None for local runs, which share this machine.
            code_digest: Returns what the cache key of a task of a stage holds for the stage's code.
        """
        self.image = image
        self.resources = resources
        self.code_digest = code_digest

    @property
    def parallel_students(self) -> int:
        """Number of students made at the same time, 0 for all; 1 on this machine, whose cores they would share."""
        return 1 if self.resources is None else self.resources.parallel_students

    @property
    def tensorboard(self) -> bool:
        """Whether trainings link to TensorBoard."""
        return self.resources is not None and self.resources.tensorboard

    def place(self, stage: StageName, task: PipelineTask) -> PipelineTask:
        """Places a task of a stage and returns it."""
        task.set_container_image(self.image)
        if self.resources is not None:
            _place_on_cluster(task, stage, self.resources)
            if stage == "report":
                # A run's results are fetched from its report, which must therefore lie below the run's own folder,
                # also when everything else came from the cache.
                task.set_caching_options(enable_caching=False)
        return task


def _place_on_cluster(task: PipelineTask, stage: StageName, resources: ResourcesConfig) -> None:
    given = stage_resources(resources, stage)
    assert given.cpu and given.memory and given.hours and given.gpus is not None and given.retries is not None
    # No CPU limit: a limit throttles while other cores idle. Memory is limited to what is reserved, so that a stage
    # that needs more ends itself and not its neighbours.
    task.set_cpu_request(given.cpu)
    task.set_memory_request(given.memory)
    task.set_memory_limit(given.memory)
    seconds = round(given.hours * 3600)
    kubernetes.set_timeout(task, seconds)
    if given.retries:
        task.set_retry(
            given.retries,
            backoff_duration=f"{RETRY_PAUSE_SECONDS}s",
            backoff_factor=2,
            # The longest time between the first start and the last retry. Kubeflow's default is one hour, after which
            # a stage that takes days would never be tried again.
            backoff_max_duration=f"{seconds * (given.retries + 1)}s",
        )
    # The image runs as a numbered user; the restricted pod security standard wants that declared.
    kubernetes.set_security_context(task, run_as_non_root=True)
    if given.gpus:
        task.set_accelerator_type(resources.accelerator)
        task.set_accelerator_limit(given.gpus)
        task.set_env_variable(ACCELERATORS_VARIABLE, str(given.gpus))
        for label, value in resources.node_selector.items():
            kubernetes.add_node_selector(task, label, value)
        for toleration in resources.tolerations:
            kubernetes.add_toleration(task, **toleration.model_dump(exclude_none=True))
    if stage in TRAININGS:
        kubernetes.empty_dir_mount(task, "shared-memory", SHARED_MEMORY, medium="Memory", size_limit="2Gi")
        # Kubeflow leaves the environment out of its cache keys, so none of this makes a stage run again.
        for name, value in variables(resources, on_cluster=True).items():
            task.set_env_variable(name, value)
    if resources.checkpoints:
        # Every stage: a refused task leaves a note for its next attempt there.
        task.set_env_variable(CHECKPOINTS_VARIABLE, resources.checkpoints)
    if resources.store_secret:
        for names, optional in ((STORE_VARIABLES, False), (OPTIONAL_VARIABLES, True)):
            keys = {name: name for name in names}
            kubernetes.use_secret_as_env(task, resources.store_secret, keys, optional=optional)
