"""A stand-in for the API of Kubeflow Pipelines: real HTTP, and every request held against the API's models."""

import contextlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

RUN_ID = "0f3c1f5e-run"

LOG_PATHS = {
    "newer API": ["GET /apis/v2beta1/runs/([^/]+)/nodes/([^/]+)/log"],
    "API": ["GET /apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log"],
    "interface": ["GET /k8s/pod/logs"],
}
"""Where logs are found, by what is asked."""


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


def node(name: str, state: str, *children: str, pod: str = "", error: str = "") -> dict[str, Any]:
    """A node of the workflow as the API tells of it."""
    return {
        "display_name": name,
        "task_id": str(uuid.uuid4()),
        "state": state,
        "pod_name": pod,
        "start_time": "2026-01-01T00:00:00Z",
        "child_tasks": [{"pod_name": child} for child in children],
        **({"error": {"code": 1, "message": error}} if error else {}),
    }


def task_nodes(name: str, state: str, *, attempts: int = 1, key: str = "0") -> list[dict[str, Any]]:
    """The nodes of one task: its driver, itself, the node that retries, and a pod per attempt."""
    executor = f"w-executor-{name}-{key}"
    pods = [f"{executor}-{i}" for i in range(attempts)]
    return [
        node(f"{name}-driver", "SUCCEEDED", pod=f"w-driver-{name}-{key}"),
        node(name, state, executor, pod=f"w-{name}-{key}"),
        node("executor", state, *pods, pod=executor),
        *(node(f"executor({i})", "FAILED" if i < attempts - 1 else state, pod=pod) for i, pod in enumerate(pods)),
    ]


@dataclass
class KubeflowServer:
    """What the server holds and how it behaves.

    Attributes:
        token: When set, requests without it are refused.
        multi_user: Whether it has profiles.
        history: What successive looks at the run show: its state and its nodes; the last one stays.
        faults: Path pattern -> statuses that the next requests to it get instead of an answer.
        pause: Seconds after which faults want to be asked again (Retry-After).
        drop_created: Answers of this many run creations get lost after the run was made.
        logs: Pod -> its log.
        log_path: Where logs are found.
        requests: Method and path of every request.
    """

    token: str | None = None
    multi_user: bool = False
    history: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=lambda: [("SUCCEEDED", [])])
    faults: dict[str, list[int]] = field(default_factory=dict)
    pause: str | None = None
    drop_created: int = 0
    logs: dict[str, str] = field(default_factory=dict)
    log_path: str = "API"
    requests: list[str] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    pipelines: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    host: str = ""

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
        return 404, {"code": 5, "message": "Not Found"}

    def _routes(self) -> dict[str, Callable[..., tuple[int, Any]]]:
        root = "/apis/v2beta1"
        return {
            f"GET {root}/healthz": self._health,
            f"GET {root}/experiments": self._list_experiments,
            f"POST {root}/experiments": self._create_experiment,
            f"GET {root}/runs": self._list_runs,
            f"POST {root}/runs": self._create_run,
            f"GET {root}/runs/([^/]+)": self._get_run,
            f"GET {root}/pipelines": self._list_pipelines,
            f"POST {root}/pipelines/upload": self._upload,
            f"POST {root}/pipelines/upload_version": self._upload,
            **dict.fromkeys(LOG_PATHS[self.log_path], self._log),
        }

    def _health(self, **_: Any) -> tuple[int, Any]:
        return 200, {"commit_sha": "abc", "tag_name": "2.17.0", "multi_user": self.multi_user}

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
        found = self.runs
        if query.get("filter"):
            (wanted,) = json.loads(query["filter"])["predicates"]
            assert wanted["key"] == "display_name"
            found = [run for run in found if run["display_name"] == wanted["stringValue"]]
        if query.get("sort_by") == "created_at desc":
            found = found[::-1]
        return 200, {"runs": [run | {"state": self.history[-1][0]} for run in found]}

    def _get_run(self, run_id: str, **_: Any) -> tuple[int, Any]:
        run = next((run for run in self.runs if run["run_id"] == run_id), None)
        if run is None:
            return 404, {"code": 5, "message": f"Run {run_id} not found"}
        state, nodes = self.history[0]
        if len(self.history) > 1:
            self.history.pop(0)
        return 200, run | {"state": state, "run_details": {"task_details": nodes}}

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

    def _log(self, *of_path: str, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        _, pod = of_path or (query["runid"], query["podname"])
        if pod not in self.logs:
            return 500, {"error_message": "pods not found"}
        return 200, self.logs[pod]


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
            self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        server.host = f"http://127.0.0.1:{http.server_address[1]}"
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
    assert server.problems == []
