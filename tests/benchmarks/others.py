"""Forms of everything that is no optimisation step: reading, packing, scoring, and the start of each stage."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from components.catlib.config import DatasetConfig, Pix2PixConfig, RealStatsConfig
from components.catlib.data.batches import TrainingBatches
from components.catlib.data.packed import PackedDataset
from components.catlib.metrics.features import RandomFeatures, compute_features
from components.catlib.metrics.frechet import Gaussian, frechet_distance
from components.catlib.metrics.statistics import open_statistics
from components.catlib.networks.directions import Direction
from components.catlib.training.validation import Validation
from components.dataset import stage as dataset_stage
from components.real_stats import stage as real_stats_stage
from components.stages import STAGES
from tests.benchmarks.forms import Forms
from tests.benchmarks.steps import EXTENTS, plain_step, teacher_objective

IMAGES = {"tiny": (8, 32), "normal": (32, 128), "full": (128, 256)}
"""Scale -> number of pairs, and their side in pixels."""

FEATURES = {"tiny": (20, 64), "normal": (120, 768), "full": (120, 2048)}
"""Scale -> feature vectors and their length."""

LABELS = 20


def photograph(seed: int, side: int) -> Image.Image:
    """Returns smooth colours with some grain, which decode about as slowly as photographs do."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray((smooth + random.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8))


@functools.cache
def _scratch() -> Path:
    """A folder that goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="bench-")
    _KEPT.append(folder)
    return Path(folder.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def pictures(scale: str, *, labels: bool = False) -> Path:
    """Writes pairs of JPEG pictures (label maps: PNG) in folders trainA, trainB, testA, testB, and returns the root."""
    root = _scratch() / f"{scale}-{'labels' if labels else 'pictures'}"
    count, side = IMAGES[scale]
    for split, number in (("train", count), ("test", count)):
        for index in range(number):
            for letter in "AB":
                (root / f"{split}{letter}").mkdir(parents=True, exist_ok=True)
                seed = 4 * index + 2 * (split == "test") + (letter == "B")
                if labels and letter == "A":
                    coarse = np.random.default_rng(seed).integers(0, LABELS, (side // 8, side // 8), dtype=np.uint8)
                    Image.fromarray(coarse.repeat(8, 0).repeat(8, 1)).save(root / f"{split}A/{index:04}.png")
                else:
                    suffix = "png" if labels else "jpg"
                    photograph(seed, side).save(root / f"{split}{letter}/{index:04}.{suffix}", quality=92)
    return root


def config(scale: str, *, labels: bool = False) -> DatasetConfig:
    """Returns a recipe's section `dataset` for these pictures."""
    side = IMAGES[scale][1]
    return DatasetConfig(
        source=str(pictures(scale, labels=labels)),
        layout="parallel",
        load_size=(side, side),
        crop_size=(side, side),
        num_labels=LABELS if labels else None,
    )


@functools.cache
def packed(scale: str, *, labels: bool = False) -> PackedDataset:
    """Packs the pictures once."""
    folder = _scratch() / f"packed-{scale}-{labels}"
    dataset_stage.run(config(scale, labels=labels), output=folder)
    return PackedDataset.open(folder)


# ---------------------------------------------------------------------------------------------------------------- data


