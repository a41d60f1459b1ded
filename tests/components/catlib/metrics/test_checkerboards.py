import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch.nn.functional import conv2d, interpolate

from components.catlib.metrics.checkerboards import ROUNDING_POWER, WINDOW, largest_ratio, peaks

Images = NDArray[np.float64]


def measured(images: Images) -> NDArray[np.float64]:
    return peaks(torch.from_numpy(np.ascontiguousarray(images)).float()).mean(axis=0)


def ratio(generated: Images, real: Images) -> float:
    return float(largest_ratio(measured(generated), measured(real)))


def noise(seed: int, *, side: int = 64, count: int = 8, sigma: float = 0.1) -> Images:
    return np.random.default_rng(seed).normal(0, sigma, (count, 3, side, side))


def photographs(seed: int, *, side: int = 64) -> Images:
    """Makes images with the spectrum of photographs, whose power falls with the square of the frequency."""
    spectra = np.fft.fft2(noise(seed, side=2 * side))
    frequency = np.hypot(np.fft.fftfreq(2 * side)[:, None], np.fft.fftfreq(2 * side))
    frequency[0, 0] = 1
    images = np.fft.ifft2(spectra / frequency).real[:, :, :side, :side]
    return 0.4 * images / images.std()


def waves(period: int, *, side: int = 64, along: int = 3) -> Images:
    """Makes waves cos(2πx / period + π/4)·√2: ±1 for the periods 2 and 4."""
    wave = np.sqrt(2) * np.cos(2 * np.pi * np.arange(side) / period + np.pi / 4)
    return np.broadcast_to(wave if along == 3 else wave[:, None], (8, 3, side, side))


@pytest.mark.parametrize("side", [64, 100])
def test_equal_images_have_a_ratio_of_1(side: int):
    for images in (noise(0, side=side), photographs(0, side=side)):
        assert ratio(images, images) == 1


@pytest.mark.parametrize("sigma", [0.03, 0.3])
def test_noise_has_no_peak_whatever_its_power(sigma: float):
    """A power is a mean over 8 · 64 · 3 lines at least, so its error is below √(2 / 1536) = 0.036."""
    assert np.abs(measured(noise(1, sigma=sigma))).max() < 4 * 0.036
    assert ratio(noise(1, sigma=sigma), noise(2, sigma=0.1)) == pytest.approx(1, abs=4 * 0.036)


@pytest.mark.parametrize("amplitude", [0.03, 0.1, 0.3])
def test_a_checkerboard_on_noise_has_the_ratio_of_the_powers(amplitude: float):
    """In every line its power is (a · Σw)² / Σw² = 2/3 · 64 · a² for the Hann window w; that of noise is σ²."""
    squares = np.where(np.indices((64, 64)).sum(axis=0) % 2, 1, -1)
    expected = 1 + 2 / 3 * WINDOW * amplitude**2 / (0.1**2 + ROUNDING_POWER)
    found = measured(noise(1) + amplitude * squares)
    assert np.exp(found[[0, 2]]) == pytest.approx([expected] * 2, rel=0.15)
    assert found[[1, 3]] == pytest.approx([0, 0], abs=4 * 0.036)
    assert ratio(noise(1) + amplitude * squares, noise(2)) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("along", "first"), [(3, 0), (2, 2)])
@pytest.mark.parametrize(("period", "power"), [(2, 2 / 3 * WINDOW), (4, WINDOW / 3)])
def test_each_direction_and_period_has_its_own_peak(period: int, power: float, along: int, first: int):
    """A wave of period 4 has two frequencies, 1/4 and −1/4, with half the amplitude √2 · a each: half the power."""
    found = np.exp(measured(noise(1) + 0.1 * waves(period, along=along)))
    place = first + {2: 0, 4: 1}[period]
    assert found[place] == pytest.approx(1 + power * 0.1**2 / (0.1**2 + ROUNDING_POWER), rel=0.15)
    assert np.delete(found, place) == pytest.approx([1, 1, 1], abs=4 * 0.036)


@pytest.mark.parametrize("period", [3, 5, 8])
def test_other_periods_are_not_taken_for_up_sampling(period: int):
    assert ratio(photographs(1) + 0.1 * waves(period), photographs(2)) < 1.2


