"""How to reach the object store: the only place that reads the environment for it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from components.catlib.errors import UserError

_ENDPOINT = re.compile(r"https?://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?/*", re.IGNORECASE | re.ASCII)

WAIT_VARIABLE = "CAT_WAIT_FOR_SERVERS"
"""Environment variable that tells a task, which starts beside its servers and has nobody at its terminal, from a
command: "1" where servers that have never answered are waited for, "0" where their address counts as wrong. A command
is the default; Kubeflow components are tasks, and so are the containers of a TrainJob, of Compose and of k8s/base."""


@dataclass(frozen=True)
class StoreSettings:
    """How to reach the object store.

    Attributes:
        host: Host name, with the port unless it is the usual one.
        secure: Whether to use TLS.
        access_key: The access key, which names the user.
        secret_key: The secret key.
        session_token: The token that temporary credentials have besides.
        region: The region of the store.
        ca_file: Certificates to trust instead of the usual ones.
        waits: Whether the store is waited for even if it has never answered.
    """

    host: str
    secure: bool
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str = "us-east-1"
    ca_file: str | None = None
    waits: bool = False

    @property
    def url(self) -> str:
        """The store's address."""
        return f"{'https' if self.secure else 'http'}://{self.host}"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> StoreSettings:
        """Reads S3_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, when set, the optional variables.

        The optional ones are AWS_SESSION_TOKEN, AWS_REGION (or AWS_DEFAULT_REGION), those of `ca_file`, and
        `WAIT_VARIABLE`. NAME_FILE may stand for any of the others: it is the path of a file with the value of NAME.
        Containers get secrets in this way.

        Raises:
            UserError: A variable, which is named, is missing or malformed.
        """
        endpoint = _endpoint(
            _required(environment, "S3_ENDPOINT", "the address of the object store, such as http://localhost:9000")
        )
        return cls(
            host=endpoint.netloc,
            secure=endpoint.scheme == "https",
            access_key=_required(environment, "AWS_ACCESS_KEY_ID", "the access key of the object store"),
            secret_key=_required(environment, "AWS_SECRET_ACCESS_KEY", "the secret key of the object store"),
            session_token=_variable(environment, "AWS_SESSION_TOKEN"),
            region=_variable(environment, "AWS_REGION") or _variable(environment, "AWS_DEFAULT_REGION") or cls.region,
            ca_file=ca_file(environment),
            waits=waits_for_servers(environment),
        )


def waits_for_servers(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether servers that have never answered are waited for; see `WAIT_VARIABLE`."""
    return environment.get(WAIT_VARIABLE, "0") not in ("", "0")


@contextlib.contextmanager
def waiting_for_servers() -> Iterator[None]:
    """Makes this process and those that it starts a task, unless the environment says otherwise."""
    decided = WAIT_VARIABLE in os.environ
    os.environ.setdefault(WAIT_VARIABLE, "1")
    try:
        yield
    finally:
        if not decided:
            del os.environ[WAIT_VARIABLE]


def ca_file(environment: Mapping[str, str] = os.environ) -> str | None:
    """Returns the certificates that AWS_CA_BUNDLE or SSL_CERT_FILE name; None: the usual ones."""
    return _variable(environment, "AWS_CA_BUNDLE") or environment.get("SSL_CERT_FILE")


def _endpoint(address: str) -> SplitResult:
    with contextlib.suppress(ValueError):  # a wrong port, or no IPv6 address in brackets
        parts = urlsplit(address)
        if _ENDPOINT.fullmatch(address) and parts.port != 0:
            return parts
    raise UserError("S3_ENDPOINT must be of the form http://HOST:PORT or https://HOST, without path or password.")


def _variable(environment: Mapping[str, str], name: str) -> str | None:
    if environment.get(name):
        return environment[name]
    file = environment.get(f"{name}_FILE")
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"{name}_FILE names {file}, which cannot be read ({error.strerror}).") from error


def _required(environment: Mapping[str, str], name: str, meaning: str) -> str:
    value = _variable(environment, name)
    if not value:
        raise UserError(f"s3:// addresses need the environment variable {name} (or {name}_FILE): {meaning}.")
    return value
