"""Settings of the dataset stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.catlib.config.sections import Count, Section, Size


class DatasetConfig(Section):
    """What the dataset stage reads and how it packs it."""

    source: str = Field(
        default="builtin:relief-to-satellite",
        description="a folder or an archive (.zip, .tar, .tar.gz): a path, https://, s3:// or minio:// address; the "
        "name of a known dataset: horse2zebra, apple2orange, summer2winter_yosemite, monet2photo, facades, maps, "
        "edges2shoes, edges2handbags, cityscapes; or built-in data: builtin:relief-to-satellite, "
        "builtin:satellite-to-relief, builtin:climate-to-satellite, builtin:satellite-to-relief-unpaired",
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="expected digest of the source, when that is a single archive",
    )
    layout: Literal["auto", "combined", "parallel", "unpaired", "single", "cityscapes"] = Field(
        default="auto",
        description="combined: A|B side by side in train/ test/; parallel: folders A and B with equal names; "
        "unpaired: trainA trainB testA testB; single: one folder; cityscapes: gtFine/ and leftImg8bit/ as distributed, "
        "photos are A and maps B; auto: recognised from the folders",
    )
    direction: Literal["AtoB", "BtoA"] = Field(default="AtoB", description="which domain is the source (input)")
    load_size: Size = Field(default=(286, 286), description="training images are packed at this height, width")
    crop_size: Size = Field(default=(256, 256), description="training crops and evaluation images: height, width")
    prepared_size: Size | None = Field(
        default=None,
        description="pictures only: resize to this height, width before anything else, as published datasets of "
        "smaller pictures were made (Cityscapes for pix2pix: 256)",
    )
    num_labels: int | None = Field(default=None, ge=1, le=255, description="label maps only: number of classes")
    dont_care_plane: bool = Field(
        default=False,
        description="label maps only: pixels labelled 255 (no class) get a plane of their own instead of zeros",
    )
    test_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="share of images held out when the source has no test or val split"
    )
    max_images: Count | None = Field(default=None, description="keep at most this many images per split (first ones)")
    on_error: Literal["fail", "skip"] = Field(
        default="fail",
        description="what to do with images that cannot be read, lack a partner or differ from it in size",
    )

    @model_validator(mode="after")
    def _check(self) -> DatasetConfig:
        if self.load_size[0] < self.crop_size[0] or self.load_size[1] < self.crop_size[1]:
            raise ValueError(f"load_size {self.load_size} must be at least crop_size {self.crop_size}")
        if self.prepared_size is not None and self.num_labels is not None:
            raise ValueError("prepared_size is for pictures; label maps (num_labels) are resized once, remove it")
        return self
