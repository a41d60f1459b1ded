"""Translates a picture or a folder of pictures with an exported generator, one file each, under its own name."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from components.catlib.data.files import SourceFile, as_text, is_image_path
from components.catlib.data.samples import UnusableImageError
from components.catlib.disk import check_plain, walk, writing_to
from components.catlib.errors import UserError, one_line
from components.catlib.exits import note
from components.catlib.serving.model import Model, local_model, open_model
from components.catlib.serving.pictures import read, write
from components.catlib.serving.tiling import enlarged, translate

Item = TypeVar("Item")

_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Job:
    """One picture to translate.

    Attributes:
        name: Its path below the input and the output, with "/".
        file: The picture.
        target: Where the translation goes.
    """

    name: str
    file: SourceFile
    target: Path


@dataclass
class Outcome:
    """What became of the pictures.

    Attributes:
        translated: Names of those that were translated, in order.
        enlarged: Names of those whose sides are no whole size steps, which were enlarged and cut back.
        errors: Name -> why it was not translated, and what to do.
    """

    translated: list[str]
    enlarged: list[str]
    errors: dict[str, str]


def translate_files(address: str, source: Path, output: Path, *, threads: int | None = None) -> Outcome:
    """Translates a picture, or every picture in a folder and below it.

    A picture that cannot be translated stops no other. Each file appears whole or not at all.

    Args:
        address: The generator: an `.onnx` file, an artifact of the export stage, or `s3://…` of either.
        source: A picture, or a folder.
        output: The folder to write to; it is made if it does not exist.
        threads: CPU threads; None: one per core.

    Raises:
        UserError: There is no such generator or no picture, or nothing can be written to the output, or it would
            replace a picture of the input.
    """
    try:
        jobs = find_jobs(source, output)
    except OSError as error:
        raise UserError(
            f"--input {source} cannot be read ({error.strerror}); check its name and permissions."
        ) from error
    with local_model(address) as path:
        model = open_model(path, threads=threads)
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    check_writable(output)
    outcome = Outcome([], [], {})
    for job in _shown(jobs, "picture"):
        try:
            was_enlarged = _translate_one(model, job, show_tiles=len(jobs) == 1)
        except UnusableImageError as error:
            outcome.errors[job.name] = f"{error.reason}; {error.advice or 'repair or remove the file'}."
        except UserError as error:
            outcome.errors[job.name] = str(error).removeprefix(f"{job.name}: ")
        except MemoryError:
            outcome.errors[job.name] = "needs more memory than is free; cut it into smaller pictures."
        else:
            outcome.translated.append(job.name)
            outcome.enlarged += [job.name] * was_enlarged
    for folder in () if outcome.translated else made:  # nothing was translated: no empty folder is left behind
        with contextlib.suppress(OSError):
            folder.rmdir()
    return outcome


def find_jobs(source: Path, output: Path) -> list[Job]:
    """Lists the pictures to translate, numbered ones in the order of their numbers.

    What lies below the output is left out, with a line that says so, so that no translation is translated again.

    Raises:
        UserError: There is no picture, or a translation would replace its picture.
    """
    if source.is_dir():
        if _same(source, output):
            raise UserError(
                f"--output {output} is the folder of the pictures, which would be replaced; choose another."
            )
        below = output.resolve()
        pictures = [
            path
            for path in walk(source)
            if (path.is_file() or path.is_symlink()) and is_image_path(PurePosixPath(path.relative_to(source)))
        ]
        kept = [path for path in pictures if below not in path.resolve().parents]
        if left_out := len(pictures) - len(kept):
            note(
                f"{left_out} picture{'s lie' if left_out > 1 else ' lies'} below --output {output} and will not be "
                "translated; to translate them too, choose an output outside --input."
            )
        found = [
            Job(as_text(relative.as_posix()), _file(path, as_text(relative.as_posix())), output / relative)
            for path in kept
            for relative in (path.relative_to(source),)
        ]
        if not found:
            raise UserError(f"There is no picture in {source}; their names end in .png, .jpg, .tif, .npy or the like.")
        return sorted(found, key=lambda job: _in_order(job.name))
    if not source.exists():
        raise UserError(f"There is no file or folder {source}; give a picture or a folder of pictures with --input.")
    check_plain(source, what=f"--input {source}")
    if _same(source.parent, output):
        raise UserError(f"--output {output} is the folder of {source}, which would be replaced; choose another.")
    return [Job(as_text(source.name), _file(source, as_text(source.name)), output / source.name)]


def _file(path: Path, label: str) -> SourceFile:
    """Returns a file that is read later; a broken link is one, too, so that reading it reports the missing file."""
    return SourceFile(label, path.stat().st_size if path.exists() else 0, path.read_bytes)


def check_writable(output: Path) -> None:
    """Makes the output folder if needed, and refuses one in which nothing can be written; raises UserError."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; give a folder.")
    trial = output / f".{uuid.uuid4().hex[:8]}.partial"
    with writing_to(output, what=f"--output {output}", partial=trial):
        output.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()


def _translate_one(model: Model, job: Job, *, show_tiles: bool) -> bool:
    """Translates one picture; returns whether it had to be enlarged to whole size steps."""
    picture = read(job.file, model)
    canvas = translate(model, picture, shown=(lambda tiles: _shown(tiles, "tile")) if show_tiles else iter)
    partial = job.target.with_name(f".{job.target.name[:200]}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with writing_to(job.target, partial=partial):
            job.target.parent.mkdir(parents=True, exist_ok=True)
            write(partial, canvas, picture)
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(job.target)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot be written as {picture.kind} ({one_line(str(error))}); save it as PNG.") from error
    finally:
        partial.unlink(missing_ok=True)
    return any(side != enlarged(side, model.size_step) for side in picture.size)


def _shown(items: Sequence[Item], unit: str) -> Iterable[Item]:
    """Yields the items, with a bar of progress on a terminal if there are several."""
    if len(items) < 2 or not sys.stderr.isatty():
        return items
    from tqdm import tqdm  # only where it is seen

    return tqdm(items, unit=unit, dynamic_ncols=True)


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _in_order(name: str) -> list[tuple[int, int | str]]:
    """Returns a key that sorts frame2 before frame10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in _NUMBERS.split(name)]
