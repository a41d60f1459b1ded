import os
from pathlib import Path

import pytest

from components.catlib.errors import UserError
from components.catlib.storage import StoreSettings
from components.catlib.storage.settings import ca_file, web_authorization
from tests.object_stores import ACCESS_KEY, COMPLETE


def test_settings_come_from_variables_or_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    environment = {**COMPLETE, "AWS_SECRET_ACCESS_KEY": "", "AWS_SECRET_ACCESS_KEY_FILE": str(secret)}
    settings = StoreSettings.from_environment({**environment, "AWS_DEFAULT_REGION": "eu-1"})
    assert (settings.host, settings.secure, settings.region) == ("store:9000", False, "eu-1")
    assert settings.secret_key == "from a file"
    assert "from a file" not in repr(settings)
    assert ACCESS_KEY not in repr(settings)
    assert StoreSettings.from_environment({**COMPLETE, "S3_ENDPOINT": "https://s3.example.org"}).secure


@pytest.mark.parametrize("missing", list(COMPLETE))
def test_a_missing_variable_is_named(missing: str) -> None:
    with pytest.raises(UserError, match=missing):
        StoreSettings.from_environment({name: value for name, value in COMPLETE.items() if name != missing})


@pytest.mark.parametrize("endpoint", ["store:9000", "ftp://store", "http://store/path", "http://user:pw@store"])
def test_an_endpoint_of_another_form_is_refused(endpoint: str) -> None:
    with pytest.raises(UserError, match="S3_ENDPOINT must be") as caught:
        StoreSettings.from_environment({**COMPLETE, "S3_ENDPOINT": endpoint})
    assert "pw" not in str(caught.value)


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"AWS_ACCESS_KEY_ID_FILE names .*nowhere"):
        StoreSettings.from_environment(
            {"S3_ENDPOINT": "http://store", "AWS_ACCESS_KEY_ID_FILE": str(tmp_path / "nowhere")}
        )


def test_certificates_to_trust_may_be_named_either_way() -> None:
    assert ca_file({}) is None
    assert ca_file({"SSL_CERT_FILE": "ours"}) == "ours"
    assert ca_file({"SSL_CERT_FILE": "ours", "AWS_CA_BUNDLE": "the store's"}) == "the store's"


@pytest.mark.parametrize("content", [b"s3cret\nline", b"s3cret\x00", b"\xffs3cret"], ids=["lines", "zero", "no text"])
def test_a_secret_that_no_request_can_carry_is_refused_and_not_repeated(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(content)
    environment = {**COMPLETE, "AWS_SESSION_TOKEN_FILE": str(tmp_path / "secret")}
    with pytest.raises(UserError, match=r"AWS_SESSION_TOKEN_FILE .*secret .*write the secret") as caught:
        StoreSettings.from_environment(environment)
    assert "s3cret" not in str(caught.value)


# ----------------------------------------------------------------------------------------------- servers of the web

NETRC = "machine data.example.org login me password s3cret\ndefault login any password s3cret\n"
BASIC = "Basic bWU6czNjcmV0"


@pytest.fixture
def netrc_file(tmp_path: Path) -> str:
    path = tmp_path / "netrc"
    path.write_text(NETRC)
    return str(path)


@pytest.mark.parametrize(
    ("given", "header"),
    [
        ({"CAT_WEB_TOKEN": "s3cret"}, "Bearer s3cret"),
        ({"CAT_WEB_USER": "me", "CAT_WEB_PASSWORD": "s3cret"}, BASIC),
    ],
)
@pytest.mark.parametrize("host", ["data.example.org", "Data.Example.org:8443"])
def test_one_server_gets_the_credentials_of_the_environment(given: dict[str, str], header: str, host: str) -> None:
    environment = {**given, "CAT_WEB_HOST": host, "NETRC": os.devnull}
    assert web_authorization("https://data.example.org:8443/a.zip", environment) == header
    for other in ("https://example.org/a", "https://data.example.org.evil.org/a", "https://evil.org/data.example.org"):
        assert web_authorization(other, environment) is None


def test_a_port_that_was_named_counts() -> None:
    environment = {"CAT_WEB_HOST": "data.example.org:8443", "CAT_WEB_TOKEN": "s3cret", "NETRC": os.devnull}
    assert web_authorization("https://data.example.org/a.zip", environment) is None


def test_a_token_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    environment = {"CAT_WEB_HOST": "example.org", "CAT_WEB_TOKEN_FILE": str(tmp_path / "token")}
    assert web_authorization("https://example.org/a.zip", environment) == "Bearer s3cret"


def test_other_servers_get_what_the_netrc_file_has_for_them_alone(
    netrc_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert web_authorization("https://data.example.org/a.zip", {"NETRC": netrc_file}) == BASIC
    assert web_authorization("https://example.org/a.zip", {"NETRC": netrc_file}) is None, "not the default entry"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert web_authorization("https://data.example.org/a.zip", {}) is None
    (tmp_path / ".netrc").write_text(NETRC)
    assert web_authorization("https://data.example.org/a.zip", {}) == BASIC


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CAT_WEB_TOKEN": "s3cret"}, "need CAT_WEB_HOST"),
        ({"CAT_WEB_USER": "me", "CAT_WEB_PASSWORD": "s3cret"}, "need CAT_WEB_HOST"),
        ({"CAT_WEB_HOST": "example.org"}, "CAT_WEB_HOST needs CAT_WEB_TOKEN"),
        ({"CAT_WEB_HOST": "example.org", "CAT_WEB_TOKEN": "s3cret\nX"}, "CAT_WEB_TOKEN holds a line break"),
        ({"NETRC": "/nowhere/netrc"}, "/nowhere/netrc cannot be read .* correct or remove"),
    ],
)
def test_what_is_missing_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        web_authorization("https://example.org/a.zip", environment)
    assert "s3cret" not in str(caught.value)


def test_a_damaged_netrc_file_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine example.org login me\ns3cret s3cret\n")
    with pytest.raises(UserError, match=r"netrc cannot be read \(line 2\)") as caught:
        web_authorization("https://example.org/a.zip", {"NETRC": str(tmp_path / "netrc")})
    assert "s3cret" not in str(caught.value)
