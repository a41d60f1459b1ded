"""Finds credentials in recipes, arguments and addresses: this module alone decides what counts as one.

Recipes and arguments go into manifests, reports, compiled pipelines, requests and process lists. So a password, a token
or a signature in them is refused, in a sentence that does not repeat it and names the variables to use instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_plus

from components.catlib.errors import UserError

_USER = re.compile(
    r":/+[^/?#\s]*@"  # http://user:password@host, s3://user@bucket
    r"|(?:^|[\s=\[{\"'])//[^/?#\s]*@"  # //user@host
    r"|[^\s/?#@:=]:[^\s/?#@]+@(?!sha256:)"  # user:password@host; an image's NAME:TAG@sha256:… is none
    r"|https?:/+[^/?#\s:@\[]+:(?!\d*(?:[/?#\s,\]})\"']|$))",  # a port that is no number begins a password with a slash
    re.IGNORECASE,
)
_QUERY = re.compile(r"[?&#;]([^=&#;?\s]+)=([^&#;?\s]*)")
_BARE_QUERY = re.compile(r"[?&#]([^=&#;?\s]+)(?=[&#;\s]|$)")

_SECRET_WORD = re.compile(
    "sig|sign|signature|token|tok|key|apikey|secret|password|passwd|passphrase|pass|pwd|pw|credentials?|cred|auth"
    "|authorization|bearer|jwt|session|sid|ticket|hmac|policy|otp"
)
"""A query parameter with such a word in its name is a credential: `api_key`, `X-Amz-Security-Token`, `keyPairId`."""
_SECRET_PARTS = re.compile(
    r"signature|secret|passw|credential|(access|api|auth|account|private|shared)key|token$|sess(ion)?id|^x-"
)
"""The same for names whose words are not told apart, and for the headers of stores in queries (`X-Goog-…`)."""
_SHARED_ACCESS = frozenset({"sv", "se", "sp", "st", "sr", "spr", "skoid", "sktid"})
"""Azure's shared access signatures consist of these, and of `sig`."""
_CONTENT_WORD = re.compile(
    "ids?|uuid|version|versionid|v|rev|revision|ref|commit|sha|sha1|sha256|md5|checksum|digest|etag|doi"
)
"""Query parameters whose values look random without being secret."""

_RANDOM = re.compile(r"[0-9a-f]{32,}|(?=.*[a-z])(?=.*[A-Z])(?=.*\d)[\w+/=~-]{20,}")
_KNOWN_TOKEN = re.compile(
    r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}"
    r"|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|ya29\.[\w-]{20,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
"""Tokens that their issuers made recognisable: AWS, GitHub, GitLab, Hugging Face, Slack, Google, JSON web tokens."""

_WEB_ADVICE = (
    "set CAT_WEB_HOST with CAT_WEB_TOKEN, or with CAT_WEB_USER and CAT_WEB_PASSWORD, or write the server into ~/.netrc"
)
_STORE_ADVICE = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_TRACKING_ADVICE = "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def credential_in(text: str) -> str:
    """Returns what kind of credential a text holds, such as "a password" or "a signature"; "" if it holds none.

    Args:
        text: An address, or any text with addresses in it.
    """
    for reading in _readings(text):
        if _USER.search(reading):
            return "a user name or password"
        if _KNOWN_TOKEN.search(reading):
            return "a token"
        parameters = _QUERY.findall(reading) + [("", value) for value in _BARE_QUERY.findall(reading)]
        if any(_is_credential(name, value) for name, value in parameters):
            return "a token or signature"
        if len({name.lower() for name, value in parameters if value} & _SHARED_ACCESS) > 1:
            return "a token or signature"
    return ""


def refuse_credentials(value: Any, where: str) -> None:
    """Refuses settings that hold a credential, in names and values, at any depth.

    Args:
        value: A text, or JSON values; other values hold nothing.
        where: The setting or option, for the message.

    Raises:
        UserError: There is one; the message names the place and what to do, and does not repeat it.
    """
    if isinstance(value, Mapping):
        for key, nested in value.items():
            refuse_credentials(key, f"a name in {where}" if where else "a name")
            refuse_credentials(nested, f"{where}.{key}" if where else str(key))
    elif isinstance(value, str):
        if found := credential_in(value):
            raise UserError(
                f"{where or 'A setting'} holds {found}, which manifests, reports and requests would show; remove it "
                f"and {_advice(where, value)}."
            )
    elif isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        for nested in value:
            refuse_credentials(nested, where)


def refuse_in_arguments(arguments: Sequence[str]) -> None:
    """Refuses a command line that holds a credential, before anything reads it and may repeat it.

    Raises:
        UserError: There is one; the message names the option.
    """
    option = ""
    for argument in arguments:
        if argument.startswith("--"):
            option, _, argument = argument.partition("=")
        key, equals, _ = argument.partition("=")
        setting = f" {key}" if equals and re.fullmatch(r"[\w.-]+", key) else ""
        refuse_credentials(argument, f"{option or 'An argument'}{setting}")


def without_credentials(text: str) -> str:
    """Returns a text, such as the message of an exception, without passwords, tokens and signatures of addresses."""
    return re.sub(r"[^\s'\"<>]+", lambda found: _shortened(found[0]), text)


def _shortened(word: str) -> str:
    if not credential_in(word):
        return word
    scheme, slashes, rest = word.partition("://")
    if not slashes:
        scheme, rest = "", word
    place = re.split(r"[?#;]", rest, maxsplit=1)[0].rpartition("@")[2]
    shown = f"{scheme}{slashes}{place}"
    return "…" if credential_in(shown) else f"{shown}…"


def _readings(text: str) -> list[str]:
    """Returns a text and what it becomes without percent signs: an address within an address is encoded once more."""
    readings = [text]
    while len(readings) < 4 and (decoded := unquote_plus(readings[-1])) != readings[-1]:
        readings.append(decoded)
    return readings


def _is_credential(name: str, value: str) -> bool:
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d*", name)} | {name.lower()}
    named = any(map(_SECRET_WORD.fullmatch, words)) or _SECRET_PARTS.search(name.lower().replace("_", ""))
    if value and named:
        return True
    return _RANDOM.fullmatch(value) is not None and not any(map(_CONTENT_WORD.fullmatch, words))


def _advice(where: str, text: str) -> str:
    if "tracking" in where:
        return _TRACKING_ADVICE
    if where.startswith("--host"):
        return "give the token with --token-file"
    if re.search(r"\b(s3|minio):/", text) or "checkpoint" in where:
        return _STORE_ADVICE
    if re.search(r"signature|credential|accesskey|[?&]sig=", text, re.IGNORECASE):
        return f"give the file's s3:// address and {_STORE_ADVICE}, or download it first and give its path"
    return _WEB_ADVICE
