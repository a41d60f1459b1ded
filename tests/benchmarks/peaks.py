"""What the machine can do at best: the rate of a large matrix product and of a large convolution, measured here."""

from __future__ import annotations

import torch
from torch.nn import functional

from components.catlib.timing import Machine, measure

SIDES = {"tiny": 128, "normal": 1536, "full": 8192}
"""Scale -> side of the matrices."""

CONVOLUTIONS = {"tiny": (2, 16, 16), "normal": (4, 128, 64), "full": (16, 256, 128)}
"""Scale -> images, channels, side."""

TYPES = {
    "fp32": (torch.float32, False),
    "TF32": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
}


def measure_peaks(device: str, scale: str, machine: Machine) -> dict[str, dict[str, float]]:
    """Returns the FLOP/s of "gemm" and "convolution" on random numbers by precision; on the CPU only of fp32."""
    found = {}
    for name, (dtype, tf32) in TYPES.items():
        if device == "cpu" and name != "fp32":
            continue
        random = torch.Generator(device).manual_seed(0)
        side = SIDES[scale]
        left, right = (torch.randn(side, side, device=device, generator=random).to(dtype) for _ in range(2))
        count, channels, size = CONVOLUTIONS[scale]
        images = torch.randn(count, channels, size, size, device=device, generator=random).to(dtype)
        kernel = torch.randn(channels, channels, 3, 3, device=device, generator=random).to(dtype)
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        calls = {
            "gemm": lambda left=left, right=right: left @ right,
            "convolution": lambda images=images, kernel=kernel: functional.conv2d(images, kernel, padding=1),
        }
        flops = {"gemm": 2 * side**3, "convolution": 2 * 9 * count * (channels * size) ** 2}
        with torch.inference_mode():
            times = measure(calls, repeats=20, machine=machine, seconds=5)
        found[name] = {call: flops[call] / times[call].median for call in calls}
    return found
