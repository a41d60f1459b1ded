"""Writes this machine's pip settings as secrets of an image build: `host_settings.py FOLDER`.

`FOLDER/pip.conf` holds the package indexes and their options, `FOLDER/ca` the certificates that pip trusts. Settings
that name files or folders of this machine mean nothing inside a build and are left out.
"""

import configparser
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

INDEX_SETTINGS = (
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "trusted-host",
    "proxy",
    "timeout",
    "retries",
)
CA_IN_BUILD = "/run/secrets/ca"


def host_settings() -> dict[str, str]:
    """Returns pip's settings, from its files and from the environment, without the section names."""
    if importlib.util.find_spec("pip") is None:
        return {}
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    )
    settings = {}
    # Settings from the environment (":env:.NAME") come first in the list and win over those from files.
    for line in sorted(listing.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        settings[key.rpartition(".")[2]] = value.strip("'")
    return settings


def usable_in_a_build(value: str) -> str:
    """Drops local paths from a setting that may list several addresses."""
    addresses = value.replace("\\n", " ").split()
    return " ".join(item for item in addresses if not item.startswith(("file:", "/", ".", "~")))


def write_secrets(folder: Path, settings: dict[str, str]) -> None:
    """Writes both secrets, readable for the owner only; without content they are empty files."""
    config = configparser.RawConfigParser()
    config["global"] = {name: value for name in INDEX_SETTINGS if (value := usable_in_a_build(settings.get(name, "")))}
    certificates = settings.get("cert") or os.environ.get("SSL_CERT_FILE")
    if certificates:
        config["global"]["cert"] = CA_IN_BUILD
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("pip.conf", "ca"):
        (folder / name).touch(mode=0o600)
    with (folder / "pip.conf").open("w", encoding="utf-8") as file:
        config.write(file)
    (folder / "ca").write_bytes(Path(certificates).read_bytes() if certificates else b"")


if __name__ == "__main__":
    write_secrets(Path(sys.argv[1]), host_settings())
