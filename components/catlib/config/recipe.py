"""A recipe: one run of the pipeline, a section per stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from components.catlib.config.budgets import Budget
from components.catlib.config.dataset import DatasetConfig
from components.catlib.config.distill import DistillConfig, Pix2PixDistillConfig
from components.catlib.config.measuring import EvaluateConfig, RealStatsConfig, SegmenterConfig
from components.catlib.config.networks import undivided
from components.catlib.config.publish import PublishConfig
from components.catlib.config.resources import ResourcesConfig
from components.catlib.config.sections import Section, listed_once
from components.catlib.config.student import ExportConfig, PruneConfig
from components.catlib.config.sweep import StudentSections, SweepConfig, student_sections
from components.catlib.config.teacher import Pix2PixConfig, TeacherConfig
from components.catlib.config.training import cannot_split


class TrackingConfig(Section):
    """A registry of runs beside Kubeflow's."""

    uri: str | None = Field(
        default=None,
        description="address of an MLflow server that records every student; null: none. Its credentials are the "
        "environment variables MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    )
    experiment: str = Field(default="cat", description="experiment (group of runs) in MLflow")


class ReportConfig(Section):
    """Heading and description of the report, from the recipe's name and description, and its `tracking` section."""

    name: str = Field(default="run", description="heading of the page")
    description: str = Field(default="", description="one sentence below the heading")
    tracking: TrackingConfig = TrackingConfig()


class Recipe(Section):
    """One run of the pipeline, from images to an exported student."""

    name: str = Field(description="short name of the recipe")
    description: str = Field(description="one sentence: which images are translated into which, how, and for whom")
    budgets: Annotated[tuple[Budget, ...], AfterValidator(listed_once)] = Field(
        min_length=1,
        description="compute budgets, in MACs, as shares of the teacher's MACs or in milliseconds (15ms); each makes "
        "one student",
    )
    dataset: DatasetConfig = DatasetConfig()
    real_stats: RealStatsConfig = RealStatsConfig()
    teacher: TeacherConfig = Pix2PixConfig()
    prune: PruneConfig = PruneConfig()
    distill: DistillConfig = Pix2PixDistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
    publish: PublishConfig = PublishConfig()
    sweep: SweepConfig = SweepConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _share_segmenter(cls, settings: Any) -> Any:
        """Gives trainings the segmenter of the evaluation, to choose their weights by mIoU, unless they name one."""
        evaluate = settings.get("evaluate") if isinstance(settings, dict) else None
        if not isinstance(evaluate, dict) or evaluate.get("segmenter") is None:
            return settings
        try:
            SegmenterConfig.model_validate(evaluate["segmenter"])
        except ValidationError:  # evaluate will say so itself
            return settings
        shared = {"segmenter": evaluate["segmenter"]}
        trainings = {name: settings.get(name, {}) for name in ("teacher", "distill")}
        return settings | {name: shared | own for name, own in trainings.items() if isinstance(own, dict)}

    @model_validator(mode="before")
    @classmethod
    def _share_family(cls, settings: Any) -> Any:
        """Gives the distillation the teacher's family, unless it names one."""
        if not isinstance(settings, dict):
            return settings
        teacher, distill = settings.get("teacher", {}), settings.get("distill", {})
        if not (isinstance(teacher, dict) and isinstance(distill, dict) and "family" in teacher):
            return settings
        return settings | {"distill": {"family": teacher["family"], **distill}}

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.distill.family != self.teacher.family:
            raise ValueError(
                f"distill.family is {self.distill.family}, but teacher.family is {self.teacher.family}; "
                "leave distill.family out"
            )
        read, made = self.dataset.channels.values()
        if self.teacher.family == "cyclegan" and read != made:
            raise ValueError(
                f"teacher.family cyclegan translates both ways, but dataset.source_values.channels is {read} and "
                f"dataset.target_values.channels {made} (3 where nothing is stated); make them equal"
            )
        if self.distill.splits_batches and (reason := next(self._undivided_students(), None)):
            raise ValueError(f"distill.images_per_pass: {self.distill.images_per_pass} {cannot_split(reason)}")
        self._check_student_norm()
        self.distill.distiller.check_size(*self.dataset.crop_size)
        for student in self.variations():
            student.distill.distiller.check_size(*self.dataset.crop_size)
        return self

    def variations(self) -> Iterator[StudentSections]:
        """Yields the sections of the students of a sweep, one of each variation."""
        prune, distill = self.section("prune"), self.section("distill")
        for variation in self.sweep.variations:
            yield student_sections(variation, prune=prune, distill=distill, seconds=self.sweep.seconds)

    def _undivided_students(self) -> Iterator[str]:
        """Yields why a batch cannot go through a student and its discriminator in parts."""
        teacher, norm = self.teacher, self.prune.student_norm
        generator = teacher.generator.model_copy(update={"norm": norm}) if norm else teacher.generator
        if norm:
            yield from norm.undivided("prune.student_norm")
        yield from undivided(generator, "teacher.generator")
        yield from undivided(teacher.discriminator, "teacher.discriminator")

    def _check_student_norm(self) -> None:
        norm, distill = self.prune.student_norm, self.distill
        forward = self.prune.generator == "source_to_target"
        file = getattr(distill.published, "generator" if forward else "generator_backward", None)
        if norm is not None and norm.depends_on_batch and distill.trains and file is None:
            raise ValueError(
                f"prune.student_norm.kind is {norm.kind} without running statistics, so that every image of the "
                "student would depend on what else is in its batch, even after training; set "
                "prune.student_norm.track_running_stats: true"
            )

    @property
    def report(self) -> ReportConfig:
        """The report stage's section."""
        return ReportConfig(name=self.name, description=self.description, tracking=self.tracking)

    def section(self, name: str) -> dict[str, Any]:
        """Returns one stage's settings as JSON values without nulls, the form that pipelines pass on."""
        return getattr(self, name).model_dump(mode="json", exclude_none=True)
