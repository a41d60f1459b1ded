"""Connecting to Kubeflow: wrong addresses, protocols, certificates, tokens that expire, contexts that do not exist."""

import http.server
import json
import re
import shlex
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.catlib.errors import Interrupted, UserError
from pipelines.__main__ import _parser
from pipelines.cluster import Cluster
from pipelines.commands.options import connection_of
from pipelines.connection import Connection
from tests.pipelines.kubeflow_server import KubeflowServer, kubeflow


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, beside its key."""
    folder = tmp_path_factory.mktemp("certificate")
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem")]
    subprocess.run(words, check=True, capture_output=True)
    return folder / "ca.pem"


@pytest.fixture(scope="module")
def secured(certificate: Path) -> Iterator[str]:
    """Host and port of a server that speaks https and answers like Kubeflow's API."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"tag_name": "2.17.0", "multi_user": False}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "host", ["localhost:8080", "kubeflow.example.com", "ftp://localhost", "http://", "http://h:99999", ""]
)
def test_what_is_no_whole_address_is_refused_before_anything_is_asked(host: str) -> None:
    with pytest.raises(UserError, match="is not a whole address; give one that begins with http:// or https://"):
        Cluster(Connection(host=host))


def test_an_address_from_a_browser_leads_to_kubeflow_too() -> None:
    with kubeflow(KubeflowServer()) as server:
        cluster = Cluster(Connection(host=f"{server.host}/#/runs/details/of-another"))
        assert cluster.link("r") == f"{server.host}/#/runs/details/r"
        assert cluster.runs() == []


def test_http_and_https_are_not_confused(secured: str, certificate: Path) -> None:
    with kubeflow(KubeflowServer()) as server, pytest.raises(UserError) as caught:
        Cluster(Connection(host=server.host.replace("http://", "https://")))
    assert str(caught.value).endswith(f"it does not speak https: give --host {server.host}.")
    with pytest.raises(UserError, match=f"give --host https://{re.escape(secured)}"):
        Cluster(Connection(host=f"http://{secured}"))
    assert not Cluster(Connection(host=f"https://{secured}", ca_file=str(certificate))).link("r")


def test_a_certificate_that_is_not_trusted_names_the_option(secured: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"certificate is not trusted here: .* --ca-file"):
        Cluster(Connection(host=f"https://{secured}"))
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(UserError, match="--ca-file"):
        Cluster(Connection(host=f"https://{secured}", ca_file=str(tmp_path / "ca.pem")))


def test_files_and_contexts_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").touch()
    config = tmp_path / "config"
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
    host = "http://127.0.0.1:9"
    for connection, sentence in (
        (Connection(host=host, ca_file=str(tmp_path / "none")), "--ca-file .*none is not a file"),
        (Connection(host=host, token_file=tmp_path / "none"), "--token-file names .*none, which cannot be read"),
        (Connection(host=host, token_file=tmp_path / "empty"), "--token-file .*empty is empty"),
        (Connection(), "The kubeconfig cannot be used: .* --host"),
        (Connection(host=host, kube_context="c"), r"The kubeconfig \(--kube-context c\) cannot be used"),
    ):
        with pytest.raises(UserError, match=sentence):
            Cluster(connection)
    clusters = [{"name": "k", "cluster": {"server": host}}]
    contexts = [{"name": "kind-cat", "context": {"cluster": "k", "user": "u"}}]
    kinds = {"apiVersion": "v1", "kind": "Config", "current-context": "kind-cat", "users": [{"name": "u", "user": {}}]}
    config.write_text(json.dumps({**kinds, "clusters": clusters, "contexts": contexts}))
    with pytest.raises(UserError, match=r"kubeconfig \(--kube-context other\) cannot be used: .*name other"):
        Cluster(Connection(host=host, kube_context="other"))


def test_a_token_file_is_read_again_when_it_is_renewed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first")
    with kubeflow(KubeflowServer(token="first")) as server:
        cluster = Cluster(Connection(host=server.host, token_file=tmp_path / "token"))
        server.token = "second"
        (tmp_path / "token").write_text("second\n")
        assert cluster.runs() == []
        (tmp_path / "token").unlink()  # between two of its versions
        assert cluster.runs() == []


def test_a_token_that_expires_while_a_run_is_watched_interrupts_the_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.watching.POLL_SECONDS", 0.01)
    (tmp_path / "my token").write_text("first")
    with kubeflow(KubeflowServer(token="first")) as server:
        run = server.replay("always")
        cluster = Cluster(Connection(host=server.host, token_file=tmp_path / "my token"))

        def expire(line: str) -> None:
            server.token = "second"

        with pytest.raises(Interrupted, match=r"refuses .*401.* The run goes on; watch it with: ") as caught:
            cluster.wait(run, say=expire)
        with pytest.raises(UserError, match="401") as refused:
            cluster.wait(run, say=expire)
    assert not isinstance(refused.value, Interrupted), "nothing is known of the run yet"
    command = str(caught.value).partition("watch it with: ")[2]
    given = ["--host", server.host, "--token-file", str(tmp_path / "my token")]
    assert shlex.split(command) == ["python", "-m", "pipelines", "status", run, "--wait", *given]


def test_a_run_that_is_deleted_while_it_is_watched_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.watching.POLL_SECONDS", 0.01)
    with kubeflow(KubeflowServer()) as server:
        run = server.replay("always")
        with pytest.raises(UserError, match="does not know it") as caught:
            Cluster(Connection(host=server.host)).wait(run, say=lambda line: server.runs.clear())
    assert not isinstance(caught.value, Interrupted)


def test_commands_in_messages_reach_the_same_kubeflow(tmp_path: Path) -> None:
    connection = Connection(
        host="http://h:1/pipeline",
        namespace="alice",
        kubeflow_namespace="kfp",
        token="secret",
        token_file=tmp_path / "a token",
        kube_context="c",
        ca_file="/ca.pem",
    )
    command = connection.command("logs", "r", "--task", "distill-student 0.2x")
    assert "secret" not in command
    options = _parser().parse_args(shlex.split(command)[3:])
    assert (options.run, options.task) == ("r", "distill-student 0.2x")
    assert connection_of(options) == Connection(
        **{**{name: getattr(connection, name) for name in connection.__dataclass_fields__}, "token": None}
    )
    assert Connection().command("status", "r") == "python -m pipelines status r"