def loader_forms(device: str, scale: str, *, labels: bool) -> Forms:
    """A batch on the device: from packed arrays, or from files that are decoded one by one."""
    dataset, root = packed(scale, labels=labels), pictures(scale, labels=labels)
    batch = min(IMAGES[scale][0], 16)
    batches = TrainingBatches(dataset, batch_size=batch, flip=True, seed=0, pinned=device == "cuda")
    paths = sorted((root / "trainA").iterdir()), sorted((root / "trainB").iterdir())
    random = np.random.default_rng(0)
    steps = iter(range(10**9))

    def ours() -> tuple[Tensor, Tensor]:
        found = batches.batch(next(steps)).to(device)
        return found.source, found.target

    def plain() -> tuple[Tensor, Tensor]:
        chosen, flips = random.choice(len(paths[0]), batch, replace=False), random.random(batch) < 0.5
        sides = []
        for files in paths:
            rows = []
            for index, flip in zip(chosen, flips, strict=True):
                with Image.open(files[index]) as image:
                    pixels = np.asarray(image)[:, ::-1] if flip else np.asarray(image)
                tensor = torch.from_numpy(pixels.copy())
                if tensor.ndim == 2:
                    rows.append(torch.nn.functional.one_hot(tensor.long(), LABELS).permute(2, 0, 1).float())
                else:
                    rows.append(tensor.permute(2, 0, 1).float() / 127.5 - 1)
            sides.append(torch.stack(rows).to(device))
        return sides[0], sides[1]

    def difference() -> float:
        """Both forms see every image of an epoch, mirrored or not."""
        rounds = len(paths[0]) // batch
        seen = [_rows(batches.batch(step).to("cpu").target) for step in range(rounds)]
        with_flips = [_rows(tensor) for tensor in _decoded(paths[1])]
        return float((_in_order(torch.cat(seen)) - _in_order(torch.cat(with_flips))[: rounds * batch]).abs().max())

    return Forms(calls={"plain": plain, "ours": ours}, difference=difference, facts={"batch_size": batch})


def _rows(images: Tensor) -> Tensor:
    """Values of each image from the smallest to the largest, which mirroring leaves alone: [N, values]."""
    return images.cpu().flatten(1).sort(dim=1).values


def _in_order(rows: Tensor) -> Tensor:
    return rows[rows.double().sum(dim=1).argsort()]


def _decoded(files: list[Path]) -> Iterator[Tensor]:
    for path in files:
        with Image.open(path) as image:
            yield torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def packing_forms(_device: str, scale: str) -> Forms:
    """Folders of pictures to arrays that are mapped into memory."""
    root, folder = pictures(scale), _scratch()
    half = IMAGES[scale][1] // 2
    wanted = config(scale).model_copy(update={"load_size": (half, half), "crop_size": (half, half)})

    def ours() -> PackedDataset:
        shutil.rmtree(folder / "ours", ignore_errors=True)
        dataset_stage.run(wanted, output=folder / "ours")
        return PackedDataset.open(folder / "ours")

    def plain() -> dict[str, NDArray[np.uint8]]:
        found = {}
        for letter in ("trainA", "trainB", "testA", "testB"):
            images = []
            for path in sorted((root / letter).iterdir()):
                with Image.open(path) as image:
                    images.append(np.asarray(image.convert("RGB").resize((half, half), Image.Resampling.BICUBIC)))
            found[letter] = np.stack(images)
            np.save(folder / f"{letter}.npy", found[letter])
        return found

    def difference() -> float:
        theirs, split = plain(), ours().split("train")
        pairs = (split.source, theirs["trainA"]), (split.target, theirs["trainB"])
        return max(float(np.abs(np.asarray(one, np.int16) - other).max()) for one, other in pairs)

    facts = {"images": 2 * len(list((root / "trainA").iterdir())) + 2 * len(list((root / "testA").iterdir()))}
    return Forms(calls={"plain": plain, "ours": ours}, difference=difference, tolerance=0, facts=facts)


# -------------------------------------------------------------------------------------------------------------- scores


def features_forms(device: str, scale: str) -> Forms:
    """Features of real images by the random network, in batches or one by one."""
    network, images = RandomFeatures().to(device), np.asarray(packed(scale).split("train").target)

    def plain() -> NDArray[np.float32]:
        found = []
        for image in images:
            tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].to(device)
            found.append(network(tensor).detach().cpu().numpy())
        return np.concatenate(found)

    def ours() -> NDArray[np.float32]:
        return compute_features(network, (images[row : row + 32] for row in range(0, len(images), 32)), device)

    def difference() -> float:
        return float(np.abs(plain() - ours()).max())

    return Forms(calls={"plain": plain, "ours": ours}, difference=difference, facts={"images": len(images)})


