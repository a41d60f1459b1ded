"""The publish stage as a Kubeflow component."""

from typing import List

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def publish_students(
    config: dict,
    code_digest: str,
    distilled: dsl.Input[List[dsl.Model]],
    exports: dsl.Input[List[dsl.Model]],
    evaluations: dsl.Input[List[dsl.Artifact]],
    students: dsl.Input[List[dsl.Model]],
    dataset: dsl.Input[dsl.Dataset],
    cards: dsl.Output[dsl.Markdown],
    teacher: dsl.Input[dsl.Model] = None,
) -> None:
    """Adds every student as a version to where people fetch models.

    Args:
        config: The recipe's `publish` section.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        distilled: The trained students.
        exports: Their ONNX files.
        evaluations: Their metrics.
        students: The pruned architectures that they were trained from.
        dataset: Packed images.
        cards: The model cards, each after the address of its version.
        teacher: The trained teacher.
    """
    from components.kubeflow import stage_process

    with stage_process("publish", code_digest):
        from pathlib import Path

        from components.catlib.config import PublishConfig, validate
        from components.catlib.disk import writing_to
        from components.publish.stage import run

        versions = run(
            validate(PublishConfig, config, where="publish"),
            students=[Path(item.path) for item in distilled],
            exports=[Path(item.path) for item in exports],
            evaluations=[Path(item.path) for item in evaluations],
            pruned=[Path(item.path) for item in students],
            dataset=Path(dataset.path),
            teacher=Path(teacher.path) if teacher else None,
            output=config["to"],
        )
        with writing_to(Path(cards.path)):
            text = "\n".join(f"`{version.address}`\n\n{version.card}" for version in versions)
            Path(cards.path).write_text(text, encoding="utf-8")
