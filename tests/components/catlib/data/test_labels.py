import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.catlib.data.labels import instance_edges, semantic_planes


def test_one_plane_per_class_and_none_where_nothing_is_known():
    labels = torch.tensor([[[0, 2, 255]]], dtype=torch.uint8)
    planes = semantic_planes(labels, None, num_labels=3)
    assert planes.dtype == torch.float32
    assert planes[0, :, 0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_the_dont_care_plane_follows_the_classes_and_the_edges_come_last():
    labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    instances = torch.tensor([[[7, 7, 8]]])
    planes = semantic_planes(labels, instances, num_labels=2, dont_care_plane=True)
    assert planes[0, :, 0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]]


def test_edges_mark_both_sides_of_a_border_but_not_its_diagonal():
    instances = torch.zeros(1, 4, 4, dtype=torch.int32)
    instances[0, 0, 0] = 1
    assert instance_edges(instances)[0].int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_instance_ids_that_agree_in_their_low_16_bits_are_different_instances():
    instances = torch.tensor([[[26001, 26001 + 2**16]]], dtype=torch.int32)
    assert instance_edges(instances).all()


@given(st.integers(0, 2**32 - 1))
def test_edges_are_mirrored_with_the_map(seed: int):
    instances = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, (2, 5, 7)))
    assert torch.equal(instance_edges(instances.flip(-1)), instance_edges(instances).flip(-1))
    assert torch.equal(instance_edges(instances.transpose(1, 2)), instance_edges(instances).transpose(1, 2))


@given(st.integers(1, 255), st.integers(0, 2**32 - 1))
def test_every_known_label_lights_exactly_one_plane(num_labels: int, seed: int):
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, num_labels, (1, 3, 4), dtype=np.uint8))
    planes = semantic_planes(labels, None, num_labels=num_labels)
    assert torch.equal(planes.sum(1), torch.ones(1, 3, 4))
    assert torch.equal(planes.argmax(1), labels.long())
