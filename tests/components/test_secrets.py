"""No secret of the environment appears in what commands print, write, send, store or show in the process list."""

import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.catlib.config import ReportConfig, TrackingConfig
from components.catlib.errors import UserError
from components.catlib.storage import Storage
from components.report.stage import run as write_report
from pipelines.connection import Connection
from tests.canaries import CANARIES, USER, found_in, watched_processes, written_forms
from tests.components.catlib.data.image_folders import noise, write
from tests.components.report.small_run import write_small_run
from tests.object_stores import SECRET_KEY, SeaweedServer
from tests.pipelines.kubeflow_server import RUN_ID, KubeflowServer, kubeflow
from tests.web_servers import WebServer, web_server


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    with web_server() as server, zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for split, folder in (("train", "A"), ("train", "B"), ("test", "A"), ("test", "B")):
            for number in range(3):
                picture = write(tmp_path / "images" / f"{split}{folder}" / f"{number}.png", noise(number, 32, 32))
                archive.write(picture, picture.relative_to(tmp_path / "images"))
        archive.close()
        server.files["/images.zip"] = (tmp_path / "images.zip").read_bytes()
        server.redirects["/signed"] = f"/images.zip?X-Amz-Signature={CANARIES['CAT_WEB_TOKEN']}"
        yield server


class Commands:
    """Runs commands with every canary in their environment, and keeps what they print."""

    def __init__(self, folder: Path, object_store: SeaweedServer) -> None:
        self.folder = folder
        self.printed = ""
        (folder / "cache").mkdir()
        self.secrets = folder.with_name(f"{folder.name}-secrets")  # not among what is searched
        self.secrets.mkdir()
        (self.secrets / "token").write_text(CANARIES["KUBEFLOW"])
        self.environment = {
            **os.environ,
            **{name: value for name, value in CANARIES.items() if name not in ("NETRC", "AWS_SESSION_TOKEN")},
            **object_store.environment,
            "CAT_WEB_USER": USER,
            "MLFLOW_TRACKING_USERNAME": USER,
            "XDG_CACHE_HOME": str(folder / "cache"),
            "NETRC": os.devnull,
        }

    def run(self, *command: str, exit_code: int = 0, **variables: str) -> str:
        finished = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        said = finished.stdout + finished.stderr
        assert finished.returncode == exit_code, said
        self.printed += said
        return said


@pytest.fixture
def commands(tmp_path: Path, object_store: SeaweedServer) -> Commands:
    folder = tmp_path / "work"
    folder.mkdir()
    return Commands(folder, object_store)


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    for form in written_forms():
        (tmp_path / "file").write_bytes(b"before " + form + b" behind")
        assert found_in(tmp_path)
        assert found_in(form.decode())
        assert found_in({"a": [form.decode()]})
    with watched_processes() as seen:
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.3)", SECRET_KEY], check=True)
    assert found_in("\n".join(seen))


def test_stages_between_the_web_and_the_store_keep_secrets(
    commands: Commands, web: WebServer, object_store: SeaweedServer
) -> None:
    web.authorization = f"Bearer {CANARIES['CAT_WEB_TOKEN']}"
    host = f"127.0.0.1:{web.port}"
    sizes = ["--recipe", "smoke", "--set", "dataset.load_size=32", "--set", "dataset.crop_size=32"]
    with watched_processes() as seen:
        commands.run(
            *("components", "dataset", *sizes, "--set", "dataset.layout=unpaired"),
            *("--source", web.url("/signed"), "--output", "s3://cat/secrets/dataset", "--json"),
            CAT_WEB_HOST=host,
        )
        commands.run(
            *("components", "real-stats", *sizes, "--dataset", "s3://cat/secrets/dataset"),
            *("--output", "s3://cat/secrets/real-stats"),
        )
        said = commands.run(
            *("components", "dataset", *sizes, "--source", web.url("/images.zip"), "--output", "wrong-token"),
            CAT_WEB_HOST=host,
            CAT_WEB_TOKEN=CANARIES["CAT_WEB_PASSWORD"],
            exit_code=2,
        )
        assert "needs a password" in said
        said = commands.run(
            *("components", "real-stats", "--dataset", "s3://cat/secrets/dataset", "--output", "wrong-secret"),
            AWS_SECRET_ACCESS_KEY=CANARIES["AWS_SECRET_ACCESS_KEY"],
            exit_code=2,
        )
        assert "refuses the credentials" in said
        Path(commands.folder / "netrc-source").mkdir()
        netrc = commands.secrets / "netrc"
        netrc.write_text(f"machine 127.0.0.1 login {USER} password {CANARIES['NETRC']}\n")
        web.authorization = None
        commands.run(
            *("components", "dataset", *sizes, "--set", "dataset.layout=unpaired"),
            *("--source", web.url("/images.zip"), "--output", "by-netrc"),
            CAT_WEB_HOST="example.org",
            NETRC=str(netrc),
        )
    sent = [header or "" for header in web.authorizations]
    assert {form for header in sent for form in found_in(header)}, "the server did get the secrets"
    store = Storage(object_store.environment)
    names = store.file_names("s3://cat/secrets")
    assert len(names) > 4
    store.fetch_files("s3://cat/secrets", commands.folder / "all-objects")
    assert found_in(commands.folder) == []
    assert found_in("\n".join(names)) == []
    assert found_in(commands.printed) == []
    assert found_in("\n".join(seen)) == []


