"""A small grid: one teacher, and a student for every combination of budget, distillation settings and seed."""

from typing import List

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.catlib.config import Recipe
from components.sweep.component import plan_sweep
from components.teacher.component import train_teacher
from pipelines.resources import Placement, pipeline_config
from pipelines.stages import make_student, prepare_images, report_students


def sweep_pipeline(recipe: Recipe, placement: Placement) -> GraphComponent:
    """Builds the pipeline that makes a student per combination of budget, variation of the distillation and seed.

    Args:
        recipe: The settings.
        placement: Image of the tasks, and what they get on a cluster.

    Returns:
        The pipeline, ready to be compiled or called.
    """

    @dsl.pipeline(
        name="sweep",
        description=f"A grid of students. {recipe.description}",
        display_name=f"CAT: {recipe.name}, sweep",
        pipeline_config=pipeline_config(placement.resources),
    )
    def sweep(
        budgets: List[str] = list(recipe.budgets),
        variations: List[dict] = list(recipe.sweep.variations),
        seeds: List[int] = list(recipe.sweep.seeds),
        dataset: dict = recipe.section("dataset"),
        real_stats: dict = recipe.section("real_stats"),
        teacher: dict = recipe.section("teacher"),
        prune: dict = recipe.section("prune"),
        distill: dict = recipe.section("distill"),
        evaluate: dict = recipe.section("evaluate"),
        export: dict = recipe.section("export"),
        report: dict = recipe.section("report"),
        source_version: str = "",
        code_digest: str = "",
    ) -> dsl.Artifact:
        """Trains one teacher and makes a student for every combination of budget, variation and seed.

        Args:
            budgets: Compute budgets: MACs such as 2.6e9, or shares of the teacher's such as 0.05x.
            variations: Differences to the distill section; distiller.weight 0 shows what distillation is good for.
            seeds: Replace the seed of the students' training; several show how much is chance.
            dataset: Where the images come from and how they are packed.
            real_stats: Which features the distance between image sets uses.
            teacher: The large generator and its training.
            prune: How the students' channels are chosen.
            distill: What the students' trainings have in common.
            evaluate: What is measured.
            export: The ONNX files.
            report: Heading and description of the report.
            source_version: Part of the dataset's cache key; another text packs the images anew.
            code_digest: Part of every cache key; set when a run is submitted.

        Returns:
            The report with every student's ONNX file, weights and metrics.
        """
        plan = placement.place(
            "other",
            plan_sweep(
                budgets=budgets,
                variations=variations,
                seeds=seeds,
                distill=distill,
                code_digest=code_digest,
            ),
        )
        images = prepare_images(
            placement,
            dataset=dataset,
            source_version=source_version,
            real_stats=real_stats,
            code_digest=code_digest,
        )
        trained = placement.place(
            "teacher",
            train_teacher(
                config=teacher, code_digest=code_digest, dataset=images.dataset, real_stats=images.real_stats
            ),
        )
        with dsl.ParallelFor(plan.outputs["Output"], name="students", parallelism=placement.parallel_students) as point:
            student = make_student(
                placement,
                teacher=trained.outputs["teacher"],
                images=images,
                budget=point.budget,
                prune=prune,
                distill=point.distill,
                evaluate=evaluate,
                export=export,
                code_digest=code_digest,
            )
        return report_students(
            placement,
            report=report,
            images=images,
            teacher=trained.outputs["teacher"],
            student=student,
            code_digest=code_digest,
        )

    return sweep
