"""Recipe models: every setting of every stage, its unit, its default and its bounds.

A recipe is a YAML file validated by `Recipe`; a stage receives only its own section. Defaults live here and nowhere
else. Kubeflow delivers JSON numbers as floats, so integer fields accept 64.0.
"""

from components.catlib.config.budgets import Budget, parse_budget
from components.catlib.config.complaints import validate
from components.catlib.config.dataset import RGB, DatasetConfig, ValuesConfig
from components.catlib.config.distill import (
    CycleGanDistillConfig,
    DistillConfig,
    Pix2PixDistillConfig,
    SpadeDistillConfig,
)
from components.catlib.config.measuring import Colour, EvaluateConfig, LpipsConfig, RealStatsConfig, SegmenterConfig
from components.catlib.config.networks import (
    DiscriminatorConfig,
    GeneratorConfig,
    InceptionConfig,
    InceptionSpadeConfig,
    MultiscaleConfig,
    NormConfig,
    PatchConfig,
    PixelConfig,
    PublishedConfig,
    PublishedCycleGanConfig,
    StartConfig,
    WeightsConfig,
)
from components.catlib.config.publish import PublishConfig
from components.catlib.config.recipe import Recipe, ReportConfig, TrackingConfig
from components.catlib.config.resources import ResourcesConfig, StageName, StageResources, Toleration
from components.catlib.config.sections import Count, NonNegative, Positive, Section, Size, default_kind
from components.catlib.config.student import ExportConfig, PruneConfig
from components.catlib.config.sweep import StudentSections, SweepConfig, student_sections, varied
from components.catlib.config.teacher import CycleGanConfig, Pix2PixConfig, SpadeConfig, TeacherConfig
from components.catlib.config.training import TrainingConfig

__all__ = [
    "RGB",
    "Budget",
    "Colour",
    "Count",
    "CycleGanConfig",
    "CycleGanDistillConfig",
    "DatasetConfig",
    "DiscriminatorConfig",
    "DistillConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GeneratorConfig",
    "InceptionConfig",
    "InceptionSpadeConfig",
    "LpipsConfig",
    "MultiscaleConfig",
    "NonNegative",
    "NormConfig",
    "PatchConfig",
    "Pix2PixConfig",
    "Pix2PixDistillConfig",
    "PixelConfig",
    "Positive",
    "PruneConfig",
    "PublishConfig",
    "PublishedConfig",
    "PublishedCycleGanConfig",
    "RealStatsConfig",
    "Recipe",
    "ReportConfig",
    "ResourcesConfig",
    "Section",
    "SegmenterConfig",
    "Size",
    "SpadeConfig",
    "SpadeDistillConfig",
    "StageName",
    "StageResources",
    "StartConfig",
    "StudentSections",
    "SweepConfig",
    "TeacherConfig",
    "Toleration",
    "TrackingConfig",
    "TrainingConfig",
    "ValuesConfig",
    "WeightsConfig",
    "default_kind",
    "parse_budget",
    "student_sections",
    "validate",
    "varied",
]
