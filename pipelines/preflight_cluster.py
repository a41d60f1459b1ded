"""What is wrong with a run, as its cluster shows: Kubeflow's version, the Secret of the store, settings of Kubeflow.

Kubeflow's API shows neither Secrets nor settings. They are read through the Kubernetes API, and only where the
kubeconfig is certain to name the same cluster: without --host, or with --kube-context.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes.config.incluster_config import SERVICE_TOKEN_FILENAME

from components.catlib.storage import is_in_object_store
from pipelines.connection import Connection, Kubeflow
from pipelines.preflight import Finding, Plan, doubtful, wrong
from pipelines.resources import STORE_VARIABLES

OLDEST_VERSION = (2, 17)
"""The first version of Kubeflow Pipelines that knows everything that our pipelines ask for."""

_SECONDS = (3, 10)
"""Time to connect to the Kubernetes API, and for its answer."""

_NOT_READABLE = (kubernetes_client.ApiException, kubernetes_config.ConfigException, urllib3.exceptions.HTTPError)


def cluster_findings(plan: Plan, kubeflow: Kubeflow) -> Iterator[Finding]:
    """Yields what is wrong with a run as far as its cluster shows it."""
    yield from _version(kubeflow)
    kubernetes = Kubernetes.of(kubeflow.connection)
    yield from _secret(plan, kubernetes, kubeflow.connection)
    yield from _root(plan, kubernetes)
    yield from _retries(kubernetes)


class Kubernetes:
    """The Kubernetes API of a run's cluster.

    Attributes:
        namespace: Namespace of the run's pods.
        kubeflow_namespace: Namespace of Kubeflow Pipelines itself.
    """

    def __init__(self, api: Any, *, namespace: str, kubeflow_namespace: str) -> None:
        """Stores the client, which has settings of its own."""
        self._api = api
        self.namespace = namespace
        self.kubeflow_namespace = kubeflow_namespace

    @classmethod
    def of(cls, connection: Connection) -> Kubernetes | None:
        """Returns the API behind a connection; None if it is unknown which cluster that is, or it cannot be used."""
        if connection.host and not connection.kube_context:
            return None
        configuration: Any = kubernetes_client.Configuration()
        try:
            if not connection.kube_context and Path(SERVICE_TOKEN_FILENAME).is_file():
                kubernetes_config.load_incluster_config(client_configuration=configuration)
            else:
                kubernetes_config.load_kube_config(context=connection.kube_context, client_configuration=configuration)
        except kubernetes_config.ConfigException:
            return None
        configuration.retries = 0
        api = kubernetes_client.CoreV1Api(kubernetes_client.ApiClient(configuration))
        namespace = connection.namespace or connection.kubeflow_namespace
        return cls(api, namespace=namespace, kubeflow_namespace=connection.kubeflow_namespace)

    def secret_keys(self, name: str) -> set[str] | None:
        """Returns the keys of a Secret of the run's namespace, without reading its values; None: there is no Secret.

        Raises:
            ApiException: It may not be read.
        """
        try:
            found = self._api.read_namespaced_secret(name, self.namespace, _request_timeout=_SECONDS)
        except kubernetes_client.ApiException as error:
            if error.status == 404:
                return None
            raise
        return set(found.data or {})

    def settings(self, name: str) -> Mapping[str, str] | None:
        """Returns the content of a ConfigMap of Kubeflow; None if there is none, or it cannot be read."""
        try:
            found = self._api.read_namespaced_config_map(name, self.kubeflow_namespace, _request_timeout=_SECONDS)
        except _NOT_READABLE:
            return None
        return found.data or {}


def _version(kubeflow: Kubeflow) -> Iterator[Finding]:
    version = kubeflow.version
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers is None:
        yield doubtful(
            f"Kubeflow Pipelines does not state its version ({version or 'none'}); versions before "
            f"{_words(OLDEST_VERSION)} drop Secrets and time limits of a run without a word."
        )
    elif (int(numbers[1]), int(numbers[2])) < OLDEST_VERSION:
        yield wrong(
            f"Kubeflow Pipelines is version {version} here, which would drop the Secrets and time limits of this run "
            f"without a word; upgrade it to {_words(OLDEST_VERSION)} or newer."
        )


def _words(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _secret(plan: Plan, kubernetes: Kubernetes | None, connection: Connection) -> Iterator[Finding]:
    name = plan.recipe.resources.store_secret
    if name is None:
        return
    namespace = connection.namespace or connection.kubeflow_namespace
    where = f"Secret {name} of resources.store_secret"
    try:
        keys = kubernetes.secret_keys(name) if kubernetes else set()
    except _NOT_READABLE as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        yield doubtful(f"{where} cannot be looked at in namespace {namespace} ({reason}).")
        return
    if kubernetes is None:
        yield doubtful(
            f"{where} cannot be looked at through --host; pods start only if namespace {namespace} has it (kubectl get "
            f"secret -n {namespace} {name}), or give --kube-context besides."
        )
    elif keys is None:
        yield wrong(f"{where} does not exist in namespace {namespace}, so no pod could start; create it first.")
    elif missing := [variable for variable in STORE_VARIABLES if variable not in keys]:
        yield wrong(f"{where} in namespace {namespace} has no {', '.join(missing)}, so no pod could start; add it.")


def _root(plan: Plan, kubernetes: Kubernetes | None) -> Iterator[Finding]:
    if plan.root is None or not is_in_object_store(plan.root):
        return
    scheme = plan.root.partition("://")[0]
    settings = kubernetes.settings("kfp-launcher") if kubernetes else None
    if settings is None:
        if scheme != "minio":
            yield doubtful(
                f"--root {plan.root} goes to Amazon's servers unless the ConfigMap kfp-launcher configures another "
                "store for s3, which cannot be looked at from here."
            )
        return
    providers = yaml.safe_load(settings.get("providers", "")) or {}
    if scheme == "s3" and "s3" not in providers:
        yield doubtful(
            f"--root {plan.root} goes to Amazon's servers, because the ConfigMap kfp-launcher configures no store for "
            "s3; for a store that it configures for minio, give minio://BUCKET/FOLDER."
        )


def _retries(kubernetes: Kubernetes | None) -> Iterator[Finding]:
    settings = kubernetes.settings("workflow-controller-configmap") if kubernetes else None
    if settings is None:
        return
    defaults = yaml.safe_load(settings.get("workflowDefaults", "")) or {}
    strategy = defaults.get("spec", {}).get("templateDefaults", {}).get("retryStrategy", {})
    policy, advice = strategy.get("retryPolicy"), "k8s/README.md shows the settings that retry both"
    where = "The ConfigMap workflow-controller-configmap"
    if policy == "Always" and not strategy.get("expression"):
        yield doubtful(f"{where} also retries Kubeflow's own steps, up to 27 times for one failing stage; {advice}.")
    elif policy != "Always":
        what = "a stage that fails" if strategy else "a pod that is deleted"
        yield doubtful(f"{where} makes Kubeflow never try again {what}, whatever resources.stages ask for; {advice}.")
