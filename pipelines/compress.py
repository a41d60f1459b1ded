"""The pipeline: images in, a small generator per compute budget and one report out."""

from typing import List

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.catlib.config import Recipe
from components.dataset.component import prepare_dataset
from components.distill.component import distill_student
from components.evaluate.component import evaluate_student
from components.export.component import export_student
from components.prune.component import prune_teacher
from components.real_stats.component import measure_real_images
from components.report.component import write_report
from components.teacher.component import train_teacher


def compress_pipeline(recipe: Recipe, *, image: str, parallel_students: int = 0) -> GraphComponent:
    """Builds the compression pipeline with a recipe's settings as the defaults of its parameters.

    Every stage gets its own section only, so that a change of one setting leaves the results of earlier stages alone.

    Args:
        recipe: The settings.
        image: Container image of every task.
        parallel_students: How many students are made at a time; 0 means all.

    Returns:
        The pipeline, ready to be compiled or called.
    """

    @dsl.pipeline(name="compress", description=recipe.description, display_name=f"CAT: {recipe.name}")
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
            code_digest: Part of every cache key; set when a run is submitted.

        Returns:
            The report with every student's ONNX file, weights and metrics.
        """
        packed = prepare_dataset(config=dataset, code_digest=code_digest)
        statistics = measure_real_images(config=real_stats, code_digest=code_digest, dataset=packed.outputs["dataset"])
        trained = train_teacher(
            config=teacher,
            code_digest=code_digest,
            dataset=packed.outputs["dataset"],
            real_stats=statistics.outputs["real_stats"],
        )

        with dsl.ParallelFor(budgets, name="students", parallelism=parallel_students) as budget:
            pruned = prune_teacher(
                config=prune, budget=budget, code_digest=code_digest, teacher=trained.outputs["teacher"]
            )
            distilled = distill_student(
                config=distill,
                code_digest=code_digest,
                teacher=trained.outputs["teacher"],
                student=pruned.outputs["student"],
                dataset=packed.outputs["dataset"],
                real_stats=statistics.outputs["real_stats"],
            )
            evaluated = evaluate_student(
                config=evaluate,
                code_digest=code_digest,
                student=distilled.outputs["distilled"],
                teacher=trained.outputs["teacher"],
                dataset=packed.outputs["dataset"],
                real_stats=statistics.outputs["real_stats"],
            )
            exported = export_student(
                config=export,
                code_digest=code_digest,
                student=distilled.outputs["distilled"],
                dataset=packed.outputs["dataset"],
            )

        written = write_report(
            config=report,
            code_digest=code_digest,
            dataset=packed.outputs["dataset"],
            real_stats=statistics.outputs["real_stats"],
            teacher=trained.outputs["teacher"],
            students=dsl.Collected(pruned.outputs["student"]),
            distilled=dsl.Collected(distilled.outputs["distilled"]),
            evaluations=dsl.Collected(evaluated.outputs["evaluation"]),
            exports=dsl.Collected(exported.outputs["exported"]),
        )
        for task in (packed, statistics, trained, pruned, distilled, evaluated, exported, written):
            task.set_container_image(image)
        return written.outputs["report"]

    return compress
