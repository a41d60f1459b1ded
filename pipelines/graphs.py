"""Parts of all four graphs: how a graph becomes a pipeline, and the chains of tasks from images to an ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.catlib.config import Recipe
from components.catlib.storage import is_remote
from components.check.component import check_images
from components.dataset.component import prepare_dataset
from components.distill.component import distill_student
from components.evaluate.component import evaluate_student
from components.export.component import export_student
from components.prune.component import prune_teacher
from components.publish.component import publish_students
from components.real_stats.component import measure_real_images
from components.report.component import write_report
from components.teacher.component import train_teacher
from components.tensorboard.component import show_tensorboard
from pipelines.parameters import PARAMETERS, Given, with_signature
from pipelines.resources import Placement, pipeline_config

Graph = Callable[[SimpleNamespace, Placement], Any]
"""Takes the parameters, each an attribute of one object, and the placement; adds the tasks and returns the report."""

Build = Callable[..., GraphComponent]
"""Takes a recipe, the placement and, as the third, defaults of parameters that no recipe gives; returns a pipeline."""

_NONE: Mapping[str, str] = MappingProxyType({})


def pipeline(name: str, *, description: str = "{description}", title: str = "CAT: {name}") -> Callable[[Graph], Build]:
    """Turns a graph into the function that builds its pipeline with a recipe's settings as the parameters' defaults.

    Every stage gets only its own section, so that a change of one setting leaves the results of earlier stages alone.

    Args:
        name: Name of the pipeline; `PARAMETERS` holds its parameters.
        description: Description of a run, with the recipe's `{description}`.
        title: Title of a run in Kubeflow's interface, with the recipe's `{name}`.
    """

    def decorate(graph: Graph) -> Build:
        def build(recipe: Recipe, placement: Placement, versions: Mapping[str, str] = _NONE) -> GraphComponent:
            def placed(given: SimpleNamespace) -> dsl.Artifact:
                given.publish = _publishing(recipe, placement)
                return graph(given, placement)

            placed.__doc__ = graph.__doc__
            placed.__annotations__["return"] = dsl.Artifact
            make = dsl.pipeline(
                name=name,
                description=description.format(description=recipe.description),
                display_name=title.format(name=recipe.name),
                pipeline_config=pipeline_config(placement.resources),
            )
            return make(with_signature(placed, PARAMETERS[name], recipe, versions))

        build.__doc__ = graph.__doc__
        return build

    return decorate


def _publishing(recipe: Recipe, placement: Placement) -> dict[str, Any] | None:
    """Returns the settings of the last task, which is compiled in; None if nothing is published."""
    to = recipe.publish.to
    if to is None:
        return None
    here = placement.resources is None and not is_remote(to)
    return recipe.section("publish") | {"to": str(Path(to).resolve()) if here else to}


@dataclass(frozen=True)
class Images:
    """The artifacts with which every pipeline begins."""

    dataset: Given
    real_stats: Given


def prepare_images(given: SimpleNamespace, placement: Placement) -> Images:
    """Packs the images and computes their statistics; returns both artifacts."""
    packed = placement.place(
        "dataset",
        prepare_dataset(
            config=given.dataset,
            source=given.dataset_source,
            code_digest=placement.code_digest("dataset"),
            source_version=given.source_version,
        ),
    )
    measured = placement.place(
        "real_stats",
        measure_real_images(
            config=given.real_stats,
            code_digest=placement.code_digest("real_stats"),
            dataset=packed.outputs["dataset"],
        ),
    )
    return Images(packed.outputs["dataset"], measured.outputs["real_stats"])


def check_needs(
    given: SimpleNamespace,
    placement: Placement,
    images: Images,
    *,
    teacher: Given = None,
    variations: Given = None,
) -> dsl.PipelineTask:
    """Checks that the images do for every stage to come; trainings wait for it.

    It is a task of its own, because what later stages need must not change the key of an earlier one.

    Args:
        given: The pipeline's parameters.
        placement: Places the tasks.
        images: The images.
        teacher: Settings of the teacher's training; None: no teacher is trained.
        variations: Changes to the distillation, a training each; None: there is one.
    """
    checked = check_images(
        teacher={} if teacher is None else teacher,
        distill=given.distill,
        variations=[] if variations is None else variations,
        prune=given.prune,
        evaluate=given.evaluate,
        code_digest=placement.code_digest("check"),
        dataset=images.dataset,
    )
    return placement.place("other", checked)


def make_teacher(given: SimpleNamespace, placement: Placement, images: Images, *, checked: dsl.PipelineTask) -> Given:
    """Trains the teacher once the images are checked; returns its artifact."""
    trained = train_teacher(
        config=given.teacher,
        code_digest=placement.code_digest("teacher"),
        dataset=images.dataset,
        real_stats=images.real_stats,
    )
    placement.place("teacher", trained).after(checked)
    _link_curves(placement, trained.outputs["teacher"])
    return trained.outputs["teacher"]


def _link_curves(placement: Placement, training: Given) -> None:
    """Adds the task that links to a training's curves, where Kubeflow has a viewer for them."""
    if placement.tensorboard:
        placement.place("other", show_tensorboard(training=training))


