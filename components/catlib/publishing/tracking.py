"""Keeps a run's students in an MLflow server, beside those of other runs: settings, figures, models.

Kubeflow's interface compares a few runs; a registry keeps all of them and can be searched. One student is one MLflow
run, because students are compared. Where KFP's MLflow plugin has opened a run for the task, that run is joined: a
single student is recorded in it, and the runs of several students are nested in it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.catlib.config.dotted import leaves
from components.catlib.credentials import refuse_credentials, without_credentials
from components.catlib.errors import UserError
from components.catlib.reporting.comparison import Comparison, Contender
from components.catlib.reporting.lineage import Artifact, Lineage

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 100
"""Largest number of parameters that MLflow takes in one request."""


def track(comparison: Comparison, lineage: Lineage, page: Path, *, uri: str, experiment: str) -> None:
    """Records every student of a run: the settings of its stages, its scores and costs, its ONNX file and the report.

    Args:
        comparison: The students.
        lineage: The artifacts of the run.
        page: The report.
        uri: Address of the MLflow server.
        experiment: The group of runs; created if it does not exist. A run that is joined has a group already.

    Raises:
        UserError: The package mlflow-skinny is not installed, or the server cannot be reached or refuses.
    """
    refuse_credentials(uri, "tracking.uri")
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
    except ImportError as error:
        raise UserError("Tracking needs the package mlflow-skinny; install it, or remove tracking.uri.") from error
    client = MlflowClient(tracking_uri=uri)
    try:
        opened = _opened(client)
        if opened is not None and len(comparison.students) == 1:
            _record(client, opened, comparison.students[0], lineage, page)  # who has opened it closes it
            logger.info("%s is recorded in MLflow run %s", comparison.students[0].name, opened)
            return
        group = client.get_run(opened).info.experiment_id if opened else _group(client, experiment)
        tags = {MLFLOW_PARENT_RUN_ID: opened} if opened else None
        for student in comparison.students:
            run_id = client.create_run(group, run_name=student.name, tags=tags).info.run_id
            _record(client, run_id, student, lineage, page)
            client.set_terminated(run_id)
            logger.info("%s is recorded as MLflow run %s", student.name, run_id)
    except (MlflowException, OSError) as error:
        reason = without_credentials(str(error).split("\n", 1)[0])[:300]
        raise UserError(f"The MLflow server at {uri} did not record the run ({reason}); check tracking.uri.") from error


def _group(client: Any, experiment: str) -> str:
    found = client.get_experiment_by_name(experiment)
    return found.experiment_id if found else client.create_experiment(experiment)


def _opened(client: Any) -> str | None:
    """Returns the id of the run that KFP's plugin has opened for this task; None if this server has no such run."""
    from mlflow.environment_variables import MLFLOW_RUN_ID
    from mlflow.exceptions import MlflowException

    run_id = MLFLOW_RUN_ID.get()
    if not run_id:
        return None
    try:
        return client.get_run(run_id).info.run_id
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        logger.info("the MLflow server has no run %s (MLFLOW_RUN_ID); the students get runs of their own", run_id)
        return None


def _record(client: Any, run_id: str, student: Contender, lineage: Lineage, page: Path) -> None:
    from mlflow.entities import Metric, Param

    artifacts = {
        "dataset": lineage.dataset,
        "teacher": lineage.teacher,
        "prune": student.pruned,
        "distill": student.trained,
        "export": student.exported,
    }
    parameters = [Param(name, text) for name, text in _settings(artifacts)]
    for start in range(0, len(parameters), MOST_AT_ONCE):
        client.log_batch(run_id, params=parameters[start : start + MOST_AT_ONCE])
    figures = student.figures | {f"{name}_ratio": value for name, value in student.ratio.items()}
    finite = {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
    client.log_batch(run_id, metrics=[Metric(name, value, 0, 0) for name, value in finite.items()])
    client.log_artifact(run_id, str(page))
    if student.exported is not None:
        client.log_artifact(run_id, str(student.exported.folder / "model.onnx"), "model")


def _settings(artifacts: dict[str, Artifact | None]) -> Iterator[tuple[str, str]]:
    """Yields the settings of stages as MLflow keeps them: ("teacher.generator.base_channels", "64")."""
    for stage, artifact in artifacts.items():
        if artifact is not None:
            yield f"{stage}.artifact", artifact.digest
            named = leaves(artifact.manifest.config, stage)
            yield from ((path, str(value)) for path, value in named if value not in (None, {}))
