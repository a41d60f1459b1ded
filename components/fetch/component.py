"""The fetch stage as Kubeflow components."""

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def fetch_model(
    address: str,
    kind: str,
    version: str,
    code_digest: str,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    otherwise: str = "",
) -> None:
    """Fetches a trained model of an earlier run.

    Args:
        address: A folder or s3://BUCKET/PREFIX that holds the output of an earlier stage.
        kind: Expected kind of artifact: teacher, or teacher|distill.
        version: Part of the cache key; it differs when the content of the address differs.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        model: The artifact, unchanged.
        metrics: Headline figures of the model.
        page: The model's figures, curves and samples, and the settings that it was made with.
        otherwise: Address to use when `address` is empty.
    """
    from components.kubeflow import publish, stage_process

    with stage_process("fetch", code_digest):
        from pathlib import Path

        from components.fetch.stage import run

        run(address=address or otherwise, kind=kind, output=Path(model.path))
        publish(model, metrics=metrics, page=page)


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def fetch_teacher(
    address: str,
    version: str,
    config: dict,
    prune: dict,
    code_digest: str,
    dataset: dsl.Input[dsl.Dataset],
    teacher: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Fetches a teacher of an earlier run, or a published one.

    Args:
        address: A folder or s3://BUCKET/PREFIX that holds the output of an earlier teacher stage; or a .pth file (a
            path, s3:// or https:// address) with the state dict of a published generator.
        version: Part of the cache key; it differs when the content of the address differs.
        config: The recipe's `teacher` section, for what a published state dict does not contain.
        prune: The recipe's `prune` section, which names the direction of a published generator.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        dataset: Packed images, which a published generator must fit.
        teacher: Generator(s) and discriminator(s).
        metrics: Headline figures of the teacher.
        page: The model's figures, curves and samples, and the settings that it was made with.
    """
    from components.kubeflow import publish, stage_process

    with stage_process("fetch-teacher", code_digest):
        from pathlib import Path

        from components.catlib.config import PruneConfig, TeacherConfig, validate
        from components.fetch.teacher import run

        run(
            address,
            config=validate(TeacherConfig, config, where="teacher"),
            prune=validate(PruneConfig, prune, where="prune"),
            dataset=Path(dataset.path),
            output=Path(teacher.path),
        )
        publish(teacher, metrics=metrics, page=page)
