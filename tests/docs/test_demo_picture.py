import json
from pathlib import Path

from PIL import Image

from tests.docs.demo_picture import SHOWN, picture_of


def test_samples_stand_in_two_columns_with_their_four_pictures_side_by_side(tmp_path: Path):
    samples = []
    for number in range(3):
        files = {name: f"{number}_{name}.png" for name in SHOWN}
        for x, file in enumerate(files.values()):
            Image.new("RGB", (4, 4), (40 * number, 60 * x, 7)).save(tmp_path / file)
        samples.append({"name": str(number), **files})
    (tmp_path / "metrics.json").write_text(json.dumps({"samples": samples}))
    picture = picture_of(tmp_path)
    assert picture.size == (2 * 4 * 8, 2 * 8)
    middles = [[picture.getpixel((8 * x + 4, 8 * y + 4)) for x in range(8)] for y in range(2)]
    first, second, third = ([(40 * number, 60 * x, 7) for x in range(4)] for number in range(3))
    assert middles == [first + third, second + [(0, 0, 0)] * 4]
