"""The pipeline: images in, a small generator per compute budget and one report out."""

from typing import List

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.catlib.config import Recipe
from components.teacher.component import train_teacher
from pipelines.resources import Placement, pipeline_config
from pipelines.stages import make_student, prepare_images, report_students


def compress_pipeline(recipe: Recipe, placement: Placement) -> GraphComponent:
    """Builds the compression pipeline with a recipe's settings as the defaults of its parameters.

    Every stage gets its own section only, so that a change of one setting leaves the results of earlier stages alone.

    Args:
        recipe: The settings.
        placement: Image of the tasks, and what they get on a cluster.

    Returns:
        The pipeline, ready to be compiled or called.
    """

    @dsl.pipeline(
        name="compress",
        description=recipe.description,
        display_name=f"CAT: {recipe.name}",
        pipeline_config=pipeline_config(placement.resources),
    )
    def compress(
        budgets: List[str] = list(recipe.budgets),
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
        """Compresses an image-to-image generator to one or several compute budgets.

        Args:
            budgets: One student per budget: MACs such as 2.6e9, or a share of the teacher's such as 0.05x.
            dataset: Where the images come from and how they are packed.
            real_stats: Which features the distance between image sets uses.
            teacher: The large generator and its training.
            prune: How the student's channels are chosen.
            distill: The student's training.
            evaluate: What is measured.
            export: The ONNX file.
            report: Heading and description of the report.
            source_version: Part of the dataset's cache key; another text packs the images anew.
            code_digest: Part of every cache key; set when a run is submitted.

        Returns:
            The report with every student's ONNX file, weights and metrics.
        """
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
        with dsl.ParallelFor(budgets, name="students", parallelism=placement.parallel_students) as budget:
            student = make_student(
                placement,
                teacher=trained.outputs["teacher"],
                images=images,
                budget=budget,
                prune=prune,
                distill=distill,
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

    return compress
