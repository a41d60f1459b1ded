"""Which profiles a generator can have, and which packages they need. Loads neither torch nor these packages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec

from components.catlib.config import ValuesConfig
from components.catlib.config.student import Profile
from components.catlib.errors import UserError

WITH_PIXELS: tuple[Profile, ...] = ("snapml", "coreml")
"""Profiles whose images have values of 0 to 255."""

COLOURS = {1: "GRAYSCALE", 3: "RGB"}
"""Kinds of pictures that they know, by number of channels, as Core ML names them."""

PACKAGES: dict[Profile, str] = {"coreml": "coremltools", "litert": "ai_edge_litert"}
"""The package that writes and reads a profile's file, which is an extra of the profile's name."""


def check_profiles(
    wanted: Collection[Profile], family: str, values: Mapping[str, ValuesConfig], *, upsample: str = "transposed"
) -> None:
    """Refuses profiles that a generator cannot have.

    Args:
        wanted: The recipe's `export.profiles`.
        family: The generator's family.
        values: What the numbers of its pictures mean, by the name of its input or output; label maps have none.
        upsample: How it doubles sizes.

    Raises:
        UserError: It cannot have one of them.
    """
    for profile in wanted:
        if profile in ("onnxruntime", "static"):
            continue
        others = f"take {profile} out of export.profiles, or use static."
        if family != "inception":
            raise UserError(f"The profile {profile} knows generators of the family inception, not {family}; {others}")
        if upsample != "transposed":
            raise UserError(
                f"The profile {profile} knows generators with upsample: transposed, not {upsample}; {others}"
            )
        for end, numbers in values.items() if profile in WITH_PIXELS else ():
            if numbers.type != "uint8" or numbers.range != (0, 255) or numbers.channels not in COLOURS:
                low, high = numbers.range
                raise UserError(
                    f"The profile {profile} has pictures of 8 bits with 1 or 3 channels, but the {end} is "
                    f"{numbers.type} of {numbers.channels} channels from {low:g} to {high:g}; {others}"
                )


def missing_packages(wanted: Collection[Profile]) -> Iterator[str]:
    """Yields a sentence per profile whose package is not installed here."""
    for profile in wanted:
        if profile in PACKAGES and find_spec(PACKAGES[profile]) is None:
            yield (
                f"The profile {profile} needs the package {PACKAGES[profile].replace('_', '-')}; install it with pip "
                f"install --require-hashes --no-deps --requirement requirements-{profile}.lock, or take {profile} out "
                "of export.profiles."
            )
