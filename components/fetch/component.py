"""The fetch stage as a Kubeflow component."""

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def fetch_model(
    address: str,
    kind: str,
    version: str,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    otherwise: str = "",
) -> None:
    """Fetches a trained model of an earlier run.

    Args:
        address: A folder or s3://BUCKET/PREFIX that holds the output of an earlier stage.
        kind: What it must be: teacher, or teacher|distill.
        version: Part of the cache key: tells one content of the address from another.
        model: The artifact, unchanged.
        metrics: Its headline figures.
        summary: The figures and settings that it was made with.
        otherwise: The address to use when `address` is empty.
    """
    from pathlib import Path

    from components.fetch.stage import run
    from components.kubeflow import publish, stage_process

    with stage_process("fetch"):
        run(address=address or otherwise, kind=kind, output=Path(model.path))
        publish(model, metrics=metrics, summary=summary)