def test_a_store_that_is_away_is_complained_about_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = {"S3_ENDPOINT": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": USER}
    store = Storage({**settings, **CANARIES, "NETRC": os.devnull}, patience=1)
    with pytest.raises(UserError, match="did not answer") as caught:
        store.manifest("s3://cat/dataset")
    error: BaseException | None = caught.value
    while error is not None:
        assert found_in(f"{error} {error!r}") == []
        error = error.__cause__ or error.__context__
    assert found_in(caplog.text) == []


def test_kubeflow_gets_no_secret_but_its_token(commands: Commands) -> None:
    recipe = ["--recipe", "smoke", "--set", "resources.store_secret=store", "--set", "resources.checkpoints=s3://cat/c"]
    log = {"train-teacher": "[teacher] step 1\n"}
    history = [("SUCCEEDED", {"train-teacher": "Succeeded"})]
    server = KubeflowServer(token=CANARIES["KUBEFLOW"], logs=log, history=history)
    with kubeflow(server), watched_processes() as seen:
        connection = ["--host", server.host, "--token-file", str(commands.secrets / "token")]
        commands.run("pipelines", "compile", *recipe, "--output", "compress.yaml")
        commands.run("pipelines", "submit", *recipe, *connection, "--json")
        commands.run("pipelines", "logs", RUN_ID, *connection)
        (commands.secrets / "wrong").write_text(CANARIES["AWS_SESSION_TOKEN"])
        refused = ["--host", server.host, "--token-file", str(commands.secrets / "wrong")]
        said = commands.run("pipelines", "status", RUN_ID, *refused, exit_code=2)
        assert "check the token" in said
        (commands.secrets / "wrong").write_text(f"{CANARIES['AWS_SESSION_TOKEN']}\nx")
        said = commands.run("pipelines", "status", RUN_ID, *refused, exit_code=2)
        assert "holds a line break" in said
        commands.run(
            *("pipelines", "trainjob", "teacher", *recipe, "--input", "dataset=s3://cat/d"),
            *("--input", "real-stats=s3://cat/r", "--artifact", "s3://cat/t", "--output", "job.yaml"),
        )
    assert len(server.runs) == 1
    assert found_in(server.runs) == []
    assert found_in(commands.folder) == []
    assert found_in(commands.printed) == []
    assert found_in("\n".join(seen)) == []


def test_a_connection_does_not_show_its_token() -> None:
    assert found_in(repr(Connection(host="http://kubeflow", token=CANARIES["KUBEFLOW"]))) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_registry_of_runs_that_refuses_is_named_without_secrets(
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", CANARIES["MLFLOW_TRACKING_PASSWORD"])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = write_small_run(tmp_path / "run", budgets=("0.5x",))
    with web_server() as server:
        server.errors = [status] * 9
        tracking = TrackingConfig(uri=server.url("").rstrip("/"))
        with pytest.raises(UserError, match="did not record the run") as caught:
            write_report(ReportConfig(tracking=tracking), output=tmp_path / "report", **run.inputs())
    assert found_in(server.authorizations[0] or ""), "MLflow did send the password"
    assert found_in(str(caught.value)) == []
    assert found_in(tmp_path / "report") == []
    assert found_in(caplog.text) == []
    assert found_in("".join(capfd.readouterr())) == []


@pytest.mark.parametrize("module", ["components", "pipelines"])
def test_an_argument_with_a_secret_is_refused_before_anything_repeats_it(module: str, commands: Commands) -> None:
    address = (
        f"http://{USER}:{CANARIES['CAT_WEB_PASSWORD']}@127.0.0.1/a.zip?X-Amz-Signature={CANARIES['CAT_WEB_TOKEN']}"
    )
    stage = {"components": ["dataset", "--output", "out"], "pipelines": ["run", "--recipe", "smoke"]}[module]
    for further in (["--set", f"dataset.source={address}"], ["--no-such-option", address], ["--set", address]):
        said = commands.run(module, *stage, *further, exit_code=2)
        assert said.startswith("error: ")
        assert said.count("\n") == 1, "one sentence"
    assert found_in(commands.printed) == []
    assert not (commands.folder / "out").exists()
