"""The link to TensorBoard as a Kubeflow component.

It is a task of its own, so that the trainings' cache keys are the same with and without it.
"""

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def show_tensorboard(training: dsl.Input[dsl.Model], mlpipeline_ui_metadata: dsl.Output[dsl.Artifact]) -> None:
    """Links to TensorBoard with the curves of a training.

    Args:
        training: Output of the teacher or the distill stage.
        mlpipeline_ui_metadata: The link, under the name and in the form in which Kubeflow's interface looks for it.
    """
    import json
    from pathlib import Path

    link = {"type": "tensorboard", "source": f"{training.uri}/tensorboard"}
    path = Path(mlpipeline_ui_metadata.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": "v1", "outputs": [link]}), encoding="utf-8")
