"""Whole files of every kind, small ones, from which damaged ones are made."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

KEPT = Path(__file__).parents[1] / "kept"


def pictures(mode: str, *formats: str, **options: Any) -> list[bytes]:
    numbers = np.arange(9 * 7 * 4, dtype=np.int64).reshape(7, 9, 4) * 37
    pixels = {
        "RGB": numbers[..., :3].astype(np.uint8),
        "RGBA": numbers.astype(np.uint8),
        "L": numbers[..., 0].astype(np.uint8),
        "I;16": numbers[..., 0].astype(np.uint16),
        "1": numbers[..., 0] % 2 == 0,
    }
    image = Image.fromarray(numbers[..., 0].astype(np.uint8) % 8, "L") if mode == "P" else Image.fromarray(pixels[mode])
    if mode == "P":
        image = image.convert("P")
    written = []
    for kind in formats:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        written.append(stream.getvalue())
    return written


def png_images() -> list[bytes]:
    modes = ("RGB", "RGBA", "L", "I;16", "1", "P")
    return [content for mode in modes for content in pictures(mode, "PNG")] + pictures("P", "PNG", transparency=3)


def other_images() -> list[bytes]:
    tiffs = [pictures("RGB", "TIFF", compression=kind)[0] for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")]
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *pictures("RGB", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "TGA", "JPEG2000", "AVIF"),
        *pictures("RGB", "JPEG", progressive=True, exif=exif),
        *pictures("RGBA", "WEBP", "TIFF", lossless=True), *pictures("I;16", "TIFF"), *tiffs,
    ]  # fmt: skip


def zips() -> list[bytes]:
    picture = pictures("RGB", "PNG")[0]
    written = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            archive.writestr("trainA/1.png", picture)
            archive.writestr("trainB/é.jpg", b"two")
        written.append(stream.getvalue())
    return written


def tars() -> list[bytes]:
    written = []
    for mode, flavour in (("w", tarfile.PAX_FORMAT), ("w", tarfile.GNU_FORMAT), ("w:gz", tarfile.USTAR_FORMAT)):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode, format=flavour) as archive:  # type: ignore[call-overload]
            for name in ("trainA/1.png", "trainB/é" + "b" * (0 if flavour == tarfile.USTAR_FORMAT else 120) + ".jpg"):
                member = tarfile.TarInfo(name)
                member.size = 5
                archive.addfile(member, io.BytesIO(b"12345"))
        written.append(stream.getvalue())
    return written


def arrays() -> list[bytes]:
    written = []
    for arrays in ({"mu": np.zeros(4), "sigma": np.eye(4)}, {"mu": np.zeros(2048), "sigma": np.zeros((2048, 2048))}):
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        written.append(stream.getvalue())
    return written


def state_dicts() -> list[bytes]:
    written = []
    generator = load_file(KEPT / "paired" / "teacher" / "generator_source_to_target.safetensors")
    discriminator = load_file(KEPT / "paired" / "teacher" / "discriminator_target.safetensors")
    for state, options in (
        (generator, {}),
        (discriminator, {}),
        ({f"module.{name}": tensor for name, tensor in discriminator.items()}, {}),
        (discriminator, {"_use_new_zipfile_serialization": False}),
        ({"model.0.weight": torch.zeros(2, 6, 4, 4).half(), "n": torch.tensor(3)}, {}),
    ):
        stream = io.BytesIO()
        torch.save(state, stream, **options)
        written.append(stream.getvalue())
    return written


def segmenters() -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.zeros((19, 3, 1, 1), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1])
    shapes = {"x": ["n", 3, "h", "w"], "y": ["n", 19, "h", "w"]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph([node], "segmenter", [values["x"]], [values["y"]], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return [model.SerializeToString(), (KEPT / "paired" / "export" / "model.onnx").read_bytes()]
