"""A recipe: one run of the pipeline, a section per stage."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from components.catlib.config.budgets import Budget
from components.catlib.config.dataset import DatasetConfig
from components.catlib.config.measuring import EvaluateConfig, RealStatsConfig
from components.catlib.config.resources import ResourcesConfig
from components.catlib.config.sections import Section, validate
from components.catlib.config.student import ExportConfig, PruneConfig
from components.catlib.config.training import DistillConfig, TeacherConfig, check_vgg


class SweepConfig(Section):
    """Which students the sweep pipeline compares; each is made at every budget, with every seed."""

    variations: tuple[dict[str, Any], ...] = Field(
        default=({"lambda_distill": 0.0}, {}),
        min_length=1,
        description="differences to the distill section, one per student",
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(0,), min_length=1, description="replace distill.seed; several show how much is chance"
    )


class TrackingConfig(Section):
    """A registry of runs beside Kubeflow's."""

    uri: str | None = Field(
        default=None, description="address of an MLflow server that keeps every student; None: none does"
    )
    experiment: str = Field(default="cat", description="group of runs in MLflow")


class ReportConfig(Section):
    """What the page at the end of a run says about the run; made from the recipe's name and description."""

    name: str = Field(default="run", description="heading")
    description: str = Field(default="", description="one sentence below the heading")
    tracking: TrackingConfig = TrackingConfig()


class Recipe(Section):
    """One run of the pipeline, from images to an exported student."""

    name: str = Field(description="short name")
    description: str = Field(description="one sentence: what is translated, with what, for whom")
    budgets: tuple[Budget, ...] = Field(min_length=1, description="one student per compute budget")
    dataset: DatasetConfig = DatasetConfig()
    real_stats: RealStatsConfig = RealStatsConfig()
    teacher: TeacherConfig = TeacherConfig()
    prune: PruneConfig = PruneConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
    sweep: SweepConfig = SweepConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _share_segmenter(cls, settings: Any) -> Any:
        """Lets trainings choose their weights by the mIoU that the evaluation measures, unless they say otherwise."""
        evaluate = settings.get("evaluate") if isinstance(settings, dict) else None
        if not isinstance(evaluate, dict) or evaluate.get("segmenter") is None:
            return settings
        shared = {"segmenter": evaluate["segmenter"]}
        trainings = {name: settings.get(name, {}) for name in ("teacher", "distill")}
        return settings | {name: shared | own for name, own in trainings.items() if isinstance(own, dict)}

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        check_vgg(self.distill, uses_perceptual=self.teacher.family == "spade")
        for variation in self.sweep.variations:
            validate(DistillConfig, self.section("distill") | variation, where="sweep.variations")
        return self

    @property
    def report(self) -> ReportConfig:
        """The report stage's section."""
        return ReportConfig(name=self.name, description=self.description, tracking=self.tracking)

    def section(self, name: str) -> dict[str, Any]:
        """Returns one stage's settings as JSON values without nulls, the form in which a pipeline hands them over."""
        return getattr(self, name).model_dump(mode="json", exclude_none=True)
