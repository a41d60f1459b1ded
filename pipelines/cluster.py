"""Runs on a cluster: submit, watch, read logs, fetch results, through the API of Kubeflow Pipelines."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import kfp_server_api
import urllib3
from kfp.client import Client
from kubernetes.config import ConfigException

from components.catlib.errors import Interrupted, UserError
from components.catlib.storage import Storage
from pipelines.compiling import Compiled
from pipelines.failure import RunFailed

logger = logging.getLogger(__name__)

ANSWER_SECONDS = (3, 4)
"""How long the first request may take to connect, and to be answered; after that nothing can be reached there."""

REQUEST_SECONDS = (10, 60)
"""How long later requests may take to connect, and to be answered."""

PATIENCE_SECONDS = 600.0
"""How long the API may be out of reach while a run is watched."""

POLL_SECONDS = 10.0

NOT_OFFERED = (404, 405, 501)
"""What a server answers to a path that it does not have."""

FINISHED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}

DEFAULT_ROOT = "s3://mlpipeline/v2/artifacts"
"""Where Kubeflow's own manifests tell it to keep artifacts."""

_STAGE_ERROR = re.compile(r"\[[\w-]+\] ERROR: (.*)")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Connection:
    """How to reach Kubeflow Pipelines and as whom.

    Attributes:
        host: Address of its API or interface, such as http://localhost:8080; None: through the Kubernetes API, with
            this pod's service account or with the kubeconfig.
        namespace: Of the experiment and its runs, in a Kubeflow with profiles; None in a Kubeflow for all.
        kubeflow_namespace: Where Kubeflow Pipelines itself runs, for connections without a host.
        token: Sent with every request; None: none, or the service account's.
        kube_context: Of the kubeconfig; None: its current one.
        ca_file: Certificates to trust instead of the usual ones.
    """

    host: str | None = None
    namespace: str | None = None
    kubeflow_namespace: str = "kubeflow"
    token: str | None = None
    kube_context: str | None = None
    ca_file: str | None = None


class _Client(Client):
    """Kubeflow's client, but it says at once when nothing answers, and waits for no answer forever."""

    def _load_config(self, *arguments: Any, **named: Any) -> Any:
        config: Any = super()._load_config(*arguments, **named)
        config.retries = 0  # repeating is done here, where it is known what may be repeated
        host = config.host.rstrip("/")
        config.host = host = host if "://" in host else f"http://{host}"  # within a cluster it has no scheme
        refresh = config.refresh_api_key_hook
        if refresh is not None:
            # Before every request the kubeconfig's hook renews the token and, with it, sets the host to that of the
            # Kubernetes API alone: the path to Kubeflow behind it would be lost.
            def refresh_token(configuration: Any) -> None:
                refresh(configuration)
                configuration.host = host

            config.refresh_api_key_hook = refresh_token
        return config

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        return self._healthz_api.healthz_service_get_healthz(_request_timeout=ANSWER_SECONDS)


@dataclass(frozen=True)
class Task:
    """A task of a run as a person sees it: an iteration of a loop is a task of its own.

    Attributes:
        name: Such as "train-teacher".
        state: As Kubeflow calls it: PENDING, RUNNING, SUCCEEDED, SKIPPED, FAILED, CANCELED.
        pods: Its pods, the last attempt last.
        error: What Kubeflow says of its failure.
    """

    name: str
    state: str
    pods: tuple[str, ...]
    error: str


