"""Mutation testing: changes one thing in the code that nobody may break, and sees whether a test notices.

    python -m tests.faults.mutants                        all targets
    python -m tests.faults.mutants --target leases        one of them
    python -m tests.faults.mutants --show leases:41       what a mutant changes

Every mutant is tried in a process of its own, where the tests of the target run against folders and stores in memory
until the first fails. It is forked from a process that has loaded and run those tests already, and a change in the body
of a function is put into that function. For any other change, it is forked from a process without our modules, and
loads them with the change. A mutant that no test notices survives. Texts of messages and of the log, docstrings and
descriptions are left alone, and so are the mutants in `EQUIVALENT`, which change nothing that matters.
"""

import argparse
import ast
import contextlib
import faulthandler
import functools
import gc
import itertools
import multiprocessing
import os
import resource
import sys
import time
import types
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SLOWER = 3
"""A mutant counts as noticed if one test takes this many times as long as the slowest one does without it: it hangs."""
LEAST_SECONDS = 10.0
"""Added to that time, for a machine that is busy."""
MOST_SECONDS = 600
"""Processor time for all tests of a mutant."""
MOST_MEMORY = 6 * 2**30
"""Address space of a process that tries a mutant; loaded libraries take the half of it."""
WANTED = 0.9


class Target(NamedTuple):
    """Code that is changed.

    Attributes:
        file: The module.
        names: Functions and classes in it; none: all of it.
        tests: Arguments of pytest.
        further: Arguments for slower tests, which see only what the others let pass; none: there are no others.
    """

    file: str
    names: tuple[str, ...]
    tests: tuple[str, ...]
    further: tuple[str, ...] = ()


STORES = "tests/components/catlib/storage"
ARTIFACTS = tuple(
    f"tests/components/catlib/test_{name}.py" for name in ("atomic_writing", "artifacts", "replacing_folders")
)
TARGETS = {
    "leases": Target(
        "components/catlib/storage/leases.py",
        (),
        (f"{STORES}/test_lease_details.py", f"{STORES}/test_leases.py", "-k", "not s3"),
        ("tests/faults/mutation_histories.py",),
    ),
    "addresses": Target("components/catlib/storage/addresses.py", (), (f"{STORES}/test_addresses.py",)),
    "places": Target(
        "components/catlib/training/origin.py", (), ("tests/components/catlib/training/test_origin.py",)
    ),
    "artifacts": Target(
        "components/catlib/artifacts.py",
        ("replacing", "replacing_folder", "complete_replacing", "_put_in_place", "_clear_away", "_aside", "_renamed",
         "_exchange", "_lock", "writing", "remove_abandoned", "check_replaceable", "fsync"),
        (*ARTIFACTS, "-k", "not at_any"),
        (*ARTIFACTS, "-k", "at_any"),
    ),
}  # fmt: skip

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "addresses",
        'host, slash, path = re.split(r"[?#;]", rest, maxsplit=1)[0].partition("/")',
        "1  →  2",
    ): "only the part before the first separator is used",
    ("leases", "self._thread = None", "self._thread = None  →  nothing"): "a thread that has ended may be joined again",
    ("leases", "self._lock.close()", "self._lock.close()  →  nothing"): "Python closes what nothing refers to any more",
    ("leases", "self._lock = None", "self._lock = None  →  nothing"): "a closed file may be closed again",
    ("leases", 'return (record.model_dump_json(indent=1) + "\\n").encode()', "1  →  2"): "indentation for people",
    ("leases", 'return Owner.model_validate_json(content or b"")', "b''  →  b'x'"): "neither is JSON",
    (
        "artifacts",
        "if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:",
        "time.time() - partial.stat().st_mtime > ABANDONED_SECONDS  →  "
        "time.time() - partial.stat().st_mtime >= ABANDONED_SECONDS",
    ): "a moment of a day makes no difference",
    ("artifacts", "partial.unlink(missing_ok=True)", "True  →  False"): "errors are suppressed around it",
    (
        "artifacts",
        'remedy = "choose another path or remove it"',
        "'choose another path or remove it'  →  'choose another path or remove itx'",
    ): "a text for people",
    (
        "artifacts",
        'config=config.model_dump(mode="json"),',
        "'json'  →  'jsonx'",
    ): "the whole manifest becomes JSON later",
    ("artifacts", 'writer.write_json(MANIFEST, manifest.model_dump(mode="json"))', "'json'  →  'jsonx'"): (
        "all values in it are JSON values already"
    ),
    ("artifacts", "summary=json.loads(json.dumps(writer.summary, allow_nan=False)),", "False  →  True"): (
        "`write_json` refuses it a moment later, with the same error"
    ),
}
"""Mutants that change nothing that matters: target, line of the source, change; each with the reason."""

_SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.BitOr: ast.BitAnd,
}  # fmt: skip

_CHANGED = (
    ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Constant, ast.If, ast.While, ast.IfExp, ast.Return, ast.Expr,
    ast.Raise, ast.Continue, ast.Break, ast.AugAssign, ast.Assign,
)  # fmt: skip

