"""Students of a teacher that is there already: distillation without training a teacher."""

from typing import List

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.catlib.config import Recipe
from components.fetch.component import fetch_teacher
from pipelines.resources import Placement, pipeline_config
from pipelines.stages import make_student, prepare_images, report_students


def distill_only_pipeline(recipe: Recipe, placement: Placement) -> GraphComponent:
    """Builds the pipeline that makes students of an earlier run's or a published teacher, one per budget.

    Args:
        recipe: The settings.
        placement: Image of the tasks, and what they get on a cluster.

    Returns:
        The pipeline, ready to be compiled or called.
    """

    @dsl.pipeline(
        name="distill-only",
        description=f"Students of an earlier teacher. {recipe.description}",
        display_name=f"CAT: {recipe.name}, distillation only",
        pipeline_config=pipeline_config(placement.resources),
    )
    def distill_only(
        teacher: str,
        budgets: List[str] = list(recipe.budgets),
        dataset: dict = recipe.section("dataset"),
        real_stats: dict = recipe.section("real_stats"),
        teacher_settings: dict = recipe.section("teacher"),
        prune: dict = recipe.section("prune"),
        distill: dict = recipe.section("distill"),
        evaluate: dict = recipe.section("evaluate"),
        export: dict = recipe.section("export"),
        report: dict = recipe.section("report"),
        source_version: str = "",
        model_version: str = "",
        code_digest: str = "",
    ) -> dsl.Artifact:
        """Compresses a teacher of an earlier run, or a published one, to one or several compute budgets.

        Args:
            teacher: Where its artifact lies: s3://BUCKET/PREFIX or a local folder; or a published .pth, https:// too.
            budgets: One student per budget: MACs such as 2.6e9, or a share of the teacher's such as 0.05x.
            dataset: Where the images come from and how they are packed.
            real_stats: Which features the distance between image sets uses.
            teacher_settings: The recipe's teacher section, for what a .pth file does not tell: family, padding, the
                published discriminator (without one, a fresh one is used).
            prune: How the student's channels are chosen, and which direction a .pth file translates.
            distill: The student's training.
            evaluate: What is measured.
            export: The ONNX file.
            report: Heading and description of the report.
            source_version: Part of the dataset's cache key; another text packs the images anew.
            model_version: Part of the teacher's cache key; another text fetches it anew.
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
        fetched = placement.place(
            "other",
            fetch_teacher(
                address=teacher,
                version=model_version,
                config=teacher_settings,
                prune=prune,
                code_digest=code_digest,
                dataset=images.dataset,
            ),
        )
        fetched_teacher = fetched.outputs["teacher"]
        with dsl.ParallelFor(budgets, name="students", parallelism=placement.parallel_students) as budget:
            student = make_student(
                placement,
                teacher=fetched_teacher,
                images=images,
                budget=budget,
                prune=prune,
                distill=distill,
                evaluate=evaluate,
                export=export,
                code_digest=code_digest,
            )
        # An earlier teacher was made from another run's dataset artifact, so it is no part of this run's report.
        return report_students(
            placement,
            report=report,
            images=images,
            student=student,
            code_digest=code_digest,
        )

    return distill_only
