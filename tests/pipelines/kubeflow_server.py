"""A stand-in for Kubeflow Pipelines 2.17.0: real HTTP, every request held against the API's models, recordings."""

import contextlib
import functools
import gzip
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.pipelines.argo import Stages, Workflow, graphs_of, log_places, values_of

RUN_ID = "0f3c1f5e-run"

PASSED_ON = ("/apis/v1beta1/", "/apis/v2beta1/")
"""What the interface passes on to the API server."""

RECORDED = Path(__file__).with_name("recorded")
"""Answers of a Kubeflow 2.17.0 on runs of this project, without the parts that nobody reads."""

RECORDINGS = sorted(path.name.partition(".")[0] for path in RECORDED.glob("*.json.gz"))


@functools.cache
def recording(name: str) -> dict[str, Any]:
    """What a Kubeflow answered on a run: under "v2beta1" and "v1beta1"."""
    return json.loads(gzip.decompress((RECORDED / f"{name}.json.gz").read_bytes()))


def checked(body: dict[str, Any], model: type) -> dict[str, Any]:
    """Holds a request body against a model of the API: no unknown fields, values of the right types."""
    unknown = set(body) - set(model.attribute_map.values())
    assert not unknown, f"{model.__name__} has no fields {unknown}"
    deserialised = kfp_server_api.ApiClient().deserialize(SimpleNamespace(data=json.dumps(body)), model.__name__)
    assert deserialised.to_dict()
    return body


def parsed_spec(body: dict[str, Any]) -> pipeline_spec_pb2.PipelineSpec:
    """Parses a pipeline as Kubeflow's backend does; unknown fields are an error."""
    spec = body.get("pipeline_spec", body)
    return json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())


