"""The real-image statistics stage as a Kubeflow component."""

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def measure_real_images(
    config: dict,
    code_digest: str,
    dataset: dsl.Input[dsl.Dataset],
    real_stats: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Computes feature statistics of the real images that generated ones are compared with.

    Args:
        config: The recipe's `real_stats` section.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        dataset: Packed images.
        real_stats: Mean, covariance and features.
        metrics: Image count and feature dimensions.
        page: Figures and settings.
    """
    from components.kubeflow import publish, stage_process

    with stage_process("real-stats", code_digest):
        from pathlib import Path

        from components.catlib.config import RealStatsConfig, validate
        from components.real_stats.stage import run

        run(
            validate(RealStatsConfig, config, where="real_stats"),
            dataset=Path(dataset.path),
            output=Path(real_stats.path),
        )
        publish(real_stats, metrics=metrics, page=page)
