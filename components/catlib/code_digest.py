"""The code of each stage as a digest, which is part of the stage's cache keys: results of other code are not reused.

A stage's code is its *closure*: the module `components.STAGE.stage`, every module of the project that it imports, their
packages, the modules that those import, and so on; and the data files that this code names, such as templates. It is
found by reading the files, never by importing them, so the digest is the same on every machine and version of Python.
What a stage does not import (the pages in Kubeflow's interface, its component, other stages) leaves its digest alone.

Libraries are no part of it. `library_digest` tells their installed versions apart; a container image stands for them.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder of the project's packages: a checkout, `site-packages`, or `/opt/cat` in the image."""

PROJECT = ("components", "pipelines")
"""The project's packages."""

STAGES: dict[str, str] = {
    "dataset": "components.dataset.stage",
    "real_stats": "components.real_stats.stage",
    "teacher": "components.teacher.stage",
    "prune": "components.prune.stage",
    "distill": "components.distill.stage",
    "evaluate": "components.evaluate.stage",
    "export": "components.export.stage",
    "report": "components.report.stage",
    "publish": "components.publish.stage",
    "fetch": "components.fetch.stage",
    "fetch_teacher": "components.fetch.teacher",
    "sweep": "components.sweep.stage",
    "check": "components.check.stage",
}
"""Where the code of each stage begins."""

DATA_SUFFIXES = frozenset({".csv", ".css", ".html", ".js", ".json", ".yaml"})
"""Files of a package that are no code but decide what the code does; `pyproject.toml` installs them."""

_WITHOUT_EFFECT = frozenset(
    {
        "certifi",
        "filelock",
        "minio",
        "mlflow",
        "platformdirs",
        "pydantic",
        "pydantic_core",
        "tenacity",
        "tqdm",
        "urllib3",
        "yaml",
    }
)
"""Libraries that move or check data but compute nothing: another version of them gives the same result."""

_DISTRIBUTIONS = {
    "PIL": ("pillow",),
    "skimage": ("scikit-image",),
    "onnx": ("onnx", "onnxscript"),
    "ai_edge_litert": ("ai-edge-litert",),
}
"""Names under which libraries are installed, where they differ from those under which they are imported.

torch writes ONNX files with onnxscript, which nothing here imports."""


@functools.cache
def code_digest(stage: str, root: Path = ROOT) -> str:
    """Returns a digest over the code of a stage (12 hex digits).

    Args:
        stage: A name in `STAGES`; "-" may stand for "_".
        root: Folder of the project's packages.
    """
    return digest_of_files(closure(STAGES[stage.replace("-", "_")], root).files, root)


def code_digests() -> dict[str, str]:
    """Returns the digests of all stages."""
    return {stage: code_digest(stage) for stage in STAGES}


def library_digest(stage: str) -> str:
    """Returns a digest over the installed versions of the libraries that a stage computes with (12 hex digits).

    These are the libraries that the stage's code imports, but not those that they need themselves, nor Python, nor the
    device: on another one, results differ by rounding alone.

    Args:
        stage: As for `code_digest`.
    """
    return _digest(f"{name} {version}" for name, version in library_versions(stage).items())


def code_and_library_digest(stage: str) -> str:
    """Returns the digests of a stage's code and of its libraries, joined by "+", for runs without an image."""
    return f"{code_digest(stage)}+{library_digest(stage)}"


def library_versions(stage: str) -> dict[str, str]:
    """Returns the installed version of every library that a stage computes with; "" if it is not installed."""
    imported = closure(STAGES[stage.replace("-", "_")], ROOT).libraries - _WITHOUT_EFFECT
    names = sorted(name for library in imported for name in _DISTRIBUTIONS.get(library, (library,)))
    return {name: _version(name) for name in names}


def digest_of_files(files: Iterable[Path], root: Path) -> str:
    """Returns a digest over names and content of files, in the order of their names (12 hex digits).

    Args:
        files: The files.
        root: Folder that their names count from.
    """
    named = sorted((path.relative_to(root).as_posix(), path) for path in files)
    return _digest(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in named)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()[:12]


@functools.cache
def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


# ------------------------------------------------------------------------------------------------------------- closure


@dataclass(frozen=True)
class Closure:
    """What a module needs.

    Attributes:
        modules: Modules and packages of the project.
        files: Their files, and the data files that they name.
        libraries: Top-level names of all other modules that they import, but for Python's own.
    """

    modules: frozenset[str]
    files: frozenset[Path]
    libraries: frozenset[str]


