"""The S3 SDK's private methods: they are as `sdk` expects them, and nothing else uses them."""

import inspect
import re
from pathlib import Path

import pytest
from minio import Minio
from minio.error import InvalidResponseError

from components.catlib.storage import sdk

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_put_object", ["bucket_name", "object_name", "data", "headers", "query_params"]),
        ("_create_multipart_upload", ["bucket_name", "object_name", "headers"]),
        ("_upload_part", ["bucket_name", "object_name", "data", "headers", "upload_id", "part_number"]),
        ("_complete_multipart_upload", ["bucket_name", "object_name", "upload_id", "parts", "ssec"]),
        ("_abort_multipart_upload", ["bucket_name", "object_name", "upload_id"]),
    ],
)
def test_the_sdk_still_has_what_is_called(method: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(Minio, method)).parameters) == ["self", *parameters]


def test_an_answer_that_is_no_xml_has_its_status() -> None:
    assert sdk.status(InvalidResponseError(418, "text/html", None)) == 418
    assert sdk.status(ConnectionError()) == 0


def test_nothing_private_is_used_elsewhere() -> None:
    private = re.compile(r"(client|minio|Minio)(\(.*\))?\._|error\._")
    files = [*(ROOT / "components").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]
    users = {
        path.name
        for path in files
        if "minio" in path.read_text(encoding="utf-8") and private.search(path.read_text(encoding="utf-8"))
    }
    assert users == {"sdk.py"}