_SILENT = ("logger", "logging")


class Mutant(NamedTuple):
    """A change.

    Attributes:
        line: Where it is.
        change: What it is.
        tree: The changed module.
        in_function: Whether it is in the body of a function, and so takes effect when that function is called.
    """

    line: int
    change: str
    tree: ast.Module
    in_function: bool


def mutants(target: Target) -> list[Mutant]:
    """Returns all changes of a target, in the order of the file."""
    source = (ROOT / target.file).read_text(encoding="utf-8")
    whole = ast.parse(source)
    parents_in_whole, found = _parents(whole), []
    for place, node in enumerate(ast.walk(whole)):
        if not isinstance(node, _CHANGED) or not _wanted(node, parents_in_whole, target.names):
            continue
        tree = ast.parse(source)
        parents = _parents(tree)
        twin = next(itertools.islice(ast.walk(tree), place, None))
        change = _change(twin, parents)
        if change is not None:
            inside = _in_function(node, parents_in_whole)
            found.append(Mutant(getattr(node, "lineno", 0), change, ast.fix_missing_locations(tree), inside))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.change))


def _parents(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    return {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}


def _above(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> Iterator[ast.AST]:
    while node in parents:
        node = parents[node]
        yield node


def _wanted(node: ast.AST, parents: dict[ast.AST, ast.AST], names: tuple[str, ...]) -> bool:
    """Leaves out texts for people, annotations, and what lies outside the target."""
    if not hasattr(node, "lineno"):
        return False
    above = [node, *_above(node, parents)]
    if names and not any(getattr(each, "name", None) in names for each in above):
        return False
    for child, each in itertools.pairwise(above):
        if isinstance(each, ast.Assert) and child is each.msg:
            return False
        if isinstance(each, ast.Raise | ast.JoinedStr) and not isinstance(node, ast.Raise):
            return False
        if isinstance(each, ast.Call) and ast.unparse(each.func).split(".")[0] in (*_SILENT, "Field", "UserError"):
            return False
        if isinstance(each, ast.arg | ast.AnnAssign) and child is getattr(each, "annotation", None):
            return False
        if isinstance(each, ast.FunctionDef) and (child is each.returns or child in each.decorator_list):
            return False
    return True


def _in_function(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    above = itertools.pairwise([node, *_above(node, parents)])
    return any(isinstance(each, ast.FunctionDef) and child in each.body for child, each in above)


def _change(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> str | None:
    """Changes a node in place, and describes that; None if nothing in it can be changed."""
    before = ast.unparse(node).splitlines()[0]
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPS:
        node.ops[0] = _SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.BoolOp | ast.BinOp) and type(node.op) in _SWAPS:
        node.op = _SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _replace(node, node.operand, parents)
        return f"{before}  →  {ast.unparse(node.operand)}"
    elif isinstance(node, ast.Constant) and not isinstance(parents[node], ast.Expr):
        if node.value is None or node.value is Ellipsis:
            return None
        node.value = _other(node.value)
    elif isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Constant):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Return) and node.value is not None and before not in ("return None", "return False"):
        node.value = ast.Constant(None)
    elif isinstance(node, ast.Expr | ast.Raise | ast.Continue | ast.Break | ast.AugAssign):
        if isinstance(node, ast.Expr) and _is_text_or_silent(node):
            return None
        _replace(node, ast.Pass(), parents)
        return f"{before}  →  nothing"
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
        _replace(node, ast.Pass(), parents)
        return f"{before}  →  nothing"
    else:
        return None
    return f"{before}  →  {ast.unparse(node).splitlines()[0]}"


def _is_text_or_silent(node: ast.Expr) -> bool:
    if isinstance(node.value, ast.Constant | ast.Yield):
        return True
    return isinstance(node.value, ast.Call) and ast.unparse(node.value.func).split(".")[0] in _SILENT


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return value + ("x" if isinstance(value, str) else b"x")


def _replace(old: ast.AST, new: ast.AST, parents: dict[ast.AST, ast.AST]) -> None:
    parent = parents[old]
    for field, value in ast.iter_fields(parent):
        if value is old:
            setattr(parent, field, new)
        elif isinstance(value, list) and old in value:
            value[value.index(old)] = new


# ------------------------------------------------------------------------------------------------------------- trying


class Watch:
    """A plugin of pytest that ends the process when a test takes too long.

    Attributes:
        slowest: Seconds that the slowest test has taken.
    """

    def __init__(self, limit: float | None = None) -> None:
        """Takes the most seconds that a test may take; None: any time."""
        self.slowest = 0.0
        self._limit = limit

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[Any]:
        began = time.monotonic()
        if self._limit is not None:
            faulthandler.dump_traceback_later(self._limit, exit=True, file=2)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.slowest = max(self.slowest, time.monotonic() - began)


class Trial:
    """The tests of a target, run in processes that are forked from this one."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._path = str(ROOT / target.file)
        self._slowest: dict[tuple[str, ...], float] = {}
        self._functions: list[types.FunctionType] = []
        self._remembering: list[functools._lru_cache_wrapper[Any]] = []

    def load(self) -> None:
        """Runs the tests without any change, here, so that what they load stays loaded; they must pass."""
        for tests in self._groups():
            watch = Watch()
            with _quiet():
                code = _run(tests, watch)
            assert code == 0, f"the tests of {self._target.file} fail without any change: {' '.join(tests)}"
            self._slowest[tests] = watch.slowest
        loaded = gc.get_objects()
        functions = [each for each in loaded if type(each) is types.FunctionType]
        self._functions = [function for function in functions if function.__code__.co_filename == self._path]
        self._remembering = [each for each in loaded if type(each) is functools._lru_cache_wrapper]
        gc.collect()
        gc.freeze()  # a collection in a forked process would copy all memory

    def survives(self, mutant: Mutant) -> bool:
        """Returns whether all tests pass on a changed module."""
        return all(self._pass(mutant, tests) for tests in self._groups())

    def _groups(self) -> list[tuple[str, ...]]:
        return [tests for tests in (self._target.tests, self._target.further) if tests]

    def _pass(self, mutant: Mutant, tests: tuple[str, ...]) -> bool:
        process = multiprocessing.get_context("fork").Process(target=self._try, args=(mutant, tests))
        process.start()
        process.join()
        return process.exitcode == 0

    def _try(self, mutant: Mutant, tests: tuple[str, ...]) -> None:
        for limit, most in ((resource.RLIMIT_AS, MOST_MEMORY), (resource.RLIMIT_CPU, MOST_SECONDS)):
            resource.setrlimit(limit, (most, most))  # a change may make a loop endless
        changed = compile(mutant.tree, self._path, "exec")
        if mutant.in_function:
            self._change_functions(changed)
        else:
            _change_module(changed)
        with _quiet():
            os._exit(_run(tests, Watch(SLOWER * self._slowest.get(tests, 20.0) + LEAST_SECONDS)))

    def _change_functions(self, changed: types.CodeType) -> None:
        """Gives every loaded function of the module the code of its twin in the changed module."""
        codes = {_place(code): code for code in _codes_in(changed)}
        for function in self._functions:
            function.__code__ = codes.get(_place(function.__code__), function.__code__)
        for remembering in self._remembering:
            remembering.cache_clear()


def _place(code: types.CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes_in(constant)


def _change_module(changed: types.CodeType) -> None:
    """Lets the changed module be loaded when it is imported for the first time."""
    import importlib.machinery

    assert not any(name.startswith("components.") for name in sys.modules), "the changed module must be loaded anew"
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: Any, name: str) -> Any:
        return changed if self.path == changed.co_filename else original(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def _run(tests: tuple[str, ...], watch: Watch) -> int:
    return int(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "no:anyio", *tests], [watch]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Sends to nowhere what is printed."""
    sys.stdout.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with Path(os.devnull).open("w") as nothing:
        for number in (1, 2):
            os.dup2(nothing.fileno(), number)
        try:
            yield
        finally:
            for number, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--show")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant of each target")
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    if options.show:
        name, _, number = options.show.partition(":")
        print(mutants(TARGETS[name])[int(number)][:2])
        return 0
    import hypothesis  # noqa: F401  what is loaded here is loaded once
    import minio  # noqa: F401
    import pydantic  # noqa: F401
    import torch

    torch.set_num_threads(1)
    part = slice(options.first, options.first + options.count)
    ends = [_in_process(name, part) for name in options.target or TARGETS]
    killed, all_of_them = (sum(numbers) for numbers in zip(*ends, strict=True))
    print(f"together: {killed} of {all_of_them} mutants noticed, {killed / max(all_of_them, 1):.1%}")
    return 0 if all(killed >= WANTED * tried for killed, tried in ends) else 1


