"""The scores of generators that are there already, on these images."""

from typing import List

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.catlib.config import Recipe
from components.evaluate.component import evaluate_student
from components.fetch.component import fetch_model
from components.report.component import write_report
from pipelines.resources import Placement, pipeline_config
from pipelines.stages import prepare_images


def evaluate_only_pipeline(recipe: Recipe, placement: Placement) -> GraphComponent:
    """Builds the pipeline that scores generators of earlier runs.

    Args:
        recipe: The settings.
        placement: Image of the tasks, and what they get on a cluster.

    Returns:
        The pipeline, ready to be compiled or called.
    """

    @dsl.pipeline(
        name="evaluate-only",
        description=f"Scores of earlier generators. {recipe.description}",
        display_name=f"CAT: {recipe.name}, evaluation only",
        pipeline_config=pipeline_config(placement.resources),
    )
    def evaluate_only(
        students: List[str],
        teacher: str = "",
        dataset: dict = recipe.section("dataset"),
        real_stats: dict = recipe.section("real_stats"),
        evaluate: dict = recipe.section("evaluate"),
        report: dict = recipe.section("report"),
        source_version: str = "",
        model_version: str = "",
        code_digest: str = "",
    ) -> dsl.Artifact:
        """Scores generators of earlier runs, with their teacher beside them or alone.

        Args:
            students: Where the artifacts of distilled students, or of teachers, lie: s3://BUCKET/PREFIX, or folders
                when the pipeline runs locally.
            teacher: Where their teacher's lies; empty: they are scored alone.
            dataset: Where the images come from and how they are packed.
            real_stats: Which features the distance between image sets uses.
            evaluate: What is measured.
            report: Heading and description of the report.
            source_version: Part of the dataset's cache key; another text packs the images anew.
            model_version: Part of the models' cache keys; another text fetches them anew.
            code_digest: Part of every cache key; set when a run is submitted.

        Returns:
            The report with every generator's metrics.
        """
        images = prepare_images(
            placement,
            dataset=dataset,
            source_version=source_version,
            real_stats=real_stats,
            code_digest=code_digest,
        )
        with dsl.ParallelFor(students, name="students", parallelism=placement.parallel_students) as student:
            fetched_student = fetch_model(address=student, kind="teacher|distill", version=model_version)
            # Kubeflow has no optional artifacts: without a teacher, the student stands in for it, and the evaluation
            # knows the two for one.
            fetched_teacher = fetch_model(
                address=teacher, otherwise=student, kind="teacher|distill", version=model_version
            )
            evaluated = evaluate_student(
                config=evaluate,
                code_digest=code_digest,
                student=fetched_student.outputs["model"],
                teacher=fetched_teacher.outputs["model"],
                dataset=images.dataset,
                real_stats=images.real_stats,
            )
            placement.place("other", fetched_student)
            placement.place("other", fetched_teacher)
            placement.place("evaluate", evaluated)
        written = write_report(
            config=report,
            code_digest=code_digest,
            dataset=images.dataset,
            real_stats=images.real_stats,
            evaluations=dsl.Collected(evaluated.outputs["evaluation"]),
        )
        return placement.place("report", written).outputs["report"]

    return evaluate_only
