"""Mutation testing: changes one thing in the code that nobody may break, and sees whether a test notices.

    python -m tests.faults.mutants                        all targets
    python -m tests.faults.mutants --target leases        one of them
    python -m tests.faults.mutants --show leases:41       what a mutant changes

Every mutant is tried in a process of its own, forked from one that has loaded the heavy libraries; there the module is
loaded with the change, and the tests of the target run against folders and stores in memory until the first fails. A
mutant that no test notices survives. Texts of messages and of the log, docstrings and descriptions are left alone, and
so are the mutants in `EQUIVALENT`, which change nothing that matters.
"""

import argparse
import ast
import copy
import itertools
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
SECONDS = 120
"""A mutant that makes the tests take longer counts as noticed: it hangs."""
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
ARTIFACTS = ("tests/components/catlib/test_artifacts.py", "tests/components/catlib/test_replacing_folders.py")
TARGETS = {
    "leases": Target(
        "components/catlib/storage/leases.py",
        (),
        (f"{STORES}/test_leases.py", "-k", "not s3"),
        ("tests/faults/mutation_histories.py",),
    ),
    "addresses": Target("components/catlib/storage/addresses.py", (), (f"{STORES}/test_addresses.py",)),
    "places": Target(
        "components/catlib/training/origin.py", (), ("tests/components/catlib/training/test_origin.py",)
    ),
    "artifacts": Target(
        "components/catlib/artifacts.py",
        ("replacing", "replacing_folder", "complete_replacing", "_put_in_place", "_clear_away", "_aside", "writing",
         "remove_abandoned", "check_replaceable", "fsync"),
        (*ARTIFACTS, "-k", "not at_any"),
        (*ARTIFACTS, "-k", "at_any"),
    ),
}  # fmt: skip

EQUIVALENT: dict[str, str] = {}
"""Mutants that change nothing that matters, as `target: change`, each with the reason."""

_SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.BitOr: ast.BitAnd,
}  # fmt: skip

_SILENT = ("logger", "logging")


class Mutant(NamedTuple):
    """A change: the line, what it is, and the changed module."""

    line: int
    change: str
    tree: ast.Module


def mutants(target: Target) -> list[Mutant]:
    """Returns all changes of a target, in the order of the file."""
    source = ast.parse((ROOT / target.file).read_text(encoding="utf-8"))
    found = []
    for place, node in enumerate(ast.walk(source)):
        for number in range(4):
            tree = copy.deepcopy(source)
            parents = _parents(tree)
            twin = next(each for index, each in enumerate(ast.walk(tree)) if index == place)
            if not _wanted(twin, parents, target.names):
                break
            change = _change(twin, parents, number)
            if change is None:
                break
            found.append(Mutant(getattr(node, "lineno", 0), change, ast.fix_missing_locations(tree)))
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
        if isinstance(each, ast.Raise | ast.JoinedStr) and not isinstance(node, ast.Raise):
            return False
        if isinstance(each, ast.Call) and ast.unparse(each.func).split(".")[0] in (*_SILENT, "Field", "UserError"):
            return False
        if isinstance(each, ast.arg | ast.AnnAssign) and child is getattr(each, "annotation", None):
            return False
        if isinstance(each, ast.FunctionDef) and (child is each.returns or child in each.decorator_list):
            return False
    return True


def _change(node: ast.AST, parents: dict[ast.AST, ast.AST], number: int) -> str | None:
    """Makes the n-th change to a node, in place, and describes it; None if there are no more."""
    before = ast.unparse(node).splitlines()[0]
    if isinstance(node, ast.Compare) and number == 0 and type(node.ops[0]) in _SWAPS:
        node.ops[0] = _SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.BoolOp | ast.BinOp) and number == 0 and type(node.op) in _SWAPS:
        node.op = _SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and number == 0 and isinstance(node.op, ast.Not):
        _replace(node, node.operand, parents)
        return f"{before}  →  {ast.unparse(node.operand)}"
    elif isinstance(node, ast.Constant) and number == 0 and not isinstance(parents[node], ast.Expr):
        if node.value is None or node.value is Ellipsis:
            return None
        node.value = _other(node.value)
    elif isinstance(node, ast.If | ast.While | ast.IfExp) and number == 0 and not isinstance(node.test, ast.Constant):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Return) and number == 0 and node.value is not None and before != "return None":
        node.value = ast.Constant(None)
    elif isinstance(node, ast.Expr | ast.Raise | ast.Continue | ast.Break | ast.AugAssign) and number == 0:
        if isinstance(node, ast.Expr) and _is_text_or_silent(node):
            return None
        _replace(node, ast.Pass(), parents)
        return f"{before}  →  nothing"
    elif isinstance(node, ast.Assign) and number == 0 and isinstance(node.targets[0], ast.Attribute):
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


def survives(target: Target, mutant: Mutant | None) -> bool:
    """Runs the tests of a target on a changed module; returns whether all pass."""
    return all(_pass(target, mutant, tests) for tests in (target.tests, target.further) if tests)


def _pass(target: Target, mutant: Mutant | None, tests: tuple[str, ...]) -> bool:
    process = multiprocessing.get_context("fork").Process(target=_try, args=(target, mutant, tests))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode == 0


def _try(target: Target, mutant: Mutant | None, tests: tuple[str, ...]) -> None:
    import importlib.machinery

    import pytest

    for limit, most in ((resource.RLIMIT_AS, MOST_MEMORY), (resource.RLIMIT_CPU, SECONDS)):
        resource.setrlimit(limit, (most, most))  # a change may make a loop endless
    path = str(ROOT / target.file)
    if mutant is not None:
        compiled = compile(mutant.tree, path, "exec")
        original = importlib.machinery.SourceFileLoader.get_code

        def get_code(self: Any, name: str) -> Any:
            return compiled if self.path == path else original(self, name)

        importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    os._exit(int(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests])))


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
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    assert not any(name.startswith("components.") for name in sys.modules), "the changed modules must be loaded anew"
    part = slice(options.first, options.first + options.count)
    ends = [_report(name, part) for name in options.target or TARGETS if (ROOT / TARGETS[name].file).is_file()]
    killed, all_of_them = (sum(numbers) for numbers in zip(*ends, strict=True))
    print(f"together: {killed} of {all_of_them} mutants noticed, {killed / max(all_of_them, 1):.1%}")
    return 0 if killed >= WANTED * all_of_them else 1


def _report(name: str, part: slice) -> tuple[int, int]:
    target, began, alive = TARGETS[name], time.monotonic(), []
    assert survives(target, None), f"the tests of {name} fail without any change"
    numbered = list(enumerate(mutants(target)))[part]
    tried = [(number, mutant) for number, mutant in numbered if f"{name}: {mutant.change}" not in EQUIVALENT]
    for number, mutant in tried:
        if survives(target, mutant):
            alive.append(mutant)
            print(f"survives: {name}:{number} {target.file}:{mutant.line}: {mutant.change}", flush=True)
    if not tried:
        return 0, 0
    noticed, seconds = len(tried) - len(alive), time.monotonic() - began
    print(f"{name}: {noticed} of {len(tried)} mutants noticed, {noticed / len(tried):.1%}, {seconds:.0f} s", flush=True)
    return noticed, len(tried)


if __name__ == "__main__":
    sys.exit(main())
