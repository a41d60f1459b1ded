from pathlib import Path

import pytest

from components.catlib.errors import UserError
from components.catlib.storage import StoreSettings
from components.catlib.storage.settings import ca_file
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
