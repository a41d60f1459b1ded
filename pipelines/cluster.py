"""Runs on a cluster: submit, watch, read logs, fetch results, through the API of Kubeflow Pipelines."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.catlib.artifacts import complete_replacing, replacing_folder
from components.catlib.credentials import refuse_credentials
from components.catlib.disk import temporary_folder
from components.catlib.errors import UserError
from components.catlib.storage import Storage
from pipelines.compiling import Compiled
from pipelines.connection import PATIENCE_SECONDS, REQUEST_ERRORS, Connection, Kubeflow, quiet
from pipelines.logs import Logs
from pipelines.lost import lost_results
from pipelines.outputs import check_writable
from pipelines.preflight import Finding, Plan
from pipelines.preflight_cluster import cluster_findings
from pipelines.runs import FINISHED, Run, pipeline_of, read_run
from pipelines.watching import watch
from pipelines.workflows import Workflow

logger = logging.getLogger(__name__)

REPORT = "write-report"
"""The task that every pipeline ends with."""


@dataclass(frozen=True)
class Earlier:
    """An earlier run of a pipeline.

    Attributes:
        run_id: Its id.
        name: Its name.
        spec: Its pipeline.
        arguments: Values of its parameters; the others had their defaults.
    """

    run_id: str
    name: str
    spec: dict[str, Any]
    arguments: Mapping[str, Any]


class Cluster:
    """Kubeflow Pipelines on a cluster."""

    def __init__(self, connection: Connection, *, patience: float = PATIENCE_SECONDS) -> None:
        """Connects.

        Args:
            connection: Address and credentials.
            patience: Seconds for which failing requests are repeated.

        Raises:
            UserError: Nothing answers within ten seconds, or the answer is not from Kubeflow Pipelines or a refusal.
        """
        self.connection = connection
        self._kubeflow = Kubeflow(connection, patience=patience)
        self._client = self._kubeflow.client
        self._patiently = self._kubeflow.patiently

    def findings(self, plan: Plan) -> Iterator[Finding]:
        """Yields what is wrong with a run as far as the cluster shows it; see `pipelines.preflight`."""
        return cluster_findings(plan, self._kubeflow)

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
            arguments: Values of its parameters; the others keep their defaults.
            name: Name of the run for people; a few characters are added to make it unique.
            experiment: Experiment (group of runs) of the run; created if it does not exist.
            root: Address below which the run writes its artifacts; None: as the cluster is configured.
            service_account: Service account of its pods; None: as the cluster is configured.

        Returns:
            The run's id.

        Raises:
            UserError: An argument does not fit, or Kubeflow refuses.
        """
        refuse_credentials({"name": name, "experiment": experiment, "root": root}, "")
        compiled.check_arguments(arguments)
        name = f"{name} {uuid.uuid4().hex[:6]}"
        with temporary_folder("pipeline-") as folder, quiet():
            file = folder / "pipeline.yaml"
            file.write_text(compiled.text, encoding="utf-8")
            group = self._patiently(
                "opening the experiment",
                lambda: self._client.create_experiment(experiment, namespace=self.connection.namespace),
            )

            def create() -> str:
                # After an error it is unknown whether the run exists: a second one could cost days of a GPU.
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
        """Adds a pipeline to the interface, which has a form to start it.

        Args:
            compiled: The pipeline.
            name: Name of the pipeline; it is created if it does not exist.
            version: Name of this version, which no earlier version has.
            description: One sentence about the pipeline.

        Returns:
            The pipeline's id.

        Raises:
            UserError: Kubeflow refuses.
        """
        with temporary_folder("pipeline-") as folder, quiet():
            file = folder / "pipeline.yaml"
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
        """Returns the address of a run's page; "" if only the API is known, which has no pages."""
        host = self.connection.host
        if host is None or not self._kubeflow.is_interface:
            return ""
        return f"{host.partition('#')[0].rstrip('/')}/#/runs/details/{run_id}"

    def where_to_look(self, run_id: str) -> str:
        """Returns the address of a run's page, or else how to get one."""
        return self.link(run_id) or (
            "this address is the API's, which has no pages; after kubectl port-forward -n "
            f"{self.connection.kubeflow_namespace} service/ml-pipeline-ui 8080:80 the run's page is "
            f"http://localhost:8080/#/runs/details/{run_id}"
        )

    # ----------------------------------------------------------------------------------------------------------- steer

    def cancel(self, run_id: str) -> Run:
        """Ends a run.

        Returns:
            The run as it was before.

        Raises:
            UserError: There is no such run, it has ended, or Kubeflow refuses.
        """
        run = self.run(run_id)
        if run.state in FINISHED:
            raise UserError(f"Run {run_id} has ended ({run.state.lower()}); there is nothing to cancel.")
        self._patiently(f"ending run {run_id}", lambda: self._client._run_api.run_service_terminate_run(run_id))
        return run

    def retry(self, run_id: str) -> Run:
        """Starts the failed stages of a run again, with the settings that it had.

        Returns:
            The run as it was before.

        Raises:
            UserError: There is no such run, it has not failed, or Kubeflow refuses.
        """
        run = self.run(run_id)
        if run.state not in ("FAILED", "CANCELED"):
            raise UserError(
                f"Run {run_id} is {run.state.lower()}; only a run that failed or was canceled can be tried again."
            )
        self._patiently(f"retrying run {run_id}", lambda: self._client._run_api.run_service_retry_run(run_id))
        return run

    # ----------------------------------------------------------------------------------------------------------- watch

    def run(self, run_id: str) -> Run:
        """Reads a run and its tasks.

        Raises:
            UserError: There is no such run, or Kubeflow refuses.
        """
        raw = self._patiently(f"reading run {run_id}", lambda: self._client.get_run(run_id))
        return read_run(raw, Workflow(self.workflow(run_id)))

    def workflow(self, run_id: str) -> dict[str, Any]:
        """Reads a run's Argo workflow; {} if Kubeflow does not have it any more.

        Raises:
            UserError: There is no such run, or Kubeflow refuses.
        """
        answer = self._kubeflow.read(f"reading the tasks of run {run_id}", f"/apis/v1beta1/runs/{run_id}")
        return json.loads(answer.get("pipeline_runtime", {}).get("workflow_manifest") or "{}")

    def runs(self) -> list[Run]:
        """Returns the ten newest runs."""
        listed = self._patiently(
            "listing runs",
            lambda: self._client.list_runs(
                page_size=10, sort_by="created_at desc", namespace=self.connection.namespace
            ),
        )
        return [read_run(run) for run in listed.runs or []]

    def newest(self, pipeline: str) -> Earlier | None:
        """Returns the newest run of a pipeline; None if there is none, or it cannot be read."""
        try:
            listed = self._client.list_runs(
                page_size=20, sort_by="created_at desc", namespace=self.connection.namespace
            )
            for run in listed.runs or []:
                spec = pipeline_of(run)
                whole = {"components", "deploymentSpec", "root"} <= spec.keys()
                if whole and spec["pipelineInfo"]["name"] == pipeline:
                    given = (run.runtime_config.parameters if run.runtime_config else None) or {}
                    return Earlier(run.run_id, run.display_name, spec, given)
        except (*REQUEST_ERRORS, KeyError, TypeError, AttributeError):
            logger.debug("earlier runs cannot be read", exc_info=True)
        return None

    def lost_results(self, earlier: Earlier, *, made_anew: Container[str]) -> Iterator[Finding]:
        """Yields the tasks of an earlier run whose results are gone from the store; see `pipelines.lost`.

        Args:
            earlier: The run.
            made_anew: Stages that do not count, because they run anew.
        """
        try:
            workflow = self.workflow(earlier.run_id)
        except (UserError, AttributeError, TypeError, ValueError):
            logger.debug("the earlier run's workflow cannot be read", exc_info=True)
            return
        yield from lost_results(earlier.name, workflow, made_anew=made_anew)

    def wait(self, run_id: str, *, say: Callable[[str], None]) -> Run:
        """Waits until a run ends and succeeds, as `watch` does; `say` receives a line per change."""
        return watch(run_id, lambda: self.run(run_id), Logs(self._kubeflow), self.connection, say=say)

    def logs(
        self, run_id: str, *, task: str | None = None, follow: bool = False, everything: bool = False
    ) -> Iterator[tuple[str, str]]:
        """Reads the log lines of a run's stages, as `Logs.read` does.

        Raises:
            UserError: There is no such run or task, or no log can be read.
        """
        return Logs(self._kubeflow).read(lambda: self.run(run_id), task=task, follow=follow, everything=everything)

    def stage_errors(self, run: Run) -> dict[str, str]:
        """Returns what failed stages, or else Kubeflow's launcher, said of it, as far as logs can be read.

        Returns:
            A sentence by task.
        """
        logs, found = Logs(self._kubeflow), {}
        for task in run.failed:
            if error := logs.stage_error(run, task):
                found[task.name] = str(error)
            elif reason := logs.launchers_failure(run, task):
                found[task.name] = f"Kubeflow's launcher could not do its own part: {reason}"
        return found

    # ----------------------------------------------------------------------------------------------------------- fetch

    def fetch(self, run_id: str, folder: Path, *, root: str | None = None) -> Path:
        """Downloads a run's report with every student's ONNX file, weights and metrics.

        Args:
            run_id: Id of a run that has written its report.
            folder: Where the report goes; must not exist.
            root: Address below which the cluster keeps artifacts; None: where the run says that it keeps them.

        Returns:
            The folder.

        Raises:
            UserError: The folder exists, there is no report, or the object store refuses.
        """
        complete_replacing(folder)
        if folder.exists():
            raise UserError(f"{folder} exists; choose another folder or remove it.")
        check_writable(folder)
        address = self.report_address(run_id, root=root)
        with replacing_folder(folder, what=f"--output {folder}") as made:
            Storage().fetch(address, made, "report")
        return folder

    def report_address(self, run_id: str, *, root: str | None = None) -> str:
        """Returns the address of a run's report; arguments and errors as for `fetch`."""
        run = self.run(run_id)
        root = root or run.root
        if not root:
            raise UserError(
                f"Run {run_id} is {run.state.lower()}, and no task of it has written anything yet; fetch its report "
                "once the task write-report has ended, or give the cluster's defaultPipelineRoot with --root."
            )
        address = f"{root.rstrip('/')}/{run.pipeline}/{run_id}/{REPORT}"
        found = [name for name in sorted(Storage().file_names(address)) if name.endswith("/report/manifest.json")]
        if not found:
            report = next((f", its task {task.name} {task.said}" for task in run.tasks if task.kind == REPORT), "")
            raise UserError(
                f"There is no report below {address}; the run is {run.state.lower()}{report}. If the cluster keeps "
                "artifacts elsewhere, give its defaultPipelineRoot with --root."
            )
        return f"{address}/{found[-1].removesuffix('/manifest.json')}"

    def _find(self, name: str, experiment_id: str) -> str | None:
        wanted = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
        listed = self._client.list_runs(experiment_id=experiment_id, filter=json.dumps(wanted))
        return next((run.run_id for run in listed.runs or [] if run.display_name == name), None)
