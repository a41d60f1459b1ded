import numpy as np
import pytest

from components.catlib.metrics.segmentation import confusion_matrix, intersection_over_union, mean_iou


def test_pixels_are_counted_by_label_and_prediction_and_ignored_labels_are_not():
    labels = np.array([[0, 0, 1], [2, 255, -1]])
    predictions = np.array([[0, 1, 1], [0, 1, 1]])
    assert confusion_matrix(labels, predictions, num_classes=3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_images_add_up():
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 19, (2, 3, 8, 8), dtype=np.uint8)
    together = confusion_matrix(labels, predictions)
    assert np.array_equal(together, sum(confusion_matrix(*pair) for pair in zip(labels, predictions, strict=True)))
    assert together.sum() == labels.size


def test_a_class_that_is_only_predicted_counts_as_zero_and_an_absent_one_not_at_all():
    labels = np.array([0, 0, 0, 1])
    predictions = np.array([0, 0, 2, 1])
    confusion = confusion_matrix(labels, predictions, num_classes=4)
    ious = intersection_over_union(confusion)
    assert ious[:3].tolist() == [2 / 3, 1, 0]
    assert np.isnan(ious[3])
    assert mean_iou(confusion) == pytest.approx(100 * (2 / 3 + 1 + 0) / 3)


def test_uint8_labels_do_not_overflow():
    confusion = confusion_matrix(np.full(5, 18, np.uint8), np.full(5, 17, np.uint8))
    assert confusion[18, 17] == 5


def test_nothing_to_measure_and_predictions_that_are_no_classes_are_errors():
    with pytest.raises(ValueError, match="no labelled pixel"):
        mean_iou(confusion_matrix(np.full(3, 255), np.zeros(3, int)))
    with pytest.raises(AssertionError, match="not a class"):
        confusion_matrix(np.zeros(3, int), np.full(3, 19))
