"""The commands that run exported files: `translate` and `bench-model`.

They start without anything that stages need, so nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path

from components.catlib.errors import UserError
from components.catlib.exits import Parser, answer, exit_code, note, stated

COMMANDS = ("translate", "bench-model")

_TRANSLATE = "Translate pictures with an exported student."
_BENCH = "Time ONNX files on this machine."


def main(arguments: list[str]) -> int:
    """Runs one of these commands; returns its exit code: 0 done, 2 the user's mistake, 75 interrupted or away."""
    parser = Parser(prog="python -m components")
    add_commands(parser.add_subparsers(required=True, dest="stage"))
    return run(parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Runs the command that was parsed; returns its exit code."""
    unchanged = "pictures that were finished are whole; run the same command again to translate all"
    return exit_code(lambda: options.serve(options), interrupted=unchanged)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds these commands to a parser."""
    translate = commands.add_parser(
        "translate",
        help=_TRANSLATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{_TRANSLATE}\n\nEvery picture keeps its name, type, size, number of bits and alpha. Sides that "
        "are no multiple of the model's\nsize step are enlarged by reflection, and the result is cut back. Large "
        "pictures are cut into tiles that change\nnothing; a model with instance norms needs the whole picture in "
        "memory. What cannot be translated is listed at\nthe end, with exit code 2; all others are done.",
        epilog="examples:\n"
        "  python -m components translate --model out/export --input photo.jpg --output translated\n"
        "  python -m components translate --model s3://cat/export/model.onnx --input frames/ --output translated",
    )
    translate.add_argument(
        "--model",
        type=stated,
        required=True,
        metavar="URI",
        help="an .onnx file, an artifact of the export stage, or s3:// of either",
    )
    translate.add_argument(
        "--input",
        type=stated,
        required=True,
        metavar="PATH",
        help="a picture, or a folder of pictures (with those below it)",
    )
    translate.add_argument("--output", type=stated, required=True, metavar="DIR", help="folder to write to; may exist")
    translate.set_defaults(serve=_translate)

    bench = commands.add_parser(
        "bench-model",
        help=_BENCH,
        description=f"{_BENCH} Each file runs warm, on one image of noise, with a fixed number of threads; several "
        "files take turns, so that a machine that slows down affects all alike.",
    )
    bench.add_argument("files", type=_file, nargs="+", metavar="FILE", help="ONNX files of any origin")
    bench.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="height and width in pixels of the image (default: those that the file was made for, else 256x256)",
    )
    bench.set_defaults(serve=_bench)

    for command in (translate, bench):
        command.add_argument(
            "--threads", type=threads, metavar="N", help="CPU threads (default: one per core that is free to use)"
        )
        command.add_argument("--json", action="store_true", help="print the answer as one line of JSON")


def _translate(options: argparse.Namespace) -> None:
    from components.catlib.serving.translating import translate_files

    outcome = translate_files(
        options.model, Path(options.input), Path(options.output), threads=options.threads or _cores()
    )
    if count := len(outcome.enlarged):
        note(
            f"{count} of {len(outcome.translated)} translated pictures {'was' if count == 1 else 'were'} enlarged by "
            "reflection to the size step of the model, and cut back."
        )
    facts = {
        "output": options.output,
        "translated": outcome.translated,
        "enlarged": outcome.enlarged,
        "errors": outcome.errors,
    }
    if options.json:
        answer(json.dumps(facts))
    elif outcome.translated:
        answer(options.output)
    if not outcome.errors:
        return
    if len(outcome.errors) == 1:
        ((name, reason),) = outcome.errors.items()
        raise UserError(f"{name} {reason}" if reason.startswith(("has ", "holds ", "is ")) else f"{name}: {reason}")
    for name, reason in outcome.errors.items():
        note(f"  {name}: {reason}")
    total = len(outcome.errors) + len(outcome.translated)
    raise UserError(
        f"{len(outcome.errors)} of {total} pictures were not translated; the list above says why and what to do."
    )


def _bench(options: argparse.Namespace) -> None:
    from components.catlib.serving.benchmark import table, time_files

    timed = time_files(options.files, threads=options.threads or _cores(), size=options.size)
    answer(json.dumps({"models": [each.facts() for each in timed]}) if options.json else table(timed))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(text: str) -> int:
    """Reads a number of threads, 1 to 1024; argparse says what is wrong with another text."""
    if not text.isdigit() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of threads, such as 2")
    return int(text)


def _file(text: str) -> Path:
    if "://" in stated(text):
        raise argparse.ArgumentTypeError(f"{text} is an address, and files of this machine are timed; fetch it first")
    return Path(text)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no height and width in pixels, such as 256x512")
    return int(found[1]), int(found[2])
