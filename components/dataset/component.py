"""The dataset stage as a Kubeflow component."""

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def prepare_dataset(
    config: dict,
    source: str,
    code_digest: str,
    source_version: str,
    dataset: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Packs images of two domains into a few large arrays.

    Args:
        config: The recipe's `dataset` section without the source.
        source: The images: its `source`.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        source_version: Version of the source's content, part of the cache key.
        dataset: The packed images.
        metrics: The numbers of images.
        page: Figures, settings and a sample of the images.
    """
    from components.kubeflow import publish, stage_process

    with stage_process("dataset", code_digest):
        from pathlib import Path

        from components.catlib.config import DatasetConfig, validate
        from components.catlib.errors import UserError
        from components.dataset.stage import run

        if config.setdefault("source", source) != source:
            raise UserError(
                f"Parameter dataset names the source {config['source']}, and dataset_source {source}; name it in "
                "dataset_source alone."
            )
        run(validate(DatasetConfig, config, where="dataset"), output=Path(dataset.path))
        publish(dataset, metrics=metrics, page=page)
