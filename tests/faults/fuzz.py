"""Damages files for as long as one likes, guided by which lines of our code they reach (libFuzzer through atheris).

    python -m tests.faults.fuzz --minutes 30                    every loader, in turn
    python -m tests.faults.fuzz --minutes 5 --loader png        one of them
    python -m tests.faults.fuzz --replay build/fuzz/png/crash-… --loader png

What is found lies in build/fuzz/LOADER/, together with the files that reached new lines, from which the next run goes
on. atheris has wheels for Linux on x86-64 only, so it is in no lock file; `make test-faults` installs it.
"""

import argparse
import logging
import random
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

FOLDER = Path("build") / "fuzz"
INSTRUMENTED = ["components", "PIL", "numpy.lib._format_impl", "minio"]
SLOWEST_SECONDS = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--loader", action="append")
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        _fuzz(options.loader[0], options.minutes * 60)
        return 0
    from tests.faults.judging import judge
    from tests.faults.loaders import LOADERS

    if options.replay:
        with tempfile.TemporaryDirectory() as folder:
            print(judge(LOADERS[options.loader[0]], options.replay.read_bytes(), Path(folder)))
        return 0
    names = options.loader or list(LOADERS)
    failed = [name for name in names if not _in_process(name, options.minutes / len(names))]
    print(f"{len(names)} loaders, {options.minutes:g} minutes; found: {', '.join(failed) or 'nothing'}")
    return 1 if failed else 0


def _in_process(name: str, minutes: float) -> bool:
    """Fuzzes one loader in a process of its own, which a crash of a library ends; prints what it says at the end."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.faults.fuzz", "--here", "--loader", name, "--minutes", str(minutes)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = [line for line in done.stderr.splitlines() if line.startswith(("#", "Done", " ===", "==", "INFO: seed"))]
    print(
        f"{name}: exit code {done.returncode} after {time.monotonic() - began:.0f} s; {said[-1] if said else ''}",
        flush=True,
    )
    if done.returncode:
        print(done.stderr[-3000:], flush=True)
    return done.returncode == 0


def _fuzz(name: str, seconds: float) -> None:
    import atheris

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.faults.judging import judge, limited_memory
        from tests.faults.loaders import LOADERS
    from tests.faults.mutations import mutated

    loader, corpus = LOADERS[name], FOLDER / name / "corpus"
    seeds = loader.seeds()
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def try_one(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            judge(loader, content, Path(folder))

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        changed = mutated(content, loader.kind, chance) if chance.random() < 0.6 else atheris.Mutate(content, most)
        return changed[:most]

    flags = [
        f"-max_total_time={max(seconds, 1):.0f}", f"-timeout={SLOWEST_SECONDS}", "-rss_limit_mb=6000",
        "-max_len=200000", f"-artifact_prefix={FOLDER / name}/", "-print_final_stats=1", str(corpus),
    ]  # fmt: skip
    with limited_memory():
        atheris.Setup([sys.argv[0], *flags], try_one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