@functools.cache
def closure(module: str, root: Path = ROOT) -> Closure:
    """Finds what a module needs.

    Args:
        module: Full name of a module of the project.
        root: Folder of the project's packages.
    """
    modules: dict[str, Path] = {}
    libraries: set[str] = set()
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        package, _, _ = name.rpartition(".")
        if package:
            waiting.append(package)
        if name.partition(".")[0] not in PROJECT:
            libraries.add(name.partition(".")[0])
        elif file := _file(name, root):  # else it is something in the package's own file
            modules[name] = file
            waiting += _imports(name, file)
    assert module in modules, f"there is no module {module} in {root}"
    code = frozenset(modules.values())
    return Closure(frozenset(modules), code | _data_files(code), frozenset(libraries - sys.stdlib_module_names))


@functools.cache
def _file(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@functools.cache
def _imports(module: str, file: Path) -> frozenset[str]:
    """Returns the names of all modules that a module imports, also late, or finds by a name in quotes.

    Imports for the type checker alone are left out. Names that are imported from a package may be modules of it.
    """
    source = file.read_bytes()
    tree = ast.parse(source)
    found: set[str] = set()
    for statement in _statements(tree.body):
        if isinstance(statement, ast.Import):
            found.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            package = _package(module, file, statement)
            found.update([package, *(f"{package}.{alias.name}" for alias in statement.names)])
    if any(call in source for call in (b"import_module", b"find_spec", b"__import__")):
        found.update(_named_in_calls(tree))
    return frozenset(found)


def _package(module: str, file: Path, statement: ast.ImportFrom) -> str:
    """Returns the full name of what a statement imports from."""
    if not statement.level:
        return statement.module or ""
    parts = module.split(".")
    up = statement.level - (file.name == "__init__.py")
    base = ".".join(parts[: len(parts) - up])
    return f"{base}.{statement.module}" if statement.module else base


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yields statements and those inside them, but not what `if TYPE_CHECKING:` guards."""
    for statement in body:
        yield statement
        guarded = isinstance(statement, ast.If) and _name(statement.test) == "TYPE_CHECKING"
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            if not (guarded and part == "body"):
                inside = getattr(statement, part, None)
                yield from _statements(inside) if isinstance(inside, list) else ()


def _named_in_calls(tree: ast.AST) -> Iterator[str]:
    """Yields the names of modules in calls such as `importlib.util.find_spec("torchmetrics")`."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and _name(call.func) in ("import_module", "find_spec", "__import__"):
            yield from (
                given.value
                for given in call.args[:1]
                if isinstance(given, ast.Constant) and isinstance(given.value, str)
            )


def _name(expression: ast.AST) -> str:
    """Returns the last part of a dotted name; "" for another expression."""
    return getattr(expression, "attr", getattr(expression, "id", ""))


def _data_files(code: frozenset[Path]) -> frozenset[Path]:
    """Returns the data files that code needs, out of those in its packages.

    A file counts if the code, or another data file that counts, names it. If nothing in its package names it, its name
    is put together at run time, and it counts for everything that uses the package.
    """
    waiting = {file for init in code if init.name == "__init__.py" for file in _data_of(init.parent)}
    texts = b"\0".join(file.read_bytes() for file in code) if waiting else b""
    found: set[Path] = set()
    while named := {file for file in waiting if file.name.encode() in texts or _is_named_nowhere(file)}:
        found |= named
        waiting -= named
        texts += b"\0".join(file.read_bytes() for file in named)
    return frozenset(found)


@functools.cache
def _data_of(package: Path) -> tuple[Path, ...]:
    """Returns the data files of a package, also in folders below it that are no packages."""
    found: list[Path] = []
    for path in sorted(package.iterdir()):
        if path.is_dir() and not (path / "__init__.py").exists() and path.name != "__pycache__":
            found += _data_of(path)
        elif path.suffix in DATA_SUFFIXES and path.is_file():
            found.append(path)
    return tuple(found)


@functools.cache
def _is_named_nowhere(file: Path) -> bool:
    package = next(folder for folder in file.parents if (folder / "__init__.py").is_file())
    others = [*package.glob("*.py"), *(other for other in _data_of(package) if other != file)]
    return not any(file.name.encode() in other.read_bytes() for other in others)
