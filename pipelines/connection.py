"""The connection to Kubeflow Pipelines: its client, with time limits, retries, and errors of one sentence."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kfp_server_api
import urllib3
from kfp.client import Client
from kubernetes.client import Configuration
from kubernetes.config import ConfigException, incluster_config, load_kube_config

from components.catlib.credentials import refuse_credentials, without_credentials
from components.catlib.errors import UserError
from components.catlib.storage.retrying import Retrying, Unreachable, asked_pause, passing
from components.catlib.storage.settings import read_secret

ANSWER_SECONDS = (3, 4)
"""Time for the first request to connect, and to be answered; after that the address counts as unreachable."""

REQUEST_SECONDS = (10, 60)
"""Time for later requests to connect, and to be answered."""

PATIENCE_SECONDS = 600.0
"""Time for which the API may be out of reach while a run is watched."""

REQUEST_ERRORS = (kfp_server_api.ApiException, urllib3.exceptions.HTTPError)
"""Exceptions of failed requests."""


_PLAIN_ANSWERS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""What OpenSSL makes of a server that speaks http where https is expected."""


class NotAdmitted(UserError):
    """Kubeflow does not answer to these credentials, or not any more."""


@dataclass(frozen=True)
class Connection:
    """Address of Kubeflow Pipelines, and credentials.

    Attributes:
        host: Address of its API or interface, such as http://localhost:8080; None: through the Kubernetes API, with
            this pod's service account or with the kubeconfig.
        namespace: Namespace of the experiment and its runs, if Kubeflow has profiles; else None.
        kubeflow_namespace: Namespace of Kubeflow Pipelines itself, for connections without a host.
        token: Token that is sent with every request; None: none, or the service account's.
        token_file: File with the token instead; it is read before every request, so that it may be renewed meanwhile.
        kube_context: Context of the kubeconfig; None: its current one.
        ca_file: Certificates to trust instead of the usual ones.
    """

    host: str | None = None
    namespace: str | None = None
    kubeflow_namespace: str = "kubeflow"
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    kube_context: str | None = None
    ca_file: str | None = None

    def options(self) -> list[str]:
        """Returns the options of `python -m pipelines` that make this connection; only a file can hold its token."""
        names = ("host", "namespace", "token_file", "kube_context", "kubeflow_namespace", "ca_file")
        given = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(Connection, name)}
        return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]

    def command(self, *words: str) -> str:
        """Returns a command of `python -m pipelines` that reaches the same Kubeflow, as a shell takes it."""
        return shlex.join(["python", "-m", "pipelines", *words, *self.options()])

    def check(self) -> None:
        """Checks what can be checked before anything is asked.

        Raises:
            UserError: The host is no whole address, or a file or the context of the kubeconfig does not exist.
        """
        refuse_credentials(self.host, "--host")
        if self.host is not None and not _is_address(self.host):
            raise UserError(
                f"--host {self.host} is not a whole address; give one that begins with http:// or https://, such as "
                "http://localhost:8080."
            )
        if self.ca_file is not None and not Path(self.ca_file).is_file():
            raise UserError(f"--ca-file {self.ca_file} is not a file; give the file that holds the certificates.")
        if self.token_file is not None and not read_secret(self.token_file, "--token-file"):
            raise UserError(f"--token-file {self.token_file} is empty; write the token into it.")
        if self.kube_context or (self.host is None and not Path(incluster_config.SERVICE_TOKEN_FILENAME).is_file()):
            self._check_kubeconfig()

    def _check_kubeconfig(self) -> None:
        try:
            load_kube_config(context=self.kube_context, client_configuration=Configuration())
        except ConfigException as error:  # after which Kubeflow's client would try this machine
            option = f" (--kube-context {self.kube_context})" if self.kube_context else ""
            raise UserError(
                f"The kubeconfig{option} cannot be used: {str(error).rstrip('.')}; correct it, or name Kubeflow's "
                "address with --host."
            ) from error


def _is_address(host: str) -> bool:
    try:
        parts = urlsplit(host)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port
        return False


