"""A few histories for mutation testing; pytest finds this file only when it is named."""

from tests.faults.histories import play


def test_histories_notice_a_change():
    for seed in range(25):
        play(seed)
