import pytest

from components.catlib.errors import UserError
from components.catlib.storage.addresses import Location, is_web, shown, split


def test_an_address_is_a_bucket_and_a_prefix() -> None:
    assert Location.parse("s3://bucket/a/b/") == Location("bucket", "a/b")
    assert Location.parse("minio://bucket") == Location("bucket", "")
    assert Location("bucket", "").key("x") == "x"
    assert Location("bucket", "a").key("x") == "a/x"


@pytest.mark.parametrize("address", ["s3://", "s3:///a", "s3://bucket/a//b", "s3://bucket/../b", "s3://bucket/./b"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="not an object-store address"):
        Location.parse(address)


IMPOSSIBLE = """
    x -cat cat- a..b a.-b 127.0.0.1 999.0.0.1 käse a:b ٣٣٣ Cat CAT Old_Style with_underscore cat%20 cat@host xn--cat
    sthree-cat amzn-s3-demo-cat cat-s3alias cat--ol-s3 cat.mrap cat--x-s3 cat--table-s3
"""


@pytest.mark.parametrize("bucket", [*IMPOSSIBLE.split(), "c at", "cat\n", "c" * 64])
def test_a_name_that_no_bucket_can_have_is_refused(bucket: str) -> None:
    with pytest.raises(UserError, match=r"names the bucket .* but buckets have 3 to 63 letters") as caught:
        Location.parse(f"s3://{bucket}/folder")
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("bucket", ["cat", "my-bucket.v2", "1st", "a--b", "cat-xn--a", "1.2.3", "c" * 63])
def test_names_that_servers_take_are_taken(bucket: str) -> None:
    assert Location.parse(f"s3://{bucket}") == Location(bucket, "")


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("s3://cat/a/b.zip", ("s3://cat/a", "b.zip")),
        ("s3://cat/a/", ("s3://cat", "a")),
        ("s3://cat", ("s3://cat", "")),
        ("s3://cat/", ("s3://cat/", "")),
    ],
)
def test_a_file_has_a_folder_and_a_name(address: str, parts: tuple[str, str]) -> None:
    assert split(address) == parts


@pytest.mark.parametrize(
    ("address", "web"),
    [("https://host/file", True), ("http://host/file", True), ("s3://bucket/file", False), ("https:/host", False)],
)
def test_addresses_of_the_web_are_known(address: str, web: bool) -> None:
    assert is_web(address) is web


@pytest.mark.parametrize(
    ("address", "visible"),
    [
        ("https://user:password@host:8443/a/b?signature=1#c", "https://host:8443/a/b"),
        ("http://host/a", "http://host/a"),
        ("runs/a?b", "runs/a?b"),
        ("s3://bucket/a", "s3://bucket/a"),
    ],
)
def test_addresses_are_shown_without_credentials(address: str, visible: str) -> None:
    assert shown(address) == visible


@pytest.mark.parametrize(
    ("address", "folder", "name"),
    [
        ("s3://bucket/a/b", "s3://bucket/a", "b"),
        ("s3://bucket/a//", "s3://bucket", "a"),
        ("s3://bucket/xx", "s3://bucket", "xx"),
        ("s3://bucket", "s3://bucket", ""),
        ("s3://bucket/", "s3://bucket/", ""),
    ],
)
def test_an_address_splits_into_folder_and_file(address: str, folder: str, name: str) -> None:
    assert split(address) == (folder, name)


def test_equal_places_are_one_place() -> None:
    assert len({Location.parse("s3://bucket/a/"), Location.parse("minio://bucket/a"), Location("bucket", "a")}) == 1


@pytest.mark.parametrize("address", ["s3://bucket", "s3://bucket/xa/bx", "s3://max"])
def test_a_place_is_written_as_it_is_read(address: str) -> None:
    assert str(Location.parse(address)) == address
