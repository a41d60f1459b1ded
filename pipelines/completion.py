"""The command `completion`: a script by which a shell completes commands, options and their values."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import Any

from components.catlib.recipes import recipe_names

_SCRIPT = """\
# Completes `python -m pipelines` in {shell}: source <(python -m pipelines completion {shell})
{zsh}_cat_pipelines_words() {{
    case "$1" in
{cases}
    esac
}}
_cat_pipelines() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" words
    COMPREPLY=()
    # Any other use of Python is completed as without this script: with the names of files.
    [[ "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" == "-m pipelines" ]] || return
    if (( COMP_CWORD == 3 )); then
        words="$(_cat_pipelines_words '')"
    else
        words="$(_cat_pipelines_words "${{COMP_WORDS[3]}} $previous")"
        [[ -n "$words" || "$current" != -* ]] || words="$(_cat_pipelines_words "${{COMP_WORDS[3]}}")"
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _cat_pipelines python python3
"""


def add_commands(commands: Any) -> None:
    """Adds this command to those of `python -m pipelines`."""
    completion = commands.add_parser(
        "completion",
        help="Print a script by which bash or zsh completes these commands.",
        description="Print a script by which a shell completes commands, options and values of `python -m pipelines`. "
        "Use it with: source <(python -m pipelines completion bash), which may stand in ~/.bashrc.",
    )
    completion.add_argument("shell", choices=("bash", "zsh"), help="the shell")

    def command(options: argparse.Namespace) -> tuple[str, dict[str, object]]:
        text = script(options.shell, commands.choices)
        return text, {"shell": options.shell, "script": text}

    completion.set_defaults(command=command)


def script(shell: str, commands: dict[str, argparse.ArgumentParser]) -> str:
    """Returns the script for a shell.

    Args:
        shell: bash or zsh.
        commands: The parser of every command, by its name.
    """
    words = {"": sorted(commands)}
    for name, parser in commands.items():
        words[name] = sorted(flag for action in parser._actions for flag in action.option_strings)
        words |= {f"{name} {flag}": values for flag, values in _values(parser)}
    cases = "\n".join(
        f"        {shlex.quote(key)}) echo {shlex.quote(' '.join(each))} ;;" for key, each in words.items()
    )
    zsh = "autoload -Uz bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return _SCRIPT.format(shell=shell, cases=cases, zsh=zsh).rstrip("\n")


def _values(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[str]]]:
    """Yields what one of a few words follows, an option or the command itself, with these words."""
    for action in parser._actions:
        for flag in action.option_strings:
            if flag == "--recipe":
                yield flag, recipe_names()
            elif action.choices:
                yield flag, [str(choice) for choice in action.choices]
        if action.choices and not action.option_strings:
            yield parser.prog.rpartition(" ")[2], [str(choice) for choice in action.choices]