def _in_process(name: str, part: slice) -> tuple[int, int]:
    """Tries one target in a process of its own, since the next one begins without our modules again."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(_report, name, part).result()


def _report(name: str, part: slice) -> tuple[int, int]:
    target, began, alive = TARGETS[name], time.monotonic(), 0
    numbered = list(enumerate(mutants(target)))[part]
    lines = [line.strip() for line in (ROOT / target.file).read_text(encoding="utf-8").splitlines()]
    tried = [each for each in numbered if (name, lines[each[1].line - 1], each[1].change) not in EQUIVALENT]
    tried.sort(key=lambda each: each[1].in_function)
    trial, loaded = Trial(target), False
    for number, mutant in tried:
        if mutant.in_function and not loaded:
            trial.load()
            loaded = True
        if trial.survives(mutant):
            alive += 1
            print(f"survives: {name}:{number} {target.file}:{mutant.line}: {mutant.change}", flush=True)
    if not tried:
        return 0, 0
    noticed, seconds = len(tried) - alive, time.monotonic() - began
    spent = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(
        f"{name}: {noticed} of {len(tried)} mutants noticed, {noticed / len(tried):.1%}, "
        f"{seconds:.0f} s ({spent:.0f} s of processor time)",
        flush=True,
    )
    return noticed, len(tried)


if __name__ == "__main__":
    sys.exit(main())
