"""Folders whose images a file describes: Hugging Face's imagefolder and Croissant."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.catlib.config import DatasetConfig
from components.catlib.data.locating import open_source
from components.catlib.data.samples import Collection, UnusableImageError
from components.catlib.data.sources import open_tree
from components.catlib.errors import UserError
from tests.components.catlib.data.image_folders import noise, write

Images = dict[str, list[tuple[str, dict[str, int]]]]


def image(path: Path, grey: int) -> None:
    write(path, np.full((4, 6, 3), grey))


def text(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def opened(folder: Path, read: Callable[[Collection], Any], **settings: Any) -> Any:
    config = DatasetConfig(source=str(folder), **settings)
    with open_source(config.source) as (tree, facts):
        return read(open_tree(config, tree, facts))


def images(folder: Path, **settings: Any) -> Images:
    """Returns split -> name and grey value of each role of every sample."""

    def read(collection: Collection) -> Images:
        return {
            split: [
                (sample.name, {role: int(np.asarray(found).flat[0]) for role, found in sample.load().items()})
                for samples in lists
                for sample in samples.samples
            ]
            for split, lists in (("train", collection.train), ("test", collection.test))
        }

    return opened(folder, read, **settings)


def refused(folder: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        images(folder, **settings)
    sentence = str(error.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


# ---------------------------------------------------------------------------------------------------------- imagefolder


def imagefolder(folder: Path, header: str, *, splits: tuple[str, ...] = ("train", "test")) -> None:
    """Writes two samples per split; the first column's images are dark (0, 1), the second's bright (100, 101)."""
    for split in splits:
        for number in range(2):
            image(folder / split / f"{number}.png", number)
            image(folder / split / f"other/x{number}.png", 100 + number)
        text(folder / split / "metadata.csv", f"{header}\n0.png,other/x0.png\n1.png,other/x1.png\n")


DARK_FIRST = {"train": [("0", {"source": 0, "target": 100}), ("1", {"source": 1, "target": 101})]}
BRIGHT_FIRST = {"train": [("other/x0", {"source": 100, "target": 0}), ("other/x1", {"source": 101, "target": 1})]}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("file_name,target_file_name", DARK_FIRST),
        ("file_name,zebra_file_name", DARK_FIRST),
        ("input_file_name,output_file_name", DARK_FIRST),
        ("a_file_name,b_file_name", DARK_FIRST),
        ("original_image_file_name,edited_image_file_name", DARK_FIRST),
        ("b_file_name,a_file_name", BRIGHT_FIRST),
        ("file_name,label_file_name", BRIGHT_FIRST),
        ("file_name,conditioning_image_file_name", BRIGHT_FIRST),
        ("target_file_name,file_name", BRIGHT_FIRST),
    ],
)
def test_names_of_columns_say_which_image_is_a(header: str, expected: Mapping[str, Any], tmp_path: Path):
    imagefolder(tmp_path, header)
    assert images(tmp_path) == {"train": expected["train"], "test": expected["train"]}


def test_direction_outer_folder_byte_order_mark_and_further_columns(tmp_path: Path):
    imagefolder(tmp_path / "outer", "\ufefffile_name,target_file_name,text", splits=("train", "validation"))
    found = images(tmp_path, direction="BtoA")
    assert found["train"] == found["test"] == [("0", {"source": 100, "target": 0}), ("1", {"source": 101, "target": 1})]


def test_one_metadata_file_above_all_splits_in_json_lines(tmp_path: Path):
    rows = []
    for split, grey in (("train", 1), ("test", 2), ("val", 3)):
        image(tmp_path / split / "in/a.png", grey)
        image(tmp_path / split / "out/b.png", 100 + grey)
        rows.append({"input_file_name": f"{split}/in/a.png", "output_file_name": f"{split}/out/b.png", "note": None})
    text(tmp_path / "metadata.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows) + "\n")
    assert images(tmp_path) == {
        "train": [("in/a", {"source": 1, "target": 101})],
        "test": [("in/a", {"source": 2, "target": 102})],
    }
    facts = opened(tmp_path, lambda collection: collection.provenance)
    assert facts["layout"] == "imagefolder"
    assert facts["domains"] == {"A": "input_file_name", "B": "output_file_name"}
    (left,) = facts["left_over"]
    assert (left["folder"], left["count"], left["expected"]) == ("val/in", 1, True)


def test_without_splits_images_are_held_out_and_one_source_may_have_several_targets(tmp_path: Path):
    image(tmp_path / "s.png", 7)
    for number in range(4):
        image(tmp_path / f"t{number}.png", number)
    rows = "".join(f"s.png,t{number}.png\n" for number in range(4))
    text(tmp_path / "metadata.csv", f"file_name,target_file_name\n{rows}")
    found = images(tmp_path, test_fraction=0.25)
    assert (len(found["train"]), len(found["test"])) == (2, 2)
    assert {value["target"] for _, value in found["train"] + found["test"]} == {0, 1, 2, 3}
    assert len({name for name, _ in found["train"] + found["test"]}) == 4


def test_label_and_instance_maps(tmp_path: Path):
    for split in ("train", "test"):
        for number in range(2):
            image(tmp_path / split / f"{number}.png", 200)
            write(tmp_path / split / f"maps/{number}.png", np.arange(24).reshape(4, 6) % 2)
            write(tmp_path / split / f"instances/{number}.png", np.full((4, 6), 5))
        rows = "".join(f"{number}.png,maps/{number}.png,instances/{number}.png\n" for number in range(2))
        text(tmp_path / split / "metadata.csv", f"file_name,label_file_name,instance_file_name\n{rows}")
    assert images(tmp_path, num_labels=2)["train"][0] == ("maps/0", {"source": 0, "target": 200, "instances": 5})
    assert "names images in 3 columns (file_name, label_file_name, instance_file_name)" in refused(tmp_path)


def test_images_without_a_row_are_refused_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    imagefolder(tmp_path, "file_name,target_file_name")
    image(tmp_path / "train/spare/a.png", 1)
    sentence = refused(tmp_path)
    assert (
        "imagefolder, which has no place for 1 image (1 image in train/spare/: metadata.csv does not name" in sentence
    )
    assert len(images(tmp_path, layout="imagefolder")["train"]) == 2
    assert "left out 1 image in train/spare/" in caplog.text


def test_a_row_without_its_image_counts_as_unusable(tmp_path: Path):
    imagefolder(tmp_path, "file_name,target_file_name")
    (tmp_path / "train/other/x1.png").unlink()
    with pytest.raises(UnusableImageError, match=r"row 2 of .*/train/metadata\.csv names this image, but there is no"):
        images(tmp_path)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("../secret.png,other/x0.png", "names ../secret.png, which leaves the source"),
        ("/etc/secret.png,other/x0.png", "names /etc/secret.png, which leaves the source"),
        ("C:/secret.png,other/x0.png", "names C:/secret.png, which leaves the source"),
        ("https://example.org/a.png,other/x0.png", "nothing is downloaded"),
        ("0.png,", "target_file_name, names no image"),
        ("0.png", "target_file_name, names no image"),
        ("0.png,../test/other/x0.png", "leaves the source"),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(row: str, sentence: str, tmp_path: Path):
    imagefolder(tmp_path, "file_name,target_file_name")
    text(tmp_path / "train/metadata.csv", f"file_name,target_file_name\n{row}\n")
    found = refused(tmp_path)
    assert sentence in found and "row 1 of" in found


def test_splits_must_be_clear(tmp_path: Path):
    imagefolder(tmp_path, "file_name,target_file_name")
    text(tmp_path / "metadata.csv", "file_name,target_file_name\ntrain/0.png,test/0.png\n")
    assert "images of different splits (train/0.png, test/0.png)" in refused(tmp_path)
    image(tmp_path / "c/0.png", 0)
    text(tmp_path / "metadata.csv", "file_name,target_file_name\nc/0.png,c/0.png\n")
    assert "names images of no split, but other rows name images of test and train" in refused(tmp_path)


def test_parquet_is_refused_with_what_converts_it(tmp_path: Path):
    imagefolder(tmp_path, "file_name,target_file_name")
    (tmp_path / "train/metadata.csv").rename(tmp_path / "train/metadata.parquet")
    assert "read_parquet('" in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metadata.csv", b"file_name,target_file_name\n\xe9.png,b.png\n", "is not text in UTF-8"),
        ("metadata.csv", b"file_name;target_file_name\na.png;b.png\n", "does not separate its columns by commas"),
        ("metadata.jsonl", b'{"file_name": "a.png"', "is not JSON"),
        ("metadata.jsonl", b'["a.png", "b.png"]\n', "one JSON object per row"),
    ],
)
def test_files_that_cannot_be_read_are_named(name: str, content: bytes, sentence: str, tmp_path: Path):
    imagefolder(tmp_path, "file_name,target_file_name")
    (tmp_path / "train/metadata.csv").unlink()
    (tmp_path / "train" / name).write_bytes(content)
    found = refused(tmp_path)
    assert sentence in found and f"train/{name}" in found
    assert "set dataset.layout" in found


def test_two_files_or_other_columns_are_refused(tmp_path: Path):
    imagefolder(tmp_path, "file_name,target_file_name")
    text(tmp_path / "train/metadata.jsonl", {"file_name": "0.png", "target_file_name": "other/x0.png"})
    assert "has several metadata files in train/" in refused(tmp_path)
    (tmp_path / "train/metadata.jsonl").unlink()
    text(tmp_path / "test/metadata.csv", "file_name,mask_file_name\n0.png,other/x0.png\n")
    assert "test/metadata.csv has file_name, mask_file_name; give both the same ones" in refused(tmp_path)


def test_captions_alone_do_not_make_an_imagefolder(tmp_path: Path):
    for folder in ("trainA", "trainB", "testA", "testB"):
        for number in range(2):
            image(tmp_path / folder / f"{number}.png", number)
        text(tmp_path / folder / "metadata.csv", "file_name,text\n0.png,a horse\n")
    assert opened(tmp_path, lambda collection: collection.pairing) == "unpaired"
    assert "has the image column file_name, but pairs need two" in refused(tmp_path, layout="imagefolder")
    assert "holds no Croissant description" in refused(tmp_path, layout="croissant")


def test_a_chosen_layout_ignores_descriptions(tmp_path: Path):
    for folder in ("trainA", "trainB", "testA", "testB"):
        image(tmp_path / folder / "0.png", 1)
    text(tmp_path / "metadata.csv", "\0broken")
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    assert opened(tmp_path, lambda collection: collection.pairing, layout="unpaired") == "unpaired"


# ------------------------------------------------------------------------------------------------------------ Croissant


def field(name: str, source: Any, kind: str = "sc:ImageObject") -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": f"pairs/{name}", "name": name, "dataType": kind, "source": source}


def file_set(name: str, *includes: str, **more: Any) -> dict[str, Any]:
    return {"@type": "cr:FileSet", "@id": name, "encodingFormat": "image/png", "includes": list(includes), **more}


def croissant(*distribution: Any, fields: list[Any] | None = None, **record_set: Any) -> dict[str, Any]:
    fields = fields or [
        field("input", {"fileSet": {"@id": "inputs"}, "extract": {"fileProperty": "content"}}),
        field("target", {"fileSet": {"@id": "targets"}, "extract": {"fileProperty": "content"}}),
    ]
    return {
        "@context": {"@vocab": "https://schema.org/", "cr": "http://mlcommons.org/croissant/"},
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "distribution": list(distribution),
        "recordSet": [{"@type": "cr:RecordSet", "@id": "pairs", "field": fields, **record_set}],
    }


def pairs(folder: Path) -> None:
    for split, grey in (("train", 0), ("test", 50)):
        for number in range(2):
            image(folder / split / f"input/{number}.png", grey + number)
            image(folder / split / f"target/{number}.png", 100 + grey + number)


PAIRS = {
    "train": [("0", {"source": 0, "target": 100}), ("1", {"source": 1, "target": 101})],
    "test": [("0", {"source": 50, "target": 150}), ("1", {"source": 51, "target": 151})],
}

SETS: dict[str, tuple[Any, ...]] = {
    "one pattern": (file_set("inputs", "*/input/*.png"), file_set("targets", "*/target/*.png")),
    "a pattern per split": (
        file_set("inputs", "train/input/*.png", "test/input/*.png"),
        file_set("targets", "train/target/*", "test/target/*"),
    ),
    "any depth": (file_set("inputs", "**/input/?.png"), file_set("targets", "**/target/[0-9].png")),
    "in a repository": (
        {"@type": "cr:FileObject", "@id": "repo", "contentUrl": "https://example.org/data", "sha256": "x"},
        file_set("inputs", "*/input/*.png", containedIn={"@id": "repo"}),
        file_set("targets", "*/target/*.png", containedIn={"@id": "repo"}),
    ),
}


@pytest.mark.parametrize("case", SETS)
def test_two_file_sets_are_paired_by_what_their_patterns_leave_open(case: str, tmp_path: Path):
    pairs(tmp_path)
    text(tmp_path / "croissant.json", croissant(*SETS[case]))
    assert images(tmp_path) == PAIRS
    assert opened(tmp_path, lambda collection: collection.provenance["domains"]) == {"A": "input", "B": "target"}


def test_other_vocabularies_excludes_and_an_archive(tmp_path: Path):
    pairs(tmp_path / "data")
    image(tmp_path / "data/train/input/draft.png", 9)
    sets = (file_set("inputs", "*/input/*.png", excludes="*/draft.png"), file_set("targets", "*/target/*.png"))
    content = (
        json.dumps(croissant(*sets)).replace('"recordSet"', '"cr:recordSet"').replace('"includes"', '"ml:includes"')
    )
    text(tmp_path / "made/about.json", content)
    with zipfile.ZipFile(tmp_path / "made/images.zip", "w") as archive:
        for path in sorted((tmp_path / "data").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "data"))
    assert images(tmp_path / "made", layout="croissant") == PAIRS
    assert "1 image in train/input/: about.json does not name" in refused(tmp_path / "made")


def test_regular_expressions_give_names_and_splits(tmp_path: Path):
    for split, grey in (("train", 0), ("validation", 50)):
        for number in range(2):
            image(tmp_path / f"in/{split}-photo-{number}.png", grey + number)
            image(tmp_path / f"out/{split}-map-{number}.png", 100 + grey + number)
    fields = [
        *croissant()["recordSet"][0]["field"],
        *(
            field(
                name,
                {"fileSet": {"@id": files}, "extract": {"fileProperty": "filename"}, "transform": {"regex": r}},
                "sc:Text",
            )
            for files in ("inputs", "targets")
            for name, r in (("key", r"(\d+)\.png$"), ("split", "^([a-z]+)-"))
        ),
    ]
    text(tmp_path / "c.json", croissant(file_set("inputs", "in/*"), file_set("targets", "out/*"), fields=fields))
    assert images(tmp_path) == PAIRS


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("url", ["rows", "https://example.org/files/rows"])
def test_a_table_of_paths(ending: str, url: str, tmp_path: Path):
    pairs(tmp_path)
    rows = [
        {"in": f"{split}/input/{number}.png", "out": f"{split}/target/{number}.png", "part": split}
        for split in ("train", "test")
        for number in range(2)
    ]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)] if ending == "csv" else map(json.dumps, rows)
    text(tmp_path / f"rows.{ending}", "\n".join(lines))
    fields = [
        field(name, {"fileObject": {"@id": "table"}, "extract": {"column": column}}, kind)
        for name, column, kind in (
            ("input", "in", "sc:ImageObject"),
            ("target", "out", "sc:ImageObject"),
            ("split", "part", "cr:Split"),
        )
    ]
    table = {"@type": "cr:FileObject", "@id": "table", "contentUrl": f"{url}.{ending}"}
    text(tmp_path / "croissant.json", croissant(table, fields=fields))
    found = images(tmp_path)
    assert [value for _, value in found["train"]] == [value for _, value in PAIRS["train"]]
    assert [value for _, value in found["test"]] == [value for _, value in PAIRS["test"]]


def test_records_in_the_description_itself(tmp_path: Path):
    pairs(tmp_path)
    data = [
        {"pairs/input": f"{split}/input/{number}.png", "pairs/target": {"contentUrl": f"{split}/target/{number}.png"}}
        for split in ("train", "test")
        for number in range(2)
    ]
    text(tmp_path / "croissant.json", croissant(fields=[field("input", None), field("target", None)], data=data))
    assert [value for _, value in images(tmp_path)["test"]] == [value for _, value in PAIRS["test"]]


@pytest.mark.parametrize(
    ("distribution", "sentence"),
    [
        ((file_set("inputs", "../*.png"), file_set("targets", "*/target/*")), "which leaves the source"),
        ((file_set("inputs", "/data/*.png"), file_set("targets", "*/target/*")), "which leaves the source"),
        ((file_set("inputs", "https://example.org/*.png"), file_set("targets", "*")), "nothing is downloaded"),
        ((file_set("inputs", "*/input/*"),), "names the file set targets, which distribution does not describe"),
        (
            (file_set("inputs", "*/input/*"), file_set("targets", "*/maps/*")),
            "no such image is there; correct includes",
        ),
        (
            (
                {"@type": "cr:FileObject", "@id": "zip", "contentUrl": "https://example.org/a.zip"},
                file_set("inputs", "*/input/*"),
                file_set("targets", "*/maps/*", containedIn={"@id": "zip"}),
            ),
            "download https://example.org/a.zip yourself",
        ),
        ((file_set("inputs", "*/input/*"), file_set("targets", "*/target/*", "*/input/*")), "the same name 0"),
    ],
)
def test_descriptions_that_do_not_fit_the_files_are_refused(distribution: Any, sentence: str, tmp_path: Path):
    pairs(tmp_path)
    text(tmp_path / "croissant.json", croissant(*distribution))
    found = refused(tmp_path)
    assert sentence in found and "croissant.json" in found


def test_images_without_a_partner_are_named(tmp_path: Path):
    pairs(tmp_path)
    (tmp_path / "train/target/1.png").unlink()
    text(tmp_path / "croissant.json", croissant(*SETS["one pattern"]))
    (lonely,) = opened(tmp_path, lambda collection: collection.without_partner)
    assert lonely.file.endswith("train/input/1.png") and "no partner named '1'" in lonely.reason


def test_a_description_of_something_else_is_no_layout(tmp_path: Path):
    pairs(tmp_path)
    text(tmp_path / "croissant.json", croissant(fields=[field("image", {"fileSet": {"@id": "x"}})]))
    assert opened(tmp_path, lambda collection: collection.provenance["layout"]) == "parallel"
    assert "has no record sets with two fields of images" in refused(tmp_path, layout="croissant")
    text(tmp_path / "second.json", croissant())
    assert "several Croissant descriptions (croissant.json, second.json)" in refused(tmp_path)


def test_other_json_files_are_no_descriptions(tmp_path: Path):
    for folder in ("trainA", "trainB", "testA", "testB"):
        write(tmp_path / "outer" / folder / "0.png", noise(0))
    text(tmp_path / "info.json", {"author": "me"})
    assert opened(tmp_path, lambda collection: collection.pairing) == "unpaired"