@dataclass(frozen=True)
class Run:
    """A run as it was when it was asked for.

    Attributes:
        run_id: Its id.
        name: For people.
        pipeline: Name of its pipeline.
        state: As of a [Task][].
        tasks: In the order in which they began.
        error: What Kubeflow says of its failure.
        root: Address below which it was told to put its artifacts; "" when it was not told.
    """

    run_id: str
    name: str
    pipeline: str
    state: str
    tasks: tuple[Task, ...]
    error: str
    root: str


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
        self._patience = patience
        self._where = connection.host or "the cluster of this pod or of the kubeconfig"
        try:
            with _quiet():
                # Its generated models declare everything optional, and the API's own calls are attributes made at run
                # time: to a type checker it can be anything.
                self._client: Any = _Client(
                    host=connection.host,
                    namespace=connection.kubeflow_namespace,
                    existing_token=connection.token,
                    kube_context=connection.kube_context,
                    ssl_ca_cert=connection.ca_file,
                )
                self._api = self._client._run_api.api_client
                health = self._client.get_kfp_healthz()
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError, ValueError, ConfigException) as error:
            if getattr(error, "status", None) != 404:
                raise UserError(self._explain("connecting", error)) from error
            health = None
        if health is None or health.multi_user is None:
            raise UserError(
                f"{self._where} answers, but not as Kubeflow Pipelines does; check the address, and when a login page "
                "stands before it, give a token."
            )
        if health.multi_user and not connection.namespace:
            raise UserError(f"Kubeflow at {self._where} has profiles; give yours with --namespace.")
        request = self._api.rest_client.request

        def request_in_time(*arguments: Any, **named: Any) -> Any:
            return request(*arguments, **named | {"_request_timeout": named.get("_request_timeout") or REQUEST_SECONDS})

        self._api.rest_client.request = request_in_time

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
        with tempfile.TemporaryDirectory() as folder, _quiet():
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
        with tempfile.TemporaryDirectory() as folder, _quiet():
            file = Path(folder) / "pipeline.yaml"
            file.write_text(compiled.text, encoding="utf-8")
            found = self._patiently("looking for the pipeline", lambda: self._client.get_pipeline_id(name))
            try:
                if found is None:
                    made = self._client.upload_pipeline(str(file), name, description, self.connection.namespace)
                    return made.pipeline_id
                self._client.upload_pipeline_version(str(file), version, pipeline_id=found, description=description)
            except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
                raise UserError(self._explain("uploading the pipeline", error)) from error
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
        return _read_run(self._patiently(f"reading run {run_id}", lambda: self._client.get_run(run_id)))

    def runs(self, *, count: int = 10) -> list[Run]:
        """Returns the newest runs."""
        listed = self._patiently(
            "listing runs",
            lambda: self._client.list_runs(
                page_size=count, sort_by="created_at desc", namespace=self.connection.namespace
            ),
        )
        return [_read_run(run) for run in listed.runs or []]

    def wait(self, run_id: str, *, say: Callable[[str], None], poll: float = POLL_SECONDS) -> Run:
        """Watches a run until it ends, and tells of every task that changes its state.

        Args:
            run_id: The run.
            say: Receives a line per change.
            poll: Seconds between looks.

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
                time.sleep(poll)
        except KeyboardInterrupt:
            raise Interrupted(f"The run goes on; watch it with: python -m pipelines status {run_id} --wait") from None
        if run.state != "SUCCEEDED":
            self._raise_failure(run)
        return run

    def _raise_failure(self, run: Run) -> None:
        failed = [task for task in run.tasks if task.state == "FAILED"]
        for task in failed:
            for line in self._last_words(run.run_id, task):
                if found := _STAGE_ERROR.search(line):
                    raise UserError(f"{task.name}: {found[1]}")
        what = f" in {failed[0].name}" if failed else ""
        told = (failed[0].error if failed else "") or run.error
        reason = f" ({told})" if told else ""
        where = f" --task {failed[0].name}" if failed else ""
        raise RunFailed(
            f"Run {run.name} {run.state.lower()}{what}{reason}; see: python -m pipelines logs {run.run_id}{where}"
        )

    def _last_words(self, run_id: str, task: Task) -> Iterator[str]:
        """Yields the lines of a task's last pod, nothing when they are gone."""
        if task.pods:
            try:
                yield from self._log(run_id, task.pods[-1], follow=False)
            except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
                logger.info("the log of %s cannot be read: %s", task.pods[-1], _reason(error))

    def logs(self, run_id: str, *, task: str | None = None, follow: bool = False) -> Iterator[tuple[str, str]]:
        """Reads what the stages of a run wrote.

        Args:
            run_id: The run.
            task: Only of this task; None: of all.
            follow: Wait for further lines of pods that run.

        Yields:
            Name of a pod's task, and a line.

        Raises:
            UserError: There is no such task, or none of its logs can be read.
        """
        found = self.run(run_id).tasks
        chosen = [each for each in found if task in (None, each.name)]
        if not chosen:
            names = ", ".join(sorted({each.name for each in found})) or "none yet"
            raise UserError(f"Run {run_id} has no task {task!r}; it has {names}.")
        for each in chosen:
            for pod in each.pods:
                try:
                    for line in self._log(run_id, pod, follow=follow):
                        yield each.name, line
                except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
                    yield each.name, f"(the log of pod {pod} cannot be read: {_reason(error)})"

    def _log(self, run_id: str, pod: str, *, follow: bool) -> Iterator[str]:
        answer = self._open_log(run_id, pod, follow=follow)
        try:
            answer.auto_close = False  # else it counts as closed while lines are still in the buffer
            for line in io.TextIOWrapper(io.BufferedReader(answer), encoding="utf-8", errors="replace"):
                yield line.rstrip("\n")
        finally:
            answer.close()

    def _open_log(self, run_id: str, pod: str, *, follow: bool) -> Any:
        """Asks for a pod's log wherever it may be found: releases of the API, and the interface, differ in the path."""
        query = [("follow", "true")] if follow else []
        place = {"runid": run_id, "podname": pod, "podnamespace": self.connection.namespace}
        of_interface = [(name, value) for name, value in place.items() if value]
        paths = (
            (f"/apis/v2beta1/runs/{run_id}/nodes/{pod}/log", query),
            (f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", query),
            ("/k8s/pod/logs", of_interface + query),
        )
        for path, parameters in paths[:-1]:
            try:
                return self._stream(path, parameters, follow=follow)
            except kfp_server_api.ApiException as error:
                if error.status not in NOT_OFFERED:
                    raise
        return self._stream(*paths[-1], follow=follow)

    def _stream(self, path: str, query: list[tuple[str, str]], *, follow: bool) -> Any:
        return self._api.call_api(
            path,
            "GET",
            query_params=query,
            auth_settings=["Bearer"],
            _preload_content=False,
            _request_timeout=(REQUEST_SECONDS[0], None) if follow else None,
        )

    # ----------------------------------------------------------------------------------------------------------- fetch

    def fetch(self, run_id: str, folder: Path, *, root: str | None = None) -> Path:
        """Downloads a run's report with every student's ONNX file, weights and metrics.

        Args:
            run_id: A run that has written its report.
            folder: Where to put it; must not exist.
            root: Address below which the cluster keeps artifacts; None: the run's own, or else [DEFAULT_ROOT][].

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
        found = [key for key, *_ in store.fingerprint(address) if str(key).endswith("/report/manifest.json")]
        if not found:
            raise UserError(
                f"There is no report below {address}; the run is {run.state.lower()}. If the cluster keeps artifacts "
                "elsewhere, give its defaultPipelineRoot with --root."
            )
        bucket = address.split("://")[1].split("/")[0]
        return store.fetch(f"s3://{bucket}/{str(found[-1]).removesuffix('/manifest.json')}", folder, "report")

    # -------------------------------------------------------------------------------------------------------- requests

    def _find(self, name: str, experiment_id: str) -> str | None:
        wanted = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
        listed = self._client.list_runs(experiment_id=experiment_id, filter=json.dumps(wanted))
        return next((run.run_id for run in listed.runs or [] if run.display_name == name), None)

    def _patiently(self, what: str, action: Callable[[], Result]) -> Result:
        """Makes a request, and again while it fails for reasons that pass.

        Raises:
            UserError: It failed for good, or for too long.
        """
        began, pause = time.monotonic(), 0.5
        while True:
            try:
                return action()
            except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError) as error:
                if not _passes(error) or time.monotonic() - began + pause > self._patience:
                    raise UserError(self._explain(what, error)) from error
                logger.warning("%s failed (%s); trying again", what, _reason(error))
            time.sleep(pause)
            pause = min(2 * pause, 30.0)

    def _explain(self, what: str, error: Exception) -> str:
        status = error.status if isinstance(error, kfp_server_api.ApiException) else None
        if status in (401, 403):
            return (
                f"Kubeflow at {self._where} refuses ({what}: {status} {_reason(error)}); check the token, and that it "
                f"may use namespace {self.connection.namespace or self.connection.kubeflow_namespace}."
            )
        if status == 404:
            return f"Kubeflow at {self._where} does not have what was asked for ({what}: {_reason(error)})."
        if status in (None, 0) or status >= 500:
            return (
                f"Kubeflow Pipelines cannot be reached at {self._where} ({what}: {_reason(error)}); check the address, "
                "and that `kubectl port-forward` runs when it is needed."
            )
        return f"Kubeflow at {self._where} refuses ({what}: {_reason(error)})."


def _read_run(raw: Any) -> Run:
    spec = raw.pipeline_spec or {}
    spec = spec.get("pipeline_spec", spec)  # it comes with or without what is special to Kubernetes
    return Run(
        run_id=raw.run_id,
        name=raw.display_name or "",
        pipeline=spec.get("pipelineInfo", {}).get("name", ""),
        state=raw.state or "PENDING",
        tasks=tuple(_tasks((raw.run_details.task_details if raw.run_details else None) or [], _task_names(spec))),
        error=raw.error.message or "" if raw.error else "",
        root=raw.runtime_config.pipeline_root or "" if raw.runtime_config else "",
    )


def _tasks(nodes: list[Any], names: set[str]) -> Iterator[Task]:
    """Yields the tasks of a run.

    Kubeflow tells of every node of the workflow; those that bear the name of a task of the pipeline are the tasks, and
    the pods that do their work are found below them.
    """
    by_pod = {node.pod_name: node for node in nodes if node.pod_name}
    found = [node for node in nodes if node.display_name in names]
    for node in sorted(found, key=lambda node: str(node.start_time or node.create_time or "")):
        yield Task(
            name=node.display_name,
            state=node.state or "PENDING",
            pods=tuple(_pods(node, by_pod)),
            error=node.error.message or "" if node.error else "",
        )


def _pods(node: Any, by_pod: Mapping[str, Any]) -> Iterator[str]:
    """Yields the pods at the ends of the branches below a node."""
    for child in node.child_tasks or []:
        below = by_pod.get(child.pod_name)
        if below is not None and below.child_tasks:
            yield from _pods(below, by_pod)
        elif child.pod_name:
            yield child.pod_name


def _task_names(spec: Mapping[str, Any]) -> set[str]:
    """Returns the names of all tasks that do something, those in loops included, loops themselves not."""
    components = spec.get("components", {})
    dags = [spec.get("root", {}).get("dag", {}), *(each["dag"] for each in components.values() if "dag" in each)]
    return {
        name
        for dag in dags
        for name, task in dag.get("tasks", {}).items()
        if "dag" not in components.get(task["componentRef"]["name"], {})
    }


def _passes(error: Exception) -> bool:
    """Tells whether a request that failed so may succeed later."""
    if isinstance(error, kfp_server_api.ApiException):
        return error.status is not None and (error.status == 429 or error.status >= 500)
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, kfp_server_api.ApiException):
        with contextlib.suppress(ValueError, TypeError):
            told = json.loads(error.body or "")
            if isinstance(told, dict) and (message := told.get("message") or told.get("error")):
                return str(message).split("\n", 1)[0][:300]
        return str(error.reason or error).split("\n", 1)[0][:300]
    cause = getattr(error, "reason", None) or error
    return str(cause).split("\n", 1)[0].rsplit(": ", 1)[-1][:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Kubeflow's client from printing links and warnings between our lines."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