class _Client(Client):
    """Kubeflow's client, but it fails at once if nothing answers, and never waits forever."""

    def _load_config(self, *arguments: Any, **named: Any) -> Any:
        config: Any = super()._load_config(*arguments, **named)
        config.retries = 0  # `Kubeflow.patiently` repeats requests: it knows which may be repeated
        host = config.host.rstrip("/")
        config.host = host = host if "://" in host else f"http://{host}"  # inside a cluster it has no scheme
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


class Kubeflow:
    """An open connection.

    Attributes:
        connection: Address and credentials.
        client: Kubeflow's client. Its generated models declare everything optional, and the API's own calls are
            attributes made at run time, so a type checker sees `Any`.
        api: The part of the client that sends requests.
        patiently: Sends requests and repeats each while it fails for a passing reason.
    """

    client: Any
    api: Any

    def __init__(self, connection: Connection, *, patience: float) -> None:
        """Connects.

        Args:
            connection: Address and credentials.
            patience: Seconds for which failing requests are repeated.

        Raises:
            UserError: Nothing answers within ten seconds, or the answer is not from Kubeflow Pipelines or a refusal.
        """
        connection.check()
        self.connection = connection
        self._where = connection.host or "the cluster of this pod or of the kubeconfig"
        self._reached = False
        self.patiently = Retrying(
            patience,
            errors=REQUEST_ERRORS,
            passes=self._passes,
            explain=lambda what, error, seconds: self.explain(what, error),
            reason=reason,
            pause=_pause,
        )
        try:
            health = self.patiently("connecting", self._connect)
        except UserError:
            raise
        except (ValueError, ConfigException) as error:
            raise self.explain("connecting", error) from error
        self._reached = True
        if health is None or health.multi_user is None:
            raise UserError(
                f"{self._where} answers, but not as Kubeflow Pipelines does; check the address (of a whole Kubeflow it "
                "ends in /pipeline), and give --token-file if it is behind a login page."
            )
        if health.multi_user and not connection.namespace:
            raise UserError(f"Kubeflow at {self._where} has profiles; give yours with --namespace.")
        self._limit_every_request()

    def _connect(self) -> Any:
        """Makes the client; returns what Kubeflow says of its health, None if it is not Kubeflow that answers."""
        connection = self.connection
        try:
            with quiet():
                self.client = _Client(
                    host=connection.host and connection.host.partition("#")[0],  # what a browser's address ends with
                    namespace=connection.kubeflow_namespace,
                    existing_token=self._token(),
                    kube_context=connection.kube_context,
                    ssl_ca_cert=connection.ca_file,
                )
                self.api = self.client._run_api.api_client
                if connection.token_file is not None:
                    self.api.configuration.refresh_api_key_hook = self._renew_token
                return self.client.get_kfp_healthz()
        except kfp_server_api.ApiException as error:
            if error.status != 404:
                raise
            return None

    def _token(self) -> str | None:
        file = self.connection.token_file
        return self.connection.token if file is None else read_secret(file, "--token-file")

    def _renew_token(self, configuration: Any) -> None:
        with contextlib.suppress(UserError):  # it is being replaced; the earlier one may still do
            configuration.api_key["authorization"] = self._token()

    def open(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Any:
        """Sends a GET request that Kubeflow's client has no function for; returns the answer, whose body is unread.

        Raises:
            ApiException: The server refuses; one of `REQUEST_ERRORS`.
        """
        return self.api.call_api(
            path, "GET", query_params=list(query), auth_settings=["Bearer"], _preload_content=False
        )

    def read(self, what: str, path: str) -> Any:
        """Returns the JSON at a path.

        Args:
            what: The request in words: "reading the tasks of run …".
            path: The path, such as "/apis/v2beta1/healthz".

        Raises:
            UserError: The server refuses, or does not answer in time.
        """
        text = self.patiently(what, lambda: self.open(path).data)
        try:
            return json.loads(text)
        except ValueError as error:
            raise NotAdmitted(
                f"{self._where} does not answer as Kubeflow Pipelines does ({what}); if it is behind a login page, the "
                "token may have expired: give --token-file."
            ) from error

    @functools.cached_property
    def _health(self) -> Mapping[str, Any]:
        return self.read("reading Kubeflow's version", "/apis/v2beta1/healthz")

    @property
    def is_interface(self) -> bool:
        """Whether the address is that of Kubeflow's interface, which passes requests on, not of the API itself."""
        return any(key.startswith(("apiServer", "frontend")) for key in self._health)

    @property
    def version(self) -> str:
        """Version of Kubeflow Pipelines, such as "2.17.0"; "" if it does not say."""
        return str(self._health.get("apiServerTagName") or self._health.get("tag_name") or "")

    def _limit_every_request(self) -> None:
        request = self.api.rest_client.request

        def request_in_time(*arguments: Any, **named: Any) -> Any:
            return request(*arguments, **named | {"_request_timeout": named.get("_request_timeout") or REQUEST_SECONDS})

        self.api.rest_client.request = request_in_time

    def explain(self, what: str, error: Exception) -> UserError:
        """Returns the error for a request that failed for good.

        Args:
            what: The request in words: "creating the run".
            error: Its exception.
        """
        status = error.status if isinstance(error, kfp_server_api.ApiException) else None
        if status in (401, 403):
            namespace = self.connection.namespace or self.connection.kubeflow_namespace
            return NotAdmitted(
                f"Kubeflow at {self._where} refuses ({what}: {status} {reason(error)}); check the token, which may "
                f"have expired, and that it may use namespace {namespace}."
            )
        if status == 404:
            return UserError(
                f"Kubeflow at {self._where} does not know it ({what}: {reason(error)}); check the id or name."
            )
        if status in (None, 0) or passing(status):
            sentence = f"Kubeflow Pipelines cannot be reached at {self._where} ({what}: {reason(error)});"
            forwarding = "that `kubectl port-forward` runs if you need it"
            if self._reached or status:
                return Unreachable(f"{sentence} try again later, and check {forwarding}.")
            if advice := self._about_protocol(error):
                return UserError(f"{sentence} {advice}.")
            return UserError(
                f"{sentence} check --host{'' if self.connection.host else ' (not given)'}, and {forwarding}."
            )
        advice = f"; {advice}" if (advice := self._about_protocol(error)) else ""
        return UserError(f"Kubeflow at {self._where} refuses ({what}: {reason(error)}){advice}.")

    def _about_protocol(self, error: Exception) -> str:
        """Returns what to change about the protocol that an address names; "" if it is not at fault."""
        cause, host = getattr(error, "reason", None) or error, self.connection.host or ""
        if isinstance(cause, urllib3.exceptions.SSLError):
            if "CERTIFICATE" in str(cause):
                return "its certificate is not trusted here: give the authority's, as PEM, with --ca-file"
            if any(each in str(cause) for each in _PLAIN_ANSWERS):
                return f"it does not speak https: give --host http://{host.partition('://')[2]}"
        broken = isinstance(cause, urllib3.exceptions.ProtocolError)
        if host.startswith("http://") and (broken or "https" in reason(error).lower()):
            https = f"if it speaks https alone, give --host https://{host.partition('://')[2]}"
            return f"{https}; else check that `kubectl port-forward` runs if you need it"
        return ""


def _pause(error: Exception) -> float | None:
    """Returns the seconds after which the API wants to be asked again; None if it does not say."""
    headers = getattr(error, "headers", None)
    return asked_pause(headers) if headers else None


def reason(error: Exception) -> str:
    """Returns the reason of a failed request in a few words, without the credentials of addresses in it."""
    return without_credentials(_reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, kfp_server_api.ApiException):
        body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body or ""
        with contextlib.suppress(ValueError, TypeError):
            answer = json.loads(body)
            if isinstance(answer, dict) and (message := answer.get("message") or answer.get("error")):
                return str(message).split("\n", 1)[0][:300]
        if body.strip() and not body.lstrip().startswith(("<", "{")):  # the interface's own answers are plain text
            return body.strip().split("\n", 1)[0][:300]
        return str(error.reason or error).split("\n", 1)[0][:300]
    cause = getattr(error, "reason", None) or error
    return str(cause).split("\n", 1)[0].rsplit(": ", 1)[-1][:300]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps Kubeflow's client from printing links and warnings between our lines."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
