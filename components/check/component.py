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
    """
    from components.kubeflow import stage_process

    with stage_process("check", code_digest):
        from pathlib import Path

        from components.catlib.config import varied
        from components.check.stage import run

        trainings = [varied(distill, change) for change in variations or [{}]]
        sections = {"teacher": teacher, "distill": trainings, "prune": prune, "evaluate": evaluate}
        run(sections, dataset=Path(dataset.path))
