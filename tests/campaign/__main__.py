"""Measures on a card what no CPU can show: `make gpu-campaign`, or `python -m tests.campaign` on a bare machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("command", choices=("run", "list", "pack", "summary"), nargs="?", default="run")
    parser.add_argument("--part", action="append", help="run this part alone (repeatable; default: all in turn)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the commands")
    parser.add_argument("--folder", type=Path, default=Path("build/campaign"), help="where the results land")
    parser.add_argument("--output", type=Path, default=Path("build/campaign.tar.xz"), help="pack: the archive")
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
    sys.exit(main())