def test_the_size_of_images_does_not_matter():
    amplitudes = {
        side: ratio(noise(1, side=side) + 0.1 * waves(2, side=side), noise(2, side=side)) for side in (64, 256)
    }
    assert amplitudes[256] == pytest.approx(amplitudes[64], rel=0.15)


def test_flat_images_have_no_peak_and_what_rounding_drowns_is_not_seen():
    flat = np.full((2, 3, 64, 64), 0.25)
    assert measured(flat) == pytest.approx(np.zeros(4), abs=1e-9)
    assert ratio(flat + 1e-5 * waves(2)[:2], flat) == pytest.approx(1, abs=0.01)
    grey = 2 / 255
    assert ratio(flat + grey * waves(2)[:2], flat) == pytest.approx(1 + 2 / 3 * WINDOW * 12, rel=0.01)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_sharpness_alone_makes_no_peak(sigma: float):
    images = photographs(1, side=128)
    blurred = gaussian_filter(images, (0, 0, sigma, sigma))
    assert ratio(blurred, photographs(2, side=128)) == pytest.approx(1, abs=0.15)
    assert ratio(images, blurred) == pytest.approx(1, abs=0.15)
    assert ratio(2 * images - blurred, photographs(2, side=128)) == pytest.approx(1, abs=0.15)


def test_only_uneven_up_sampling_leaves_checkerboards():
    """A kernel of 3 and stride 2 covers pixels 1, 2 or 4 times; with a kernel of 4 all are covered 4 times."""
    small, real = photographs(1, side=32), photographs(2)
    spread = torch.zeros(8, 3, 64, 64, dtype=torch.float64)
    spread[:, :, ::2, ::2] = torch.from_numpy(small)
    transposed = {
        kernel: conv2d(spread, torch.ones(3, 1, kernel, kernel).double(), padding=kernel // 2, groups=3)
        for kernel in (3, 4)
    }
    assert ratio(spread.numpy(), real) > 2
    assert ratio(transposed[3].numpy(), real) > 2
    assert ratio(transposed[4].numpy(), real) < 1.2
    assert ratio(interpolate(torch.from_numpy(small), scale_factor=2, mode="bilinear").numpy(), real) < 1.2


def test_a_pattern_of_period_4_is_found_as_well():
    small = photographs(1, side=16)
    spread = np.zeros((8, 3, 64, 64))
    spread[:, :, ::4, ::4] = small
    found = measured(gaussian_filter(spread, (0, 0, 1, 1))) - np.maximum(measured(photographs(2)), 0)
    assert found[[1, 3]].min() > math.log(2)


def test_peaks_that_real_images_have_too_do_not_count():
    grid = 0.1 * waves(4)
    assert ratio(noise(1) + grid, noise(2) + grid) == pytest.approx(1, abs=0.15)


def test_it_is_a_reference_spectrum_in_float64():
    """The same by a direct Fourier sum, image by image."""
    images = photographs(3, side=96)[:2].astype(np.float32).astype(np.float64)
    window = np.hanning(WINDOW + 1)[:-1]
    expected = []
    for image in images:
        for lines in (image.reshape(-1, 96), image.swapaxes(1, 2).reshape(-1, 96)):
            pieces = np.concatenate([lines[:, :64], lines[:, 32:]]) * window

            def power(frequency: int, pieces: Images = pieces) -> float:
                wave = np.exp(-2j * np.pi * frequency * np.arange(WINDOW) / WINDOW)
                return float((np.abs(pieces @ wave) ** 2).mean() / (window**2).sum() + (2 / 255) ** 2 / 12)

            for place in (32, 16):
                beside = [power(place + distance) for distance in (-4, -3, -2, 2, 3, 4)]
                expected.append(math.log(power(place)) - np.log(beside).mean())
    found = peaks(torch.from_numpy(images).float())
    assert found.ravel() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("size", [(63, 64), (64, 63), (16, 16)])
def test_small_images_are_not_measured(size: tuple[int, int]):
    assert peaks(torch.zeros(3, 3, *size)).shape == (3, 0)
