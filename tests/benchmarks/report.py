"""The table that the bench prints, and the same as Markdown for docs/benchmarks.md."""

from __future__ import annotations

from typing import Any

HEADER = ("case", "form", "time", "p95", "spread", "faster", "GFLOP/s", "of peak", "memory")


def rows(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row per case and form."""
    found = []
    for name, case in results["cases"].items():
        precisions = case.get("precision", {})
        for form, figures in case["forms"].items():
            memory = figures["device_bytes"] if results["device"] == "cuda" else figures["host_bytes"]
            rate = figures["flops_per_second"]
            peak = best(results["peaks"], form, precisions.get(form, "fp32"))
            found.append(
                (
                    name,
                    form,
                    duration(figures["seconds"]),
                    duration(figures["p95"]),
                    f"{100 * figures['spread']:.0f} %",
                    f"{figures['speedup']:.2f}×",
                    f"{rate / 1e9:.1f}" if rate else "",
                    f"{100 * rate / peak:.0f} %" if rate and peak else "",
                    "" if memory is None else f"{memory / 2**20:.0f} MiB",
                )
            )
    return found


def best(peaks: dict[str, dict[str, float]], form: str, precision: str) -> float | None:
    """Returns the best rate that was measured in the precision of a form."""
    kind = "TF32" if "TF32" in form else precision
    return max(peaks[kind].values()) if kind in peaks else None


def table(results: dict[str, Any]) -> str:
    """Returns the table for a terminal."""
    lines = [HEADER, *rows(results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([about(results), *texts, *growth(results)])


def markdown(results: dict[str, Any]) -> str:
    """Returns the table for docs/benchmarks.md."""
    lines = [HEADER, ("---",) * 2 + ("---:",) * (len(HEADER) - 2), *rows(results)]
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    more = growth(results)
    return "\n".join([about(results), "", *texts, *(["", *(f"- {line}" for line in more)] if more else [])])


def about(results: dict[str, Any]) -> str:
    """Returns the machine, and its best measured rates."""
    peaks = "; ".join(
        f"{precision}: GEMM {rates['gemm'] / 1e9:.0f}, convolution {rates['convolution'] / 1e9:.0f} GFLOP/s"
        for precision, rates in results["peaks"].items()
    )
    busy = "" if results["load"] is None else f", load average up to {results['load']:.1f}"
    return (
        f"{results['machine']}, torch {results['torch']}, {results['date']}, scale "
        f"{results['scale']}{busy}; measured peaks {peaks}."
    )


def growth(results: dict[str, Any]) -> list[str]:
    """Returns a line per case and axis: the exponents of time and memory."""
    found = []
    for name, case in results["cases"].items():
        for axis, grown in case.get("growth", {}).items():
            parts = [
                f"{form} time ^{_number(grown[form]['exponent_of_time'])}, memory "
                f"^{_number(grown[form]['exponent_of_memory'])}"
                for form in ("plain", "ours")
            ]
            found.append(f"{name}, {axis} × {', '.join(map(str, grown['factors']))}: {'; '.join(parts)}")
    return found


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def duration(seconds: float) -> str:
    """Returns a time in ms or s, with three digits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
