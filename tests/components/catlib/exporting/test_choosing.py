from typing import get_args

import pytest

from components.catlib.config.student import Rewrite
from components.catlib.errors import UserError
from components.catlib.exporting import choosing
from components.catlib.exporting.choosing import choose_rewrites, fastest
from tests.components.catlib.exporting.small_generators import NORMS, example, inception, spade

ALL: tuple[Rewrite, ...] = get_args(Rewrite)


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        ("all", ALL),
        (("padded_channels", "output_phases"), ("output_phases", "padded_channels")),
        ("none", ()),
        ((), ()),
    ],
)
def test_the_setting_alone_decides(setting, chosen: tuple[Rewrite, ...]) -> None:
    generator = inception(NORMS["batch"])
    choice = choose_rewrites(generator, setting, image_NCHW=example(generator, 1), opset=20)
    assert choice.rewrites == chosen
    assert list(choice.measured) == [chosen] * bool(chosen)
    assert choice.times_faster is None if not chosen else choice.times_faster > 0


def test_auto_measures_all_and_all_but_one_and_takes_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = inception(NORMS["batch"])
    image = example(generator, 1)
    choice = choose_rewrites(generator, "auto", image_NCHW=image, opset=20)
    assert set(choice.measured) == {ALL, *(tuple(name for name in ALL if name != left_out) for left_out in ALL)}
    assert choice.rewrites == fastest({**choice.measured, (): 1.0}, otherwise=ALL)

    monkeypatch.setattr(choosing, "_measured", lambda _generator, candidates, *_: dict.fromkeys(candidates, 0.9))
    choice = choose_rewrites(generator, "auto", image_NCHW=image, opset=20)
    assert (choice.rewrites, choice.times_faster) == ((), None), "the plain graph is the fastest"


def test_a_part_must_be_clearly_faster_than_all() -> None:
    assert fastest({ALL: 1.5, ALL[1:]: 1.55, (): 1.0}, otherwise=ALL) == ALL
    assert fastest({ALL: 1.5, ALL[1:]: 1.6, (): 1.0}, otherwise=ALL) == ALL[1:]


def test_a_family_without_rewrites_takes_none_and_refuses_a_list() -> None:
    generator = spade()
    image = example(generator, 1, (32, 64))
    assert choose_rewrites(generator, "auto", image_NCHW=image, opset=20).rewrites == ()
    with pytest.raises(
        UserError,
        match=r"export\.rewrites lists output_phases, but .*inception_spade have no rewrites; "
        r"set export\.rewrites to all or none",
    ):
        choose_rewrites(generator, ("output_phases",), image_NCHW=image, opset=20)
    for advised in ("all", "none"):
        assert choose_rewrites(generator, advised, image_NCHW=image, opset=20).rewrites == ()
