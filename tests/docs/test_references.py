"""References in code and documents lead somewhere."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("components", "pipelines") for path in (ROOT / folder).rglob("*.py"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "k8s" / "README.md"]

REFERENCE = re.compile(r"method\s+sections?\s+(\d(?:\.\d)?)(?:\s+(?:and|to)\s+(\d(?:\.\d)?))?")
HEADING = re.compile(r"^#{2,3} (\d(?:\.\d)?)[. ]", re.MULTILINE)
RENDERED_NOWHERE = re.compile(r"(?<![\w\])])\[[\w.]+\]\[[\w.]*\]")  # `table[name][0]` is code
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def references(text: str) -> set[str]:
    """Returns the numbers of the sections that a text refers to; a reference may run over a line's end."""
    return {number for found in REFERENCE.findall(text) for number in found if number}


def test_every_section_of_the_method_that_code_refers_to_exists() -> None:
    headings = set(HEADING.findall((ROOT / "docs" / "method.md").read_text(encoding="utf-8")))
    found = {path: references(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert sum(map(len, found.values())) > 20, "the references are written in another way now: adapt this test"
    unknown = {str(path.relative_to(ROOT)): sorted(numbers - headings) for path, numbers in found.items()}
    assert not {path: numbers for path, numbers in unknown.items() if numbers}


def test_a_reference_over_a_line_end_is_found() -> None:
    assert (
        references("of the method\n    sections 1.1 and 7.") == {"1.1", "7"} == references("method sections 1.1 and 7")
    )


def prose(source: str) -> Iterator[str]:
    """Yields the docstrings and comments of Python source: texts that stand alone as statements, and `# ...`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def rendered_nowhere(source: str) -> list[str]:
    """Returns the links such as `[name][]` in the docstrings and comments of Python source."""
    return [link for text in prose(source) for link in RENDERED_NOWHERE.findall(text)]


def test_docstrings_hold_no_links_that_nothing_renders() -> None:
    found = {path: rendered_nowhere(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert not {str(path.relative_to(ROOT)): links for path, links in found.items() if links}


def test_links_are_sought_in_docstrings_and_comments_only() -> None:
    source = '''
"""See [of.module][]."""
NAME = 1
"""See [of_name][]."""
async def f(table, role, row):
    """See [text][of.function]."""
    # see [of_comment][]
    return table[role][row], [role][0], "[of_text][]"
'''
    links = ["[of.module][]", "[of_name][]", "[text][of.function]", "[of_comment][]"]
    assert sorted(rendered_nowhere(source)) == sorted(links)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_repository_lead_to_files(document: Path) -> None:
    links = LINK.findall(document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing
