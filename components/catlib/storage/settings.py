"""How to reach the object store and servers of the web: the only place that reads the environment for them."""

from __future__ import annotations

import base64
import contextlib
import netrc
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
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

    def seen_from(self, endpoint: str) -> StoreSettings:
        """Returns how another machine reaches the same store.

        Args:
            endpoint: The store's address there.

        Raises:
            UserError: It is no such address.
        """
        parts = _endpoint(endpoint, "The endpoint of a link")
        return replace(self, host=parts.netloc, secure=parts.scheme == "https")

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
            _required(environment, "S3_ENDPOINT", "the address of the object store, such as http://localhost:9000"),
            "S3_ENDPOINT",
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


def store_out_of_sight() -> str:
    """Returns why the object store of pods cannot be asked from this machine; "" if it can."""
    for name in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        if not _variable(os.environ, name):
            return f"{name} is not set on this machine"
    url = StoreSettings.from_environment().url
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
    except OSError:
        return f"the host name of the store {url} is unknown here, as that of a service inside a cluster is"
    return ""


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


def _endpoint(address: str, name: str) -> SplitResult:
    with contextlib.suppress(ValueError):  # a wrong port, or no IPv6 address in brackets
        parts = urlsplit(address)
        if _ENDPOINT.fullmatch(address) and parts.port != 0:
            return parts
    raise UserError(f"{name} must be of the form http://HOST:PORT or https://HOST, without path or password.")


def web_authorization(url: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """Returns the Authorization header that the server of a web address gets; None: it gets none.

    CAT_WEB_HOST (HOST or HOST:PORT) names the one server that gets CAT_WEB_TOKEN, or CAT_WEB_USER and CAT_WEB_PASSWORD;
    NAME_FILE may stand for any of them. Other servers get what the netrc file says for their host alone; that file is
    ~/.netrc, or the one that NETRC names.

    Raises:
        UserError: CAT_WEB_HOST or its credentials are missing, or a file cannot be read; nothing in it is repeated.
        LocationValueError: It is no web address.
    """
    from urllib3.util import parse_url

    address = parse_url(url)
    host, token, user, password = (
        _variable(environment, f"CAT_WEB_{name}") for name in ("HOST", "TOKEN", "USER", "PASSWORD")
    )
    if (token or password) and not host:
        raise UserError("CAT_WEB_TOKEN and CAT_WEB_PASSWORD need CAT_WEB_HOST, the only server that gets them.")
    if host and host.lower() in (address.netloc, address.host):
        if not (token or (user and password)):
            raise UserError("CAT_WEB_HOST needs CAT_WEB_TOKEN, or CAT_WEB_USER and CAT_WEB_PASSWORD.")
        return f"Bearer {token}" if token else _basic(user or "", password or "")
    return _netrc_authorization(address.host or "", environment)


def _netrc_authorization(host: str, environment: Mapping[str, str]) -> str | None:
    path = Path(environment.get("NETRC") or Path.home() / ".netrc")
    if not environment.get("NETRC") and not path.is_file():
        return None
    try:
        entry = netrc.netrc(path).hosts.get(host)  # not `authenticators`: a default entry would go to every server
    except OSError as error:
        raise UserError(f"The netrc file {path} cannot be read ({error.strerror}); correct or remove it.") from error
    except netrc.NetrcParseError as error:
        where = f"line {error.lineno}" if error.lineno else "its content"
        raise UserError(f"The netrc file {path} cannot be read ({where}); correct it.") from None
    return _basic(entry[0] or "", entry[2] or "") if entry else None


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _variable(environment: Mapping[str, str], name: str) -> str | None:
    if environment.get(name):
        return _one_line(environment[name], name)
    file = environment.get(f"{name}_FILE")
    return read_secret(Path(file), f"{name}_FILE") if file else None


def read_secret(path: Path, where: str) -> str:
    """Returns the secret that a file holds.

    Args:
        path: The file.
        where: The variable or option that names it, for messages.

    Raises:
        UserError: The file cannot be read, or holds what no request can carry; its content is not repeated.
    """
    try:
        return _one_line(path.read_text(encoding="utf-8"), f"{where} {path}")
    except UnicodeDecodeError:
        raise UserError(f"{where} {path} is not a text file; write the secret into it.") from None
    except OSError as error:
        raise UserError(f"{where} names {path}, which cannot be read ({error.strerror}).") from error


def _one_line(secret: str, where: str) -> str:
    """Returns a secret without surrounding space; the exception about a header with a line break would repeat it."""
    if not secret.strip().isprintable():
        raise UserError(f"{where} holds a line break or another control character; write the secret anew.")
    return secret.strip()


def _required(environment: Mapping[str, str], name: str, meaning: str) -> str:
    value = _variable(environment, name)
    if not value:
        raise UserError(f"s3:// addresses need the environment variable {name} (or {name}_FILE): {meaning}.")
    return value
