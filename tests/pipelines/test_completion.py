"""Shells complete the commands; `--version` names the code."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from components import __version__
from components.__main__ import main as components_main
from components.catlib.recipes import recipe_names
from components.stages import TRAININGS
from pipelines.__main__ import _parser, main


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from pipelines.completion import script

    (commands,) = [action for action in _parser()._actions if action.choices]
    folder = tmp_path_factory.mktemp("scripts")
    for shell in ("bash", "zsh"):
        (folder / shell).write_text(script(shell, commands.choices))  # pyright: ignore[reportArgumentType]
    return {shell: folder / shell for shell in ("bash", "zsh")}


def completed(script: Path, line: str) -> set[str]:
    """What bash offers at the end of a line."""
    words = line.split(" ")
    program = (
        f'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD={len(words) - 1}; _cat_pipelines; echo "${{COMPREPLY[@]}}"'
    )
    command = ["bash", "--norc", "-c", program, "bash", str(script), *words]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("line", "some", "exact"),
    [
        ("python -m pipelines ", {"run", "submit", "cancel", "retry", "completion", "status"}, False),
        ("python -m pipelines sub", {"submit"}, True),
        ("python3 -m pipelines submit --res", {"--resubmit"}, True),
        ("python -m pipelines run --recipe ", set(recipe_names()), True),
        ("python -m pipelines run --recipe smo", {"smoke"}, True),
        ("python -m pipelines run --pipeline s", {"sweep"}, True),
        ("python -m pipelines trainjob ", set(TRAININGS), True),
        ("python -m pipelines completion ", {"bash", "zsh"}, True),
        ("python -m pipelines run --recipe ./my", set(), True),
        ("python -m pipelines run --output ", set(), True),
        ("python -m pytest --", set(), True),
        ("python -m pipelines nosuch --", set(), True),
    ],
)
def test_bash_completes(line: str, some: set[str], exact: bool, scripts: dict[str, Path]) -> None:
    offered = completed(scripts["bash"], line)
    assert offered == some if exact else some < offered


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_read_their_scripts(shell: str, scripts: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == scripts[shell].read_text() + "\n"
    assert ("bashcompinit" in scripts[shell].read_text()) is (shell == "zsh")
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    subprocess.run([shell, "-n", str(scripts[shell])], check=True)


@pytest.mark.parametrize("program", [main, components_main])
def test_the_version_is_an_answer(program: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        program(["--version"])  # pyright: ignore[reportCallIssue]
    assert end.value.code == 0
    words = rf"cat-pipeline {re.escape(__version__)}(, image cat-pipeline:{re.escape(__version__)}-[0-9a-f]{{12}})?\n"
    assert re.fullmatch(words, capsys.readouterr().out)
