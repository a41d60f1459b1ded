"""Settings of the resources that stages get on a cluster, and of how often trainings save and log."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.catlib.config.sections import Positive, Section

StageName = Literal[
    "dataset", "real_stats", "teacher", "prune", "distill", "evaluate", "export", "report", "publish", "other"
]
"""The stages; `other` is fetching earlier artifacts, planning a sweep and checking the images."""


ACCELERATORS_VARIABLE = "CAT_ACCELERATORS"
"""Environment variable with the number of accelerators that a task has reserved; without it, what there is is used."""


class StageResources(Section):
    """What one stage gets on a cluster; a null comes from the profile."""

    cpu: str | None = Field(
        default=None, pattern=r"^\d+(\.\d+)?m?$", description="reserved CPU cores, such as 4 or 500m"
    )
    memory: str | None = Field(default=None, pattern=r"^\d+(Mi|Gi)$", description="reserved memory, such as 16Gi")
    gpus: Annotated[int, Field(ge=0)] | None = Field(default=None, description="number of accelerators")
    hours: Positive | None = Field(default=None, description="time limit of one attempt, in hours")
    retries: Annotated[int, Field(ge=0)] | None = Field(default=None, description="number of attempts after the first")


class Toleration(Section):
    """A taint of nodes that the stages with accelerators tolerate."""

    key: str | None = Field(default=None, description="key of the taint; null, with operator Exists: every taint")
    operator: Literal["Exists", "Equal"] = Field(
        default="Exists", description="Equal: the value must match; Exists: any value matches"
    )
    value: str | None = Field(default=None, description="value of the taint, for operator Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="effect of the taint; null: every effect"
    )


class ResourcesConfig(Section):
    """What the stages get on a cluster, and how often trainings save and log; nothing here changes a result.

    No stage sees this section, and no cache key holds it.
    """

    profile: Literal["cpu", "gpu", "multi-gpu"] = Field(
        default="cpu",
        description="cpu: no accelerators; gpu: one for each stage that runs networks; multi-gpu: four for trainings",
    )
    stages: dict[StageName, StageResources] = Field(default={}, description="differences from the profile, by stage")
    accelerator: str = Field(default="nvidia.com/gpu", description="Kubernetes resource name of an accelerator")
    node_selector: dict[str, str] = Field(default={}, description="labels that nodes with accelerators have")
    tolerations: tuple[Toleration, ...] = Field(
        default=(Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),),
        description="taints of nodes that the stages with accelerators tolerate",
    )
    store_secret: str | None = Field(
        default=None,
        description="name of a Kubernetes Secret that holds S3_ENDPOINT, AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, for stages that read or write s3:// addresses themselves; it may also hold "
        "AWS_SESSION_TOKEN, AWS_REGION, AWS_CA_BUNDLE, CAT_WEB_HOST with CAT_WEB_TOKEN or CAT_WEB_USER and "
        "CAT_WEB_PASSWORD (for https:// addresses), and MLFLOW_TRACKING_TOKEN or MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD",
    )
    checkpoints: str | None = Field(
        default=None,
        description="s3:// address below which trainings keep their state, so that a retry resumes; null: none is kept",
    )
    checkpoint_seconds: Positive | None = Field(
        default=None,
        description="seconds between the checkpoints of a training; evaluations and its end write further ones; null: "
        "600 here, 120 on a cluster",
    )
    keep_checkpoints: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="number of newest checkpoints to keep, besides the best one; null: 2"
    )
    log_seconds: Positive | None = Field(
        default=None, description="seconds between the progress lines of a training; null: 10"
    )
    tensorboard: bool = Field(
        default=False,
        description="true: a task behind each training links to its curves; for a Kubeflow with TensorBoard's viewer",
    )
    parallel_students: Annotated[int, Field(ge=0)] = Field(
        default=0, description="number of students made at the same time; 0: all"
    )
    days_limit: Positive = Field(default=21.0, description="time limit of the whole run, in days")
    days_kept: Positive = Field(
        default=7.0,
        description="days after the end of a run until its pods and its workflow are removed, for which Kubeflow's own "
        "limit (one day) must be raised, too; artifacts and logs in the store stay",
    )
