"""What the stages get on a cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.catlib.config.sections import Positive, Section

StageName = Literal["dataset", "real_stats", "teacher", "prune", "distill", "evaluate", "export", "report", "other"]
"""The stages; other: fetching earlier artifacts, planning a sweep."""


class StageResources(Section):
    """What one stage gets on a cluster; what is not given comes from the profile."""

    cpu: str | None = Field(
        default=None, pattern=r"^\d+(\.\d+)?m?$", description="cores that are reserved, such as 4 or 500m"
    )
    memory: str | None = Field(
        default=None, pattern=r"^\d+(Mi|Gi)$", description="memory that is reserved, such as 16Gi"
    )
    gpus: Annotated[int, Field(ge=0)] | None = Field(default=None, description="accelerators")
    hours: Positive | None = Field(default=None, description="time limit of one attempt in hours")
    retries: Annotated[int, Field(ge=0)] | None = Field(default=None, description="attempts after the first")


class Toleration(Section):
    """A taint of nodes that the stages with accelerators put up with."""

    key: str | None = Field(default=None, description="the taint; None with operator Exists means every taint")
    operator: Literal["Exists", "Equal"] = Field(default="Exists", description="whether the value matters")
    value: str | None = Field(default=None, description="the taint's value, with operator Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="None means every"
    )


class ResourcesConfig(Section):
    """What the stages get on a cluster; nothing here changes a result, and no stage sees it."""

    profile: Literal["cpu", "gpu", "multi-gpu"] = Field(
        default="cpu",
        description="cpu: no accelerators; gpu: one for each stage that runs networks; multi-gpu: four to train",
    )
    stages: dict[StageName, StageResources] = Field(default={}, description="differences from the profile, by stage")
    accelerator: str = Field(default="nvidia.com/gpu", description="Kubernetes resource name of an accelerator")
    node_selector: dict[str, str] = Field(default={}, description="labels of the nodes with accelerators")
    tolerations: tuple[Toleration, ...] = Field(
        default=(Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),),
        description="taints of the nodes with accelerators",
    )
    store_secret: str | None = Field(
        default=None,
        description="Secret with S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for stages that read or "
        "write s3:// addresses themselves",
    )
    checkpoints: str | None = Field(
        default=None,
        description="s3:// address below which trainings keep their state, so that a retry resumes; None: nowhere",
    )
    parallel_students: Annotated[int, Field(ge=0)] = Field(
        default=0, description="students made at a time; 0 means all"
    )
    days_limit: Positive = Field(default=21.0, description="the whole run ends after this many days")
    days_kept: Positive = Field(
        default=7.0, description="pods and workflow are removed so many days after the run; artifacts stay"
    )
