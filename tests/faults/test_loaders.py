"""Whoever gives a damaged file gets one sentence: a few examples of every reader; `tests.faults.fuzz` tries more."""

import io
import logging
import random
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.catlib.errors import LONGEST_LINE, UserError
from components.catlib.recipes import read_yaml
from tests.faults.judging import BrokenPromiseError, Loader, judge, limited_memory
from tests.faults.loaders import LOADERS
from tests.faults.mutations import mutated

SLOW = {"inception": 3, "published statistics": 5, "checkpoint state": 8, "architecture, labels": 8}
"""Loaders that get fewer examples."""


pytestmark = pytest.mark.filterwarnings("ignore")  # of readers, about files that are damaged on purpose


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_file_is_read_or_refused_in_one_sentence(name: str):
    loader = LOADERS[name]
    seeds = loader.seeds()

    @settings(
        max_examples=SLOW.get(name, 15), deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(content=st.sampled_from(seeds), chance=st.randoms(use_true_random=False))
    def try_one(content: bytes, chance: random.Random) -> None:
        with tempfile.TemporaryDirectory() as folder, limited_memory():
            judge(loader, mutated(content, loader.kind, chance), Path(folder))

    try_one()


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name + 1, name + 1, b",".join([b"*%c" % name] * 9)) for name in range(97, 105)
)
"""A list of a list of … nine lists: 9⁹ values in a few lines."""

MANIFEST = (
    b'{"kind": "teacher", "code_digest": "", "config": {}, "inputs": {}, "summary": {}, '
    b'"files": {"%s": {"bytes": 1, "sha256": "' + b"0" * 64 + b'"}}}'
)


def _zip(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


FOUND: dict[str, list[bytes]] = {
    "recipe text": [
        *(b"name: " + value for value in (b"2024-13-45", b"!!bool x", b"!!timestamp x", b"!!int ''", b"&a [*a]")),
        *(b"a: " + b"[" * 1000, b"\xff", b"budgets: ['" + b"x" * 5000 + b"']", BOMB + b"budgets: *i"),
    ],
    "override": [
        *(b"teacher.epochs=2024-13-45", b"teacher.epochs=" + b"{" * 1000, b'name="\\x"'),
        *(b"x" * 5000, b"teacher.epochs=a\nb", b"a\0=1"),
    ],
    "recipe name": [b"x" * 300, b"a\0b", b"../recipes/smoke"],
    "names": [b"{}", b"1", b'{"train": 1, "test": 1}', b"[" * 100_000, b'{"train": {"source": []}, "test": {}}'],
    "architecture, paired": [b"[" * 100_000],
    "cache note": [
        *(b'{"version": "1", "sha256": "%s"}' % name for name in (b"x" * 5000, b"a\\u0000")),
        b"[" * 100_000,
    ],
    "endpoint": [b"http://" + rest for rest in (b"[", b"[x]:80", b"h:x", b"h:99999", b"h:0", b"a b", b"h?x", b"h#x")],
    "source": [b"x" * 5000, b"a\nb", b"\xff\xfe"],
    "manifest": [MANIFEST % name for name in (b"x" * 5000, b"a\\u0000", b"..", b"/a", b"", b"a//b", b".")],
    "web address": [b"http://[", b"https://host:x", b"https://\n", b"https://a\x0bb"],
    "published statistics": [_zip(mu=b"no array"), _zip(mu=b""), _zip(sigma=b"\x93NUM")],
    "pth": [b"\x80\x02cx\n" + b"x" * 100_000 + b"\n."],
}
"""Files that once ended in a traceback, took forever, or were refused in more than one line."""


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, found in FOUND.items() for content in found])
def test_what_was_found_once_is_refused(name: str, content: bytes, tmp_path: Path):
    with limited_memory():
        answer = judge(LOADERS[name], content, tmp_path)
    assert answer is not None or name == "cache note"


@pytest.mark.parametrize("name", LOADERS)
def test_every_loader_reads_a_whole_file(name: str, tmp_path: Path):
    """A loader that refuses everything would keep its promise."""
    if name in NEVER:
        pytest.skip(NEVER[name])
    answers = []
    for number, content in enumerate(LOADERS[name].seeds()):
        (folder := tmp_path / str(number)).mkdir()
        answers.append(judge(LOADERS[name], content, folder))
    assert None in answers or any(
        "map of numbers" in str(answer) or "expected" in str(answer) or "lies" in str(answer) for answer in answers
    ), answers


NEVER = {
    "inception": "its whole file has 100 MB",
    "pth": "a file is either a generator or a discriminator, and the other one refuses it",
    "manifest": "the files that it names do not lie there",
    "source": "no such folder lies there",
    "web address": "nobody is reached",
}


def _liar(error: BaseException) -> Loader:
    def read(*_: object) -> None:
        raise error

    return Loader("bytes", lambda: [b""], read)


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), RecursionError("x"), MemoryError()])
def test_whatever_else_a_loader_raises_is_found(error: Exception, tmp_path: Path):
    with pytest.raises(type(error)):
        judge(_liar(error), b"", tmp_path)


@pytest.mark.parametrize(
    "text", ["a\nb", "a\rb", "a\x0bb", "a\u2028b", "a\0b", "\udcff", "x" * 1000, "Traceback (most"]
)
def test_a_sentence_of_another_form_is_found(text: str, tmp_path: Path):
    class Careless(Exception):
        pass

    loader = _liar(Careless(text))._replace(refusals=(Careless,))
    with pytest.raises(BrokenPromiseError):
        judge(loader, b"", tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one line", "one line"),
        ("a\nb\r\nc", "a b  c"),
        ("a\0b\x1b[31m", "a\\x00b\\x1b[31m"),
        ("\udcff", "\\udcff"),
        ("é 日本", "é 日本"),
        ("x" * LONGEST_LINE, "x" * LONGEST_LINE),
    ],
)
def test_a_message_is_one_line_that_a_terminal_shows(text: str, shown: str):
    assert str(UserError(text)) == shown


def test_a_long_message_keeps_its_beginning_and_its_end():
    name = "x\0" * 5000
    message = str(UserError(f"Folder {name} is wrong; give another."))
    assert message.startswith("Folder x\\x00x")
    assert message.endswith("is wrong; give another.")
    assert len(message) <= LONGEST_LINE


def test_aliases_that_unfold_to_little_are_welcome():
    assert read_yaml("a: &norm {kind: batch}\nb: *norm", where="It") == {"a": {"kind": "batch"}, "b": {"kind": "batch"}}
