"""The manifests: rendered by kubectl itself, held against Kubernetes' schemas and the restricted pod standard."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from components import __version__

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = ("local", "gpu", "seaweedfs", "existing-s3", "kubeflow")
WITH_A_STORE = tuple(overlay for overlay in OVERLAYS if overlay != "existing-s3")
KUBECTL = Path(sys.executable).parent / "kubectl"
VERSIONS = ("1.30", "1.34", kubernetes_validate.latest_version())

Rendered = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rendered]:
    """Every overlay as kubectl renders it, by kind and name, with credentials as the guide has them made."""
    folder = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(K8S, folder)
    lines = ["S3_ENDPOINT=http://cat-store.kubeflow:9000", "AWS_ACCESS_KEY_ID=cat-1", "AWS_SECRET_ACCESS_KEY=secret-1"]
    (folder / "base" / "store.env").write_text("\n".join(lines) + "\n")
    found = {}
    for overlay in OVERLAYS:
        command = [str(KUBECTL), "kustomize", str(folder / "overlays" / overlay)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        documents = yaml.safe_load_all(answer.stdout)
        found[overlay] = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    return found


def pod_templates(manifests: Rendered) -> dict[str, dict[str, Any]]:
    return {
        name: document["spec"]["template"]
        for (_, name), document in manifests.items()
        if "template" in document.get("spec", {})
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_its_schema(overlay: str, version: str, rendered: dict[str, Rendered]) -> None:
    for document in rendered[overlay].values():
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(
    ("overlay", "kinds"),
    [
        *((overlay, {"StatefulSet", "Service", "NetworkPolicy"}) for overlay in WITH_A_STORE),
        ("existing-s3", set()),
    ],
)
def test_an_overlay_has_what_it_needs_and_no_more(overlay: str, kinds: set[str], rendered: dict[str, Rendered]) -> None:
    found = {kind for kind, _ in rendered[overlay]}
    assert found == kinds | {"ServiceAccount", "ConfigMap", "Secret", "Job"}
    namespace = {"kubeflow": "cat"}.get(overlay, "kubeflow")
    assert {each["metadata"]["namespace"] for each in rendered[overlay].values()} == {namespace}


def test_nothing_is_rendered_that_belongs_to_others(rendered: dict[str, Rendered]) -> None:
    """Deleting an overlay must not delete a namespace, which holds all of Kubeflow, nor anything of Kubeflow's own."""
    for overlay in sorted(path.name for path in (K8S / "overlays").iterdir()):
        kinds = {kind for kind, _ in rendered[overlay]}
        assert not kinds & {"Namespace", "Profile", "CustomResourceDefinition", "PersistentVolumeClaim"}, overlay
        names = {name for _, name in rendered[overlay]} - {"kfp-launcher"}
        assert all(name.startswith("cat-") for name in names), overlay


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_pods_meet_the_restricted_standard(overlay: str, rendered: dict[str, Rendered]) -> None:
    templates = pod_templates(rendered[overlay])
    assert "cat-bucket" in templates
    for name, template in templates.items():
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"].get("runAsUser", 1) > 0
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert all(set(volume) <= {"name", "emptyDir", "secret", "configMap"} for volume in pod.get("volumes", []))
        for container in pod["containers"] + pod.get("initContainers", []):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"] is True
            assert "privileged" not in security
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_referred_to_is_there(overlay: str, rendered: dict[str, Rendered]) -> None:
    manifests = rendered[overlay]
    secret = manifests["Secret", "cat-store"]
    keys = {"S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert set(secret["data"]) == keys or (overlay == "existing-s3" and set(secret["data"]) > keys)
    for template in pod_templates(manifests).values():
        assert ("ServiceAccount", template["spec"]["serviceAccountName"]) in manifests
        for container in template["spec"]["containers"]:
            for source in container.get("envFrom", []):
                assert source["secretRef"]["name"] == "cat-store"
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["name"] == "cat-store"
                    assert reference["key"] in keys
    launcher = manifests["ConfigMap", "kfp-launcher"]["data"]
    root = re.fullmatch(r"(minio|s3)://([a-z]+)/artifacts", launcher["defaultPipelineRoot"])
    assert root is not None
    scheme, bucket = root.groups()
    (provider,) = [yaml.safe_load(launcher["providers"])[scheme]["default"]]
    reference = provider["credentials"]["secretRef"]
    assert reference["secretName"] == "cat-store"
    assert {reference["accessKeyKey"], reference["secretKeyKey"]} <= keys
    job = manifests["Job", "cat-bucket"]["spec"]["template"]["spec"]["containers"][0]
    assert job["args"] == ["make-bucket", f"s3://{bucket}"]
    if ("Service", "cat-store") in manifests:
        service = manifests["Service", "cat-store"]
        assert provider["endpoint"] == f"cat-store.{service['metadata']['namespace']}:9000"


@pytest.mark.parametrize("overlay", WITH_A_STORE)
def test_the_store_keeps_its_data_and_speaks_to_nobody_else(overlay: str, rendered: dict[str, Rendered]) -> None:
    store = rendered[overlay]["StatefulSet", "cat-store"]["spec"]
    labels = store["template"]["metadata"]["labels"].items()
    (container,) = store["template"]["spec"]["containers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    (claim,) = store["volumeClaimTemplates"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/data"} in container["volumeMounts"]
    for selector in (
        store["selector"]["matchLabels"],
        rendered[overlay]["Service", "cat-store"]["spec"]["selector"],
        rendered[overlay]["NetworkPolicy", "cat-store"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    policy = rendered[overlay]["NetworkPolicy", "cat-store"]["spec"]
    assert policy["egress"] == []
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == {"s3"}
    assert {port["name"] for port in container["ports"]} == {"s3"}


def test_sizes_follow_the_cluster(rendered: dict[str, Rendered]) -> None:
    disks = {
        overlay: manifests["StatefulSet", "cat-store"]["spec"]["volumeClaimTemplates"][0]["spec"]["resources"][
            "requests"
        ]
        for overlay, manifests in rendered.items()
        if ("StatefulSet", "cat-store") in manifests
    }
    assert {name: disk["storage"] for name, disk in disks.items()} == {
        "local": "10Gi",
        "seaweedfs": "10Gi",
        "gpu": "1Ti",
        "kubeflow": "100Gi",
    }
    image = rendered["gpu"]["Job", "cat-bucket"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == f"cat-pipeline:{__version__}-cuda"


def test_no_credentials_are_committed() -> None:
    text = "".join(path.read_text() for path in K8S.rglob("*.yaml"))
    assert "store.env" in (K8S.parent / ".gitignore").read_text()
    assert not re.search(r"(?i)(password|secret_?key|access_?key)\s*[:=]\s*['\"]?(?!AWS_|secret)[\w+/]{6,}", text)
