"""Runs on a cluster: submit, watch, read logs, fetch results, through the API of Kubeflow Pipelines."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components.catlib.errors import Interrupted, UserError
from components.catlib.storage import Storage
from pipelines.compiling import Compiled
from pipelines.connection import PATIENCE_SECONDS, REQUEST_ERRORS, Connection, Kubeflow, quiet
from pipelines.failure import RunFailed
from pipelines.logs import read_logs, stage_error
from pipelines.runs import FINISHED, Run, read_run

POLL_SECONDS = 10.0
"""Between two looks at a run that is watched."""

DEFAULT_ROOT = "s3://mlpipeline/v2/artifacts"
"""Where Kubeflow's own manifests tell it to keep artifacts."""


class Cluster:
    """Kubeflow Pipelines on a cluster."""

    def __init__(self, connection: Connection, *, patience: float = PATIENCE_SECONDS) -> None:
        """Connects.

        Args:
            connection: Where to and as whom.
            patience: Seconds for which failing requests are repeated.

        Raises:
            UserError: Nothing answers within ten seconds, or something else than Kubeflow Pipelines, or it refuses.
        """
        self.connection = connection
        self._kubeflow = Kubeflow(connection, patience=patience)
        self._client = self._kubeflow.client
        self._patiently = self._kubeflow.patiently

    # ---------------------------------------------------------------------------------------------------------- submit

    def submit(
        self,
        compiled: Compiled,
        arguments: Mapping[str, Any],
        *,
        name: str,
        experiment: str,
        root: str | None = None,
        service_account: str | None = None,
    ) -> str:
        """Starts a run.

        Args:
            compiled: The pipeline.
            arguments: Of its parameters; the others keep their defaults.
            name: Of the run, for people; a few characters are added so that it is unique.
            experiment: The group of runs that it belongs to; made when there is none.
            root: Address below which its artifacts go; None: as the cluster is configured.
            service_account: Of its pods; None: as the cluster is configured.

        Returns:
            The run's id.

        Raises:
            UserError: An argument does not fit, or Kubeflow refuses.
        """
        compiled.check_arguments(arguments)
        name = f"{name} {uuid.uuid4().hex[:6]}"
        with tempfile.TemporaryDirectory() as folder, quiet():
            file = Path(folder) / "pipeline.yaml"
            file.write_text(compiled.text, encoding="utf-8")
            group = self._patiently(
                "opening the experiment",
                lambda: self._client.create_experiment(experiment, namespace=self.connection.namespace),
            )

            def create() -> str:
                # After an error it is unknown whether the run was made: a second one could cost days of a GPU.
                if found := self._find(name, group.experiment_id):
                    return found
                made = self._client.run_pipeline(
                    group.experiment_id,
                    name,
                    str(file),
                    params=dict(arguments),
                    pipeline_root=root,
                    service_account=service_account,
                )
                return made.run_id

            return self._patiently("creating the run", create)

    def upload(self, compiled: Compiled, *, name: str, version: str, description: str) -> str:
        """Shows a pipeline in the interface, where its form starts runs.

        Args:
            compiled: The pipeline.
            name: Of the pipeline; made when there is none.
            version: Name of this version of it, unlike those that are there.
            description: One sentence.

        Returns:
            The pipeline's id.

        Raises:
            UserError: Kubeflow refuses.
        """
        with tempfile.TemporaryDirectory() as folder, quiet():
            file = Path(folder) / "pipeline.yaml"
            file.write_text(compiled.text, encoding="utf-8")
            found = self._patiently("looking for the pipeline", lambda: self._client.get_pipeline_id(name))
            try:
                if found is None:
                    made = self._client.upload_pipeline(str(file), name, description, self.connection.namespace)
                    return made.pipeline_id
                self._client.upload_pipeline_version(str(file), version, pipeline_id=found, description=description)
            except REQUEST_ERRORS as error:
                raise self._kubeflow.explain("uploading the pipeline", error) from error
            return found

    def link(self, run_id: str) -> str:
        """Returns the address of a run in the interface."""
        return f"{self.connection.host or ''}/#/runs/details/{run_id}"

    # ----------------------------------------------------------------------------------------------------------- watch

    def run(self, run_id: str) -> Run:
        """Asks for a run.

        Raises:
            UserError: There is no such run, or Kubeflow refuses.
        """
        return read_run(self._patiently(f"reading run {run_id}", lambda: self._client.get_run(run_id)))

    def runs(self, *, count: int = 10) -> list[Run]:
        """Returns the newest runs."""
        listed = self._patiently(
            "listing runs",
            lambda: self._client.list_runs(
                page_size=count, sort_by="created_at desc", namespace=self.connection.namespace
            ),
        )
        return [read_run(run) for run in listed.runs or []]

    def wait(self, run_id: str, *, say: Callable[[str], None]) -> Run:
        """Watches a run until it ends, and tells of every task that changes its state.

        Args:
            run_id: The run.
            say: Receives a line per change.

        Returns:
            The run, which ended well.

        Raises:
            UserError: A stage refused what it was given.
            RunFailed: The run failed or was ended.
            Interrupted: This process was interrupted; the run goes on.
        """
        told: list[str] = []
        try:
            while True:
                run = self.run(run_id)
                lines = [f"{task.name}: {task.state.lower()}" for task in run.tasks]
                for line in sorted(set(lines)):
                    for _ in range(lines.count(line) - told.count(line)):
                        say(line)
                told = lines
                if run.state in FINISHED:
                    break
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            raise Interrupted(f"The run goes on; watch it with: python -m pipelines status {run_id} --wait") from None
        if run.state != "SUCCEEDED":
            self._raise_failure(run)
        return run

    def _raise_failure(self, run: Run) -> None:
        failed = [task for task in run.tasks if task.state == "FAILED"]
        for task in failed:
            if sentence := stage_error(self._kubeflow, run, task):
                raise UserError(f"{task.name}: {sentence}")
        what = f" in {failed[0].name}" if failed else ""
        told = (failed[0].error if failed else "") or run.error
        reason = f" ({told})" if told else ""
        where = f" --task {failed[0].name}" if failed else ""
        raise RunFailed(
            f"Run {run.name} {run.state.lower()}{what}{reason}; see: python -m pipelines logs {run.run_id}{where}"
        )

    def logs(self, run_id: str, *, task: str | None = None, follow: bool = False) -> Iterator[tuple[str, str]]:
        """Reads what the stages of a run wrote.

        Args:
            run_id: The run.
            task: Only of this task; None: of all.
            follow: Wait for further lines of pods that run.

        Yields:
            Name of a pod's task, and a line.

        Raises:
            UserError: There is no such run or task.
        """
        return read_logs(self._kubeflow, self.run(run_id), task=task, follow=follow)

    # ----------------------------------------------------------------------------------------------------------- fetch

    def fetch(self, run_id: str, folder: Path, *, root: str | None = None) -> Path:
        """Downloads a run's report with every student's ONNX file, weights and metrics.

        Args:
            run_id: A run that has written its report.
            folder: Where to put it; must not exist.
            root: Address below which the cluster keeps artifacts; None: the run's own, or else `DEFAULT_ROOT`.

        Returns:
            The folder.

        Raises:
            UserError: The folder exists, there is no report, or the object store refuses.
        """
        if folder.exists():
            raise UserError(f"{folder} exists; choose another folder or remove it.")
        run = self.run(run_id)
        address = f"{(root or run.root or DEFAULT_ROOT).rstrip('/')}/{run.pipeline}/{run_id}/write-report"
        store = Storage()
        found = [name for name in sorted(store.file_names(address)) if name.endswith("/report/manifest.json")]
        if not found:
            raise UserError(
                f"There is no report below {address}; the run is {run.state.lower()}. If the cluster keeps artifacts "
                "elsewhere, give its defaultPipelineRoot with --root."
            )
        return store.fetch(f"{address}/{found[-1].removesuffix('/manifest.json')}", folder, "report")

    def _find(self, name: str, experiment_id: str) -> str | None:
        wanted = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
        listed = self._client.list_runs(experiment_id=experiment_id, filter=json.dumps(wanted))
        return next((run.run_id for run in listed.runs or [] if run.display_name == name), None)
