"""The check stage as a Kubeflow component."""

from typing import List

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def check_images(
    teacher: dict,
    distill: dict,
    variations: List[dict],
    prune: dict,
    evaluate: dict,
    code_digest: str,
    dataset: dsl.Input[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Refuses images that a later stage could not use, before anything is trained.

    Args:
        teacher: The recipe's `teacher` section; empty if no teacher is trained.
        distill: The recipe's `distill` section.
        variations: Changes to the `distill` section, a training each; empty: it is trained as it is.
        prune: The recipe's `prune` section.
        evaluate: The recipe's `evaluate` section.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        dataset: Packed images.
        summary: The numbers of images.
    """
    from components.kubeflow import stage_process

    with stage_process("check", code_digest):
        from pathlib import Path

        from components.catlib.config import student_sections
        from components.catlib.disk import writing_to
        from components.check.stage import run

        students = [student_sections(each, prune=prune, distill=distill) for each in variations or [{}]]
        trainings = [student.distill.model_dump(mode="json") for student in students]
        sections = {"teacher": teacher, "distill": trainings, "prune": prune, "evaluate": evaluate}
        text = run(sections, dataset=Path(dataset.path))
        with writing_to(Path(summary.path)):
            Path(summary.path).write_text(text, encoding="utf-8")