@dataclass
class KubeflowServer:
    """What the server holds and how it behaves.

    Attributes:
        token: When set, requests without it are refused.
        multi_user: Whether it has profiles.
        interface: Whether this is Kubeflow's interface, which passes requests on, and not the API server itself.
        history: What successive looks at a run show: its state and its stages; the last one stays.
        compressed: Whether the workflow has grown so large that its nodes are compressed.
        wrapped: Whether the cluster lets every node be tried again, as Kubeflow's own manifests do.
        root: Address below which runs write that name no other: the cluster's defaultPipelineRoot.
        faults: Path pattern -> statuses that the next requests to it get instead of an answer.
        pause: Seconds after which faults want to be asked again (Retry-After).
        drop_created: Answers of this many run creations get lost after the run was made.
        logs: Stage ("train-teacher", in later rounds of a loop "prune-teacher 1") -> log of its pod; that of a later
            attempt is under "train-teacher#2".
        pods_gone: Whether pods and archived logs have been removed.
        terminated: Whether a person has ended the run.
        message: Argo's message on the workflow.
        uploaded: Pipeline of runs that were started from the form; they do not hold it themselves.
        requests: Method and path of every request.
    """

    token: str | None = None
    multi_user: bool = False
    interface: bool = True
    history: list[tuple[str, Stages]] = field(default_factory=lambda: [("SUCCEEDED", {})])
    compressed: bool = False
    wrapped: bool = True
    root: str = "minio://mlpipeline/v2/artifacts"
    faults: dict[str, list[int]] = field(default_factory=dict)
    pause: str | None = None
    drop_created: int = 0
    logs: dict[str, str] = field(default_factory=dict)
    pods_gone: bool = False
    requests: list[str] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    pipelines: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    host: str = ""
    terminated: bool = False
    message: str = ""
    uploaded: dict[str, Any] = field(default_factory=dict)
    _now: tuple[str, Stages] = ("PENDING", {})

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any) -> tuple[int, Any]:
        """Answers a request: a status and a JSON value or text."""
        self.requests.append(f"{method} {path}")
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"error": "Unauthenticated", "message": "Request header error: there is no user identity."}
        for pattern, statuses in self.faults.items():
            if statuses and re.search(pattern, f"{method} {path}"):
                return statuses.pop(0), {"message": "the database is being moved"}
        for pattern, function in self._routes().items():
            if found := re.fullmatch(pattern, f"{method} {path}"):
                return function(*found.groups(), query=query, body=body, headers=headers)
        if self.interface and not path.startswith(PASSED_ON):
            return 404, f"<!DOCTYPE html>\n<pre>Cannot {method} {path}</pre>\n"
        return 404, {"code": 5, "message": "Not Found"}

    def replay(self, name: str) -> str:
        """Holds a recorded run; returns its id."""
        run = recording(name)["v2beta1"]
        self.runs.append(run | {"recording": name})
        return run["run_id"]

    def _routes(self) -> dict[str, Callable[..., tuple[int, Any]]]:
        root = "/apis/v2beta1"
        return {
            f"GET {root}/healthz": self._health,
            f"GET {root}/experiments": self._list_experiments,
            f"POST {root}/experiments": self._create_experiment,
            f"GET {root}/runs": self._list_runs,
            f"POST {root}/runs": self._create_run,
            f"GET {root}/runs/([^/]+)": self._get_run,
            "GET /apis/v1beta1/runs/([^/]+)": self._get_workflow,
            f"GET {root}/pipelines": self._list_pipelines,
            f"POST {root}/pipelines/upload": self._upload,
            f"POST {root}/pipelines/upload_version": self._upload,
            **(self._routes_of_interface() if self.interface else self._routes_of_api()),
        }

    def _routes_of_interface(self) -> dict[str, Callable[..., tuple[int, Any]]]:
        return {"GET /": self._page, "GET /k8s/pod/logs": self._log_by_pod}

    def _routes_of_api(self) -> dict[str, Callable[..., tuple[int, Any]]]:
        return {"GET /apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log": self._log_by_node}

    def _page(self, **_: Any) -> tuple[int, Any]:
        return 200, "<!DOCTYPE html>\n<title>Kubeflow Pipelines</title>\n"

    def _health(self, **_: Any) -> tuple[int, Any]:
        if self.interface:
            return 200, {"apiServerReady": True, "apiServerTagName": "2.17.0", "multi_user": self.multi_user}
        return 200, {"commit_sha": "unknown", "tag_name": "2.17.0", "multi_user": self.multi_user}

    def _list_experiments(self, *, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        if self.multi_user and not query.get("namespace"):
            return 400, {"message": "Invalid input error: namespace is empty"}
        (wanted,) = json.loads(query["filter"])["predicates"]
        found = [each for each in self.experiments if each["display_name"] == wanted["stringValue"]]
        return 200, {"experiments": found, "total_size": len(found)}

    def _create_experiment(self, *, body: bytes, **_: Any) -> tuple[int, Any]:
        made = checked(json.loads(body), kfp_server_api.V2beta1Experiment) | {"experiment_id": "e-1"}
        self.experiments.append(made)
        return 200, made

    def _create_run(self, *, body: bytes, **_: Any) -> tuple[int, Any]:
        asked = checked(json.loads(body), kfp_server_api.V2beta1Run)
        checked(asked["runtime_config"], kfp_server_api.V2beta1RuntimeConfig)
        spec = parsed_spec(asked["pipeline_spec"])
        parameters = spec.root.input_definitions.parameters
        assert set(asked["runtime_config"]["parameters"]) <= set(parameters)
        assert asked["experiment_id"] in {each["experiment_id"] for each in self.experiments}
        made = asked | {"run_id": RUN_ID, "created_at": "2026-01-01T00:00:00Z"}
        self.runs.append(made)
        if self.drop_created:
            self.drop_created -= 1
            return 504, {"message": "upstream request timeout"}
        return 200, made | {"state": "PENDING"}

    def _list_runs(self, *, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        found = [{key: value for key, value in run.items() if key != "recording"} for run in self.runs]
        if query.get("filter"):
            (wanted,) = json.loads(query["filter"])["predicates"]
            assert wanted["key"] == "display_name"
            found = [run for run in found if run["display_name"] == wanted["stringValue"]]
        if query.get("sort_by") == "created_at desc":
            found = found[::-1]
        return 200, {"runs": [{"state": self.history[-1][0]} | run for run in found]}

    def _get_run(self, run_id: str, **_: Any) -> tuple[int, Any]:
        run = self._run(run_id)
        if run is None:
            return 404, {"code": 5, "message": f"Run {run_id} not found"}
        if "recording" in run:
            return 200, recording(run["recording"])["v2beta1"]
        state, stages = self.history[0]
        if len(self.history) > 1:
            self.history.pop(0)
        self._now = state, stages
        # Of the nodes that Kubeflow lists here, nobody can rely on any.
        nodes = [{"display_name": name, "task_id": str(uuid.uuid4()), "run_id": run_id} for name in stages]
        states = [
            {"state": each} for each in ("PENDING", "RUNNING", *(["CANCELING"] if self.terminated else []), state)
        ]
        return 200, run | {"state": state, "run_details": {"task_details": nodes}, "state_history": states}

    def _get_workflow(self, run_id: str, **_: Any) -> tuple[int, Any]:
        run = self._run(run_id)
        if run is None:
            return 404, {"code": 5, "message": f"Failed to get a v1beta1 run: Run {run_id} not found"}
        return 200, {
            "run": {"id": run_id, "name": run["display_name"]},
            "pipeline_runtime": {"workflow_manifest": json.dumps(self._manifest(run))},
        }

    def _run(self, run_id: str) -> dict[str, Any] | None:
        return next((run for run in self.runs if run["run_id"] == run_id), None)

    def _manifest(self, run: dict[str, Any]) -> dict[str, Any]:
        if "recording" in run:
            return json.loads(recording(run["recording"])["v1beta1"]["pipeline_runtime"]["workflow_manifest"])
        spec = run.get("pipeline_spec") or self.uploaded
        spec = spec.get("pipeline_spec", spec)
        state, stages = self._now
        settings = run.get("runtime_config", {})
        workflow = Workflow(
            graphs_of(spec),
            values_of(spec, settings.get("parameters", {})),
            stages,
            run["run_id"],
            over=state in ("SUCCEEDED", "FAILED", "CANCELED"),
            wrapped=self.wrapped,
            root=settings.get("pipeline_root") or self.root,
            pipeline=spec.get("pipelineInfo", {}).get("name", "compress"),
            namespace="alice" if self.multi_user else "kubeflow",
        )
        return workflow.manifest(message=self.message, compressed=self.compressed)

    def _list_pipelines(self, *, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        (wanted,) = json.loads(query["filter"])["predicates"]
        found = [name for name in self.pipelines if name == wanted["stringValue"]]
        return 200, {
            "pipelines": [{"pipeline_id": f"p-{name}", "display_name": name} for name in found]
        } if found else {}

    def _upload(self, *, query: dict[str, str], body: bytes, headers: Any, **_: Any) -> tuple[int, Any]:
        parts = message_from_bytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body)
        (part,) = parts.get_payload()
        documents = list(yaml.safe_load_all(part.get_payload(decode=True)))
        parsed_spec(documents[0])
        pipeline = query.get("pipelineid", f"p-{query['name']}").removeprefix("p-")
        self.pipelines.setdefault(pipeline, []).append(query["name"])
        return 200, {"pipeline_id": f"p-{pipeline}", "display_name": query["name"]}

    def _found_log(self, run_id: str, place: str) -> str | None:
        run = self._run(run_id)
        if run is None or self.pods_gone:
            return None
        return self.logs.get(log_places(self._manifest(run)).get(place, ""))

    def _log_by_node(self, run_id: str, node: str, **_: Any) -> tuple[int, Any]:
        """The API server's: by Argo's id of the node; an error has status 200 too."""
        log = self._found_log(run_id, node)
        if log is None:
            reason = f"Failed to read logs from archive {node} due to error fetching the log file: key does not exist"
            return 200, json.dumps({"error_message": f"InternalServerError: {reason}", "error_details": reason})
        return 200, log

    def _log_by_pod(self, *, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        """The interface's: by the name of the pod."""
        assert query["podnamespace"] == ("alice" if self.multi_user else "kubeflow")
        log = self._found_log(query["runid"], query["podname"])
        if log is None:
            return 500, "Could not get main container logs: S3Error: The specified key does not exist."
        return 200, log


@contextlib.contextmanager
def kubeflow(server: KubeflowServer) -> Iterator[KubeflowServer]:
    """Serves on a free port of this machine; fails when a request did not fit the API."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            try:
                status, value = server.answer(self.command, parts.path, query, body, self.headers)
            except Exception as problem:
                server.problems.append(f"{self.command} {self.path}: {problem!r}")
                status, value = 400, {"message": repr(problem)}
            content = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            if status >= 400 and server.pause is not None:
                self.send_header("Retry-After", server.pause)
            text = "text/html" if str(value).startswith("<!DOCTYPE") else "text/plain"
            self.send_header("Content-Type", text if isinstance(value, str) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        server.host = f"http://127.0.0.1:{http.server_address[1]}"
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
    assert server.problems == []
