"""Run in a copy that has the SQLite store: what every store must do, and a stage that writes to an address of it."""

import json
from pathlib import Path

import pytest

from components.__main__ import main
from components.catlib.errors import UserError
from components.catlib.storage import Storage, Store, open_store
from tests.components.catlib.storage.store_tests import StoreTests


class TestSqliteStore(StoreTests):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        open_store(f"sqlite://{tmp_path}/store.db/another").write("a", b"of no interest to the store under test")
        return open_store(f"sqlite://{tmp_path}/store.db/runs/")


def test_a_stage_writes_to_it_and_the_next_one_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    store = f"sqlite://{tmp_path}/store.db"
    dataset = ["dataset", "--recipe", "smoke", "--output", f"{store}/dataset", "--json"]
    for reused in (False, True):
        assert main(dataset) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["reused"] == reused
    stats = ["real-stats", "--recipe", "smoke", "--dataset", f"{store}/dataset", "--output", f"{store}/statistics"]
    assert main(stats) == 0
    assert Storage().manifest(f"{store}/statistics").kind == "real_stats"


def test_an_address_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, but long enough to be taken for one" * 20)
    for address, message in (("/no/file", "not of the form sqlite:"), ("/text.db/a", "cannot be used as a SQLite")):
        with pytest.raises(UserError, match=message):
            open_store(f"sqlite://{tmp_path}{address}")
