"""Measures on a card what no CPU can show: `make gpu-campaign`, or `python -m tests.campaign` on a bare machine."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from components.catlib.disk import writing_to
from components.catlib.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument(
        "command",
        choices=("run", "list", "pack", "summary"),
        nargs="?",
        default="run",
        help="run: measure (the default); list: name the parts; pack: write all that a bare machine needs into one "
        "archive; summary: print the results as Markdown",
    )
    parser.add_argument("--part", action="append", help="run this part alone (repeatable; default: all in turn)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to run (default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the commands")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/campaign"), help="where the results land (default: build/campaign)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/campaign.tar.xz"),
        help="pack: the archive to write (default: build/campaign.tar.xz)",
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "pack":
        from tests.campaign.packing import pack

        size = pack(chosen.output)
        print(f"{chosen.output}: {size / 1e6:.1f} MB; on the machine: tar xf {chosen.output.name}, then, in campaign/,")
        print("PYTHONPATH=.:site python3 -m tests.campaign --part PART --folder results")
        return 0
    from tests.campaign import parts

    known = parts.PARTS

    if chosen.command == "list":
        print("\n".join(f"{name:17} {part.what}" for name, part in known.items()))
        return 0
    if chosen.command == "summary":
        from tests.campaign.summary import summary

        if not any((chosen.folder / f"{name}.json").is_file() for name in known):
            print(f"There is no result in {chosen.folder}; give the --folder of a campaign.", file=sys.stderr)
            return 2
        print(summary(chosen.folder), end="")
        return 0
    names = chosen.part or list(known)
    if unknown := [name for name in names if name not in known]:
        print(f"There is no part {unknown[0]}; choose among {', '.join(known)}.", file=sys.stderr)
        return 2
    import torch

    if chosen.device == "cuda" and not torch.cuda.is_available():
        print(
            "The campaign needs a GPU, and torch finds none; --device cpu --tiny tries its commands.", file=sys.stderr
        )
        return 2
    try:
        with writing_to(chosen.folder, what=f"--folder {chosen.folder}"):
            chosen.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=chosen.folder):
                pass
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    campaign = parts.Campaign(device=chosen.device, folder=chosen.folder.resolve(), tiny=chosen.tiny)
    failed = []
    for name in names:
        try:
            print(parts.run_part(name, campaign))
        except Exception as error:  # the other parts go on
            failed.append(name)
            print(f"{name} failed: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print(f"interrupted in {name}: what was finished is kept; the same command goes on.", file=sys.stderr)
            return 75
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a command that has had its ten minutes ends like Ctrl-C
    sys.exit(main())
