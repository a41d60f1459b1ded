"""Cuts a teacher's weights down to a student: every surviving tensor, channel by channel.

Tables of layers describe both networks. A layer of the teacher reads the channels of one space and makes those of
another; the pruned norms decide which channels of a space survive. When channels 0 and 2 of three survive in
`in_space` and channel 1 of two in `out_space`, a convolution's weight [2, 3, k, k] becomes `weight[[1]][:, [0, 2]]`.

Differs: the published implementation copies no block output norm (`pw_bn`) and no SPADE weight at all. Here everything
is copied, running statistics included, so an uncut student equals its teacher bit for bit.

Shape suffixes: O output channels, I input channels, K kernel side, V values of a kernel (K·K).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from components.catlib.networks.layers import Layer, modulation
from components.catlib.pruning.search import Pruning


def inherit_weights(state: Mapping[str, np.ndarray], pruning: Pruning) -> dict[str, np.ndarray]:
    """Cuts the weights of a teacher generator down to its student.

    Args:
        state: The teacher's state dict as arrays.
        pruning: The student's architecture and the surviving channels.

    Returns:
        The student's state dict as arrays, complete; they share no memory with the teacher's.
    """
    arrays: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for key, array in state.items():
        name, _, entry = key.rpartition(".")
        arrays[name][entry] = array
    students = {layer.identity: layer for layer in pruning.architecture.layers(*pruning.input_size)}
    teachers = {layer.identity: layer for layer in pruning.teacher.layers(*pruning.input_size)}
    unknown = arrays.keys() - {layer.name for layer in teachers.values()}
    assert not unknown, f"not of this teacher: {sorted(unknown)}"
    survivors = [(layer, students[identity]) for identity, layer in teachers.items() if identity in students]
    channels = _surviving_channels(pruning, survivors, arrays)
    return {
        f"{student.name}.{entry}": _cut(array, entry, layer, channels)
        for layer, student in survivors
        for entry, array in arrays[layer.name].items()
    }


def _surviving_channels(
    pruning: Pruning, survivors: list[tuple[Layer, Layer]], arrays: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns which channels of every space survive: indices, int64, ascending.

    Pruned norms decide it for their spaces. A narrowing SPADE block makes a number of channels that follows from fc by
    halving, and no scale decides which ones to keep. Those with the largest filters stay, by the L2 norm over the
    surviving inputs of all convolutions that are summed into them (the criterion of Li et al., Pruning Filters for
    Efficient ConvNets). Modulation channels, all scales γ and then all shifts β, survive with the channels that they
    modulate.

    Differs: the published implementation draws the weights of these blocks anew.
    """
    teacher = pruning.teacher
    channels = {"source": np.arange(teacher.in_channels), "target": np.arange(teacher.out_channels)}

    def survive(space: str, index: np.ndarray, width: int) -> None:
        channels[space] = index
        channels[modulation(space)] = np.concatenate([index, index + width])

    for norm in teacher.prunable_norms():
        survive(norm.name, pruning.kept[norm.name], norm.channels)
    for layer, student in survivors:
        if layer.out_space not in channels:
            makers = [maker for maker, _ in survivors if maker.kind == "conv" and maker.out_space == layer.out_space]
            energy_O = np.sum([_filter_energy(arrays[maker.name], maker, channels) for maker in makers], axis=0)
            strongest = np.argsort(-energy_O, kind="stable")[: student.out_channels]
            survive(layer.out_space, np.sort(strongest), layer.out_channels)
    return channels


def _filter_energy(entries: Mapping[str, np.ndarray], layer: Layer, channels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the squared L2 norm of a convolution's filters over its surviving inputs, [out_channels]."""
    weight_OIKK = entries["weight_orig"] if "weight_orig" in entries else entries["weight"]
    return np.square(weight_OIKK[:, channels[layer.in_space]]).sum(axis=(1, 2, 3))


def _cut(array: np.ndarray, entry: str, layer: Layer, channels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the surviving part of one array of a layer, as a copy."""
    inputs, outputs = channels[layer.in_space], channels[layer.out_space]
    match layer.kind, entry:
        case _, "num_batches_tracked":
            return array.copy()
        case "conv_subpixel", "weight" | "bias":
            cut = array[(4 * outputs[:, None] + np.arange(4)).ravel()]  # four filters make a channel
            return cut[:, inputs] if entry == "weight" else cut
        case "conv" | "conv_resize", "weight" | "weight_orig":
            cut = array[outputs]
            # A depthwise filter reads the one channel that it makes.
            return cut if layer.groups > 1 else cut[:, inputs]
        case "conv_transpose", "weight":
            return array[inputs][:, outputs]
        case "conv", "weight_u":
            return _as_direction(array[outputs], array)
        case "conv", "weight_v":
            v_IV = array.reshape(-1, layer.kernel_size**2)
            return _as_direction((v_IV if layer.groups > 1 else v_IV[inputs]).ravel(), array)
        case _, "weight" | "bias" | "running_mean" | "running_var":
            return array[outputs]
    raise AssertionError(f"{layer.name}.{entry} is not an array of a {layer.kind}")


def _as_direction(cut: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Scales a cut singular vector of spectral norm back to length 1; an uncut one stays as it is."""
    return cut.copy() if len(cut) == len(whole) else cut / max(np.linalg.norm(cut), 1e-12)
