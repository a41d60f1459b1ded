"""Keys of runs: what they open in a store of ours, and what reaches the pods of an S3 server that somebody has."""

import base64
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from minio import Minio
from minio.error import S3Error

from components.catlib.storage import Storage
from tests.object_stores import SeaweedServer, weed_binary

K8S = Path(__file__).parents[2] / "k8s"
KEYS = {"AWS_ACCESS_KEY_ID": "cat-1", "AWS_SECRET_ACCESS_KEY": "secret-0123456789"}
PLACE = {
    "S3_ENDPOINT": "https://s3.example.com",
    "AWS_REGION": "us-east-1",
    "BUCKET": "cat",
    "PLAIN_HTTP": "false",
    "KEYS_FROM_ENVIRONMENT": "false",
}


def rendered(folder: Path, overlay: str, keys: dict[str, str], place: dict[str, str] | None = None) -> dict[str, Any]:
    """An overlay as kubectl renders it, by kind, with the files that a person writes."""
    shutil.copytree(K8S, folder / "k8s")
    lines = {"S3_ENDPOINT": "http://cat-store.kubeflow:9000"} | keys
    (folder / "k8s/base/store.env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    if place is not None:
        file = folder / "k8s/overlays" / overlay / "place.env"
        file.write_text("".join(f"{name}={value}\n" for name, value in place.items()))
    command = [str(Path(sys.executable).parent / "kubectl"), "kustomize", str(folder / "k8s/overlays" / overlay)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {f"{each['kind']} {each['metadata']['name']}": each for each in yaml.safe_load_all(text)}


def script_of(manifests: dict[str, Any]) -> str:
    (container,) = manifests["StatefulSet cat-store"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["/bin/sh", "-euc"]
    (script,) = container["args"]
    return script


def variables_of(manifests: dict[str, Any]) -> dict[str, str]:
    """The environment that the store's container gets."""
    (container,) = manifests["StatefulSet cat-store"]["spec"]["template"]["spec"]["containers"]
    secret = {name: base64.b64decode(value).decode() for name, value in manifests["Secret cat-store"]["data"].items()}
    given = {}
    for variable in container["env"]:
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        given[variable["name"]] = secret[reference["key"]] if reference else variable["value"]
    return given


# ------------------------------------------------------------------------------------------------------------ SeaweedFS


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The store of `overlays/seaweedfs`: its own script, with this machine's paths and ports. Yields its endpoint."""
    folder = tmp_path_factory.mktemp("seaweed")
    manifests = rendered(folder, "seaweedfs", KEYS)
    ports = SeaweedServer(folder)  # not started: it only knows free ports
    (folder / "data").mkdir()
    script = script_of(manifests)
    here = {
        "/opt/venv/bin/weed": weed_binary(),
        "/data": str(folder / "data"),
        "/tmp/": f"{folder}/",
        "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1 -s3.port.iceberg=0 -s3.port.lance=0",
        "-s3.port=9000": " ".join(ports._flags),
    }
    assert [there for there in here if there not in script] == []
    # In one pass: this machine's paths may hold /tmp/ or /data themselves.
    script = re.sub("|".join(map(re.escape, here)), lambda found: here[found[0]], script)
    environment = {"PATH": os.environ["PATH"], **variables_of(manifests)}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(["/bin/sh", "-euc", script], env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not ports._ready():
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield ports.endpoint
    finally:
        server.kill()
        server.wait()


def client(endpoint: str, access: str, secret: str) -> Minio:
    return Minio(endpoint.removeprefix("http://"), access, secret, secure=False, region="us-east-1")


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(S3Error) as error:
        action()
    return str(error.value.code)


def test_the_key_of_runs_opens_its_bucket(seaweed: str, tmp_path: Path) -> None:
    """What `cat-bucket` and the stages do: make the bucket, write, read, list, remove."""
    environment = {"S3_ENDPOINT": seaweed, **KEYS}
    command = [sys.executable, "-m", "components", "make-bucket", "s3://cat"]
    for _ in range(2):
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    own = client(seaweed, *KEYS.values())
    own.put_object("cat", "artifacts/a", io.BytesIO(b"x"), 1)
    assert own.get_object("cat", "artifacts/a").read() == b"x"
    assert list(Storage(environment).file_names("s3://cat/artifacts")) == ["a"]
    own.remove_object("cat", "artifacts/a")
    assert list(own.list_objects("cat", recursive=True)) == []


@pytest.mark.parametrize("bucket", ["other", "catalogue"])
def test_the_key_of_runs_opens_nothing_else(seaweed: str, bucket: str) -> None:
    own = client(seaweed, *KEYS.values())
    assert refused(lambda: own.make_bucket(bucket)) == "AccessDenied"
    assert refused(lambda: own.put_object(bucket, "a", io.BytesIO(b"x"), 1)) == "AccessDenied"
    assert bucket not in [each.name for each in own.list_buckets()]


def test_no_other_key_opens_the_store(seaweed: str) -> None:
    assert refused(lambda: client(seaweed, "admin", "secret").list_buckets()) == "InvalidAccessKeyId"
    assert refused(lambda: client(seaweed, "cat-1", "wrong-secret").list_buckets()) == "SignatureDoesNotMatch"
    anonymous = Minio(seaweed.removeprefix("http://"), secure=False, region="us-east-1")
    assert refused(lambda: list(anonymous.list_objects("cat"))) == "AccessDenied"


# ---------------------------------------------------------------------------------------------------------------- MinIO

SERVER = """#!/bin/sh
echo "$@" > {folder}/server
echo "$MINIO_ROOT_USER $MINIO_ROOT_PASSWORD" >> {folder}/roots
until [ -e {folder}/attached ]; do sleep 0.1; done
"""
CLIENT = """#!/bin/sh
echo "$MC_HOST_store|$*" >> {folder}/calls
[ "$(wc -l < {folder}/calls)" -gt 2 ] || exit 1  # the server is still starting
case "$*" in *attach*) touch {folder}/attached ;; esac
"""


def start_minio(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Runs the script of the manifests with programs that note how they are called; returns roots and the environment.

    No package holds a MinIO server, so what its commands do is taken from its documentation.
    """
    manifests = rendered(folder, "local", KEYS)
    for name, text in (("minio", SERVER), ("mc", CLIENT)):
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(0o755)
    environment = variables_of(manifests)
    script = script_of(manifests).replace("/tmp/", f"{folder}/")
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(["/bin/sh", "-euc", script], env=path | environment, check=True, timeout=60)
    return (folder / "roots").read_text().split(), environment


def test_minio_gets_a_user_for_the_bucket_and_a_root_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    roots, environment = start_minio(tmp_path / "first")
    assert not set(roots) & set(environment.values())
    assert all(re.fullmatch(r"[0-9a-f-]{36}", word) for word in roots)
    assert set(roots).isdisjoint(start_minio(tmp_path / "second")[0])
    calls = [line.split("|") for line in (tmp_path / "first/calls").read_text().splitlines()]
    assert {host for host, _ in calls} == {f"http://{roots[0]}:{roots[1]}@127.0.0.1:9000"}
    assert [call.partition("--")[0].split()[:4] for _, call in calls[-3:]] == [
        ["admin", "user", "add", "store"],
        ["admin", "policy", "create", "store"],
        ["admin", "policy", "attach", "store"],
    ]
    policy = yaml.safe_load((tmp_path / "first/bucket.json").read_text())
    assert policy["Statement"] == [
        {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::cat", "arn:aws:s3:::cat/*"]}
    ]
    assert (tmp_path / "first/server").read_text().split() == ["server", "/data", "--address", ":9000"]


@pytest.mark.parametrize("overlay", sorted(path.name for path in (K8S / "overlays").iterdir()))
def test_no_manifest_makes_the_key_of_runs_an_administrator(overlay: str, tmp_path: Path) -> None:
    text = yaml.safe_dump(rendered(tmp_path, overlay, KEYS))
    with contextlib.suppress(KeyError):
        given = variables_of(rendered(tmp_path / "again", overlay, KEYS))
        assert not any(name.startswith("MINIO_ROOT") for name in given)
    assert not re.search(r"name: MINIO_(ROOT|ACCESS|SECRET)", text)


# ------------------------------------------------------------------------------------------- an S3 server that is there


@pytest.mark.parametrize(
    ("keys", "place", "provider"),
    [
        (
            KEYS,
            PLACE
            | {"S3_ENDPOINT": "https://s3.eu-west-1.amazonaws.com", "AWS_REGION": "eu-west-1", "BUCKET": "mine.7"},
            {"endpoint": "s3.eu-west-1.amazonaws.com", "region": "eu-west-1", "disableSSL": False, "fromEnv": False},
        ),
        (
            KEYS,
            PLACE | {"S3_ENDPOINT": "http://minio.storage:9000/", "PLAIN_HTTP": "true", "BUCKET": "b-2"},
            {"endpoint": "minio.storage:9000", "region": "us-east-1", "disableSSL": True, "fromEnv": False},
        ),
        (
            KEYS | {"AWS_SESSION_TOKEN": "a/token=="},
            PLACE | {"KEYS_FROM_ENVIRONMENT": "true", "AWS_CA_BUNDLE": "/kfp/certs/ca.crt"},
            {"endpoint": "s3.example.com", "region": "us-east-1", "disableSSL": False, "fromEnv": True},
        ),
    ],
)
def test_an_existing_server_is_described_by_variables(
    keys: dict[str, str], place: dict[str, str], provider: dict[str, Any], tmp_path: Path
) -> None:
    manifests = rendered(tmp_path, "existing-s3", keys, place)
    launcher = manifests["ConfigMap kfp-launcher"]["data"]
    assert launcher["defaultPipelineRoot"] == f"s3://{place['BUCKET']}/artifacts"
    found = yaml.safe_load(launcher["providers"])["s3"]["default"]
    credentials = found.pop("credentials")
    assert found | {"fromEnv": credentials["fromEnv"]} == provider | {"forcePathStyle": True}
    assert credentials["secretRef"] == {
        "secretName": "cat-store",
        "accessKeyKey": "AWS_ACCESS_KEY_ID",
        "secretKeyKey": "AWS_SECRET_ACCESS_KEY",
    }
    data = manifests["Secret cat-store"]["data"]
    secret = {name: base64.b64decode(value).decode() for name, value in data.items()}
    assert secret == place | keys
    pod = manifests["Job cat-bucket"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["make-bucket", f"s3://{place['BUCKET']}"]
    # Where AWS_CA_BUNDLE points, in the pod that checks the bucket as in Kubeflow's.
    assert {"name": "ca", "mountPath": "/kfp/certs", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    assert {"name": "ca", "configMap": {"name": "cat-ca", "optional": True}} in pod["volumes"]


def test_the_committed_place_is_the_example() -> None:
    lines = (K8S / "overlays/existing-s3/place.env").read_text().splitlines()
    assert dict(line.split("=", 1) for line in lines if line and not line.startswith("#")) == PLACE