def _features(seed: int, count: int, length: int) -> NDArray[np.float64]:
    """Features whose variances fall off, as those of images do."""
    random = np.random.default_rng(seed)
    variances = np.exp(-np.arange(length) / (length / 4))
    return random.standard_normal((count, length)) * variances + random.standard_normal(length)


def _textbook_distance(first: NDArray[Any], second: NDArray[Any]) -> float:
    import scipy.linalg

    covariances = [np.cov(each, rowvar=False) for each in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    gap = first.mean(axis=0) - second.mean(axis=0)
    return float(gap @ gap + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root).real)


def frechet_forms(_device: str, scale: str) -> Forms:
    """The Fréchet distance of two sets of features, from the features themselves."""
    first, second = (_features(seed, *FEATURES[scale]) for seed in (0, 1))
    plain = partial(_textbook_distance, first, second)

    def ours() -> float:
        return frechet_distance(Gaussian.from_samples(first), Gaussian.from_samples(second))

    facts = dict(zip(("images", "features"), FEATURES[scale], strict=True))
    return Forms(calls={"plain": plain, "ours": ours}, difference=lambda: abs(plain() / ours() - 1), facts=facts)


def validation_forms(device: str, scale: str) -> Forms:
    """Scores of a generator on held-out pairs, during a training."""
    from skimage.metrics import structural_similarity

    dataset, extent = packed(scale), EXTENTS[scale]["pix2pix"]
    folder = _scratch() / f"statistics-{scale}"
    if not folder.exists():
        real_stats_stage.run(RealStatsConfig(), dataset=dataset.folder, output=folder)
    objective = teacher_objective("pix2pix", extent, device, {})
    generator = objective.generators["source_to_target"]
    plain_generator = plain_step("pix2pix", "teacher", objective, device).generator.eval()
    section = Pix2PixConfig(batch_size=8)
    statistics = open_statistics(folder)
    directions = [Direction.SOURCE_TO_TARGET]
    validation = Validation(dataset, statistics, directions=directions, config=section, device=torch.device(device))
    test, network = dataset.split("test"), RandomFeatures().to(device)
    real = statistics.read(Direction.SOURCE_TO_TARGET).features.astype(np.float64)

    @torch.no_grad()
    def plain() -> dict[str, float]:
        features, similar = [], []
        for source, target in zip(test.source, test.target, strict=True):
            image = torch.from_numpy(np.array(source)).permute(2, 0, 1)[None].to(device).float() / 127.5 - 1
            made = plain_generator(image)[0]
            rounded = ((made.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            features.append(network(rounded).cpu().numpy()[0])
            values = made[0].permute(1, 2, 0).cpu().numpy()
            wanted = np.asarray(target, np.float32) / 127.5 - 1
            similar.append(structural_similarity(values, wanted, data_range=2, channel_axis=-1))
        return {"distance": _textbook_distance(np.array(features, np.float64), real), "ssim": float(np.mean(similar))}

    def ours() -> dict[str, float]:
        return validation({"source_to_target": generator}).scores["source_to_target"]

    def difference() -> float:
        return abs(plain()["distance"] / ours()["frechet_random_features"] - 1)

    facts = {"images": len(test.source)}
    return Forms(calls={"plain": plain, "ours": ours}, difference=difference, tolerance=0.01, facts=facts)


# --------------------------------------------------------------------------------------------------------------- start


def start_forms(stage: str) -> Forms:
    """From nothing to a stage whose arguments are read and whose code is loaded; plain: Python with torch or numpy."""
    module = f"components.{stage.replace('-', '_')}.stage"
    code = f"import components.__main__ as m, {module}, sys; print('torch' in sys.modules)"
    loaded = _python(code).strip() == "True"
    calls: dict[str, Callable[[], object]] = {
        "plain": partial(_python, "import torch" if loaded else "import numpy, pydantic"),
        "ours": partial(_python, code),
    }
    return Forms(calls=calls, difference=lambda: 0.0, facts={"loads_torch": loaded})


def _python(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    ).stdout


STARTED = [name for name in STAGES if name in ("dataset", "real-stats", "teacher", "prune", "distill", "evaluate")]
"""The stages whose start is timed: every one that a bare machine can load."""