@dataclass(frozen=True)
class StudentTasks:
    """Tasks that make one student."""

    pruned: dsl.PipelineTask
    distilled: dsl.PipelineTask
    evaluated: dsl.PipelineTask
    exported: dsl.PipelineTask


def make_student(
    given: SimpleNamespace,
    placement: Placement,
    *,
    images: Images,
    teacher: Given,
    budget: Given,
    prune: Given = None,
    distill: Given = None,
) -> StudentTasks:
    """Prunes a teacher to a budget, distils it into the student, evaluates the student and exports it.

    Args:
        given: The pipeline's parameters.
        placement: Places the tasks.
        images: The images.
        teacher: The teacher's artifact.
        budget: The student's compute budget.
        prune: Settings of pruning; None: the pipeline's.
        distill: Settings of the training; None: the pipeline's.
    """
    code_digest, shared = placement.code_digest, {"teacher": teacher, **vars(images)}
    pruned = prune_teacher(
        config=given.prune if prune is None else prune,
        budget=budget,
        code_digest=code_digest("prune"),
        teacher=teacher,
    )
    distilled = distill_student(
        config=given.distill if distill is None else distill,
        code_digest=code_digest("distill"),
        student=pruned.outputs["student"],
        **shared,
    )
    student = distilled.outputs["distilled"]
    evaluated = evaluate_student(config=given.evaluate, code_digest=code_digest("evaluate"), student=student, **shared)
    exported = export_student(config=given.export, code_digest=code_digest("export"), student=student, **shared)
    _link_curves(placement, student)
    return StudentTasks(
        placement.place("prune", pruned),
        placement.place("distill", distilled),
        placement.place("evaluate", evaluated),
        placement.place("export", exported),
    )


def report_students(
    given: SimpleNamespace,
    placement: Placement,
    *,
    images: Images,
    student: StudentTasks,
    teacher: Given = None,
    earlier: Given = None,
) -> Given:
    """Reports on all students of the loop that made `student`, and publishes them on request; returns the report.

    Args:
        given: The pipeline's parameters.
        placement: Places the tasks.
        images: The images.
        student: The tasks of the loop.
        teacher: The teacher's artifact.
        earlier: Addresses of the reports of earlier sweeps, whose students are compared with these; None: none.
    """

    def artifacts() -> dict[str, Any]:
        """Returns them for one task; tasks cannot share what is collected."""
        return {
            "dataset": images.dataset,
            "students": dsl.Collected(student.pruned.outputs["student"]),
            "distilled": dsl.Collected(student.distilled.outputs["distilled"]),
            "evaluations": dsl.Collected(student.evaluated.outputs["evaluation"]),
            "exports": dsl.Collected(student.exported.outputs["exported"]),
        } | ({} if teacher is None else {"teacher": teacher})

    written = write_report(
        config=given.report,
        code_digest=placement.code_digest("report"),
        real_stats=images.real_stats,
        **artifacts(),
        **({} if earlier is None else {"earlier": earlier, "earlier_version": given.model_version}),
    )
    placement.place("report", written)
    if given.publish is not None:
        published = publish_students(config=given.publish, code_digest=placement.code_digest("publish"), **artifacts())
        # Of the same content it adds nothing, and a cached answer would not look whether the version is still there.
        placement.place("publish", published).after(written).set_caching_options(enable_caching=False)
    return written.outputs["report"]
