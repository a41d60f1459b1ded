"""The settings of the dataset stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from components.catlib.config.sections import Address, Count, Section, Size

DatasetDirection = Literal["AtoB", "BtoA"]
"""Which of the domains A and B is translated into the other."""

LayoutName = Literal["auto", "combined", "parallel", "unpaired", "single", "cityscapes", "imagefolder", "croissant"]
"""How the images of a source are arranged; auto: as it looks."""


PictureRole = Literal["source", "target"]
"""What a picture is to a generator: its input, or what it should make of it."""

LARGEST_VALUES = {"uint8": 255, "uint16": 65535}
"""The largest value of each type of whole numbers."""


class ValuesConfig(Section):
    """What the numbers in images mean, where they are more than 8-bit colours."""

    type: Literal["uint8", "uint16", "float32"] = Field(
        default="uint16", description="type of the packed numbers; files may hold other types if no number changes"
    )
    channels: Annotated[int, Field(ge=1, le=16)] = Field(default=1, description="number of channels of each image")
    range: tuple[float, float] = Field(
        description="lowest and highest value, which networks see as -1 and 1; files with values outside are refused; "
        "without it, all values of uint8 or uint16 (12-bit cameras: [0, 4095])"
    )

    @model_validator(mode="before")
    @classmethod
    def _whole_range(cls, settings: Any) -> Any:
        """Fills in the range of whole numbers."""
        if not isinstance(settings, Mapping) or settings.get("range") is not None:
            return settings
        largest = LARGEST_VALUES.get(settings.get("type", "uint16"))
        return settings if largest is None else {**settings, "range": (0, largest)}

    @model_validator(mode="after")
    def _check(self) -> ValuesConfig:
        low, high = self.range
        if low >= high:
            raise ValueError(f"range [{low:g}, {high:g}] must begin with its lowest value and end with its highest")
        largest = LARGEST_VALUES.get(self.type)
        if largest is not None and not (low.is_integer() and high.is_integer() and low >= 0 and high <= largest):
            raise ValueError(f"range [{low:g}, {high:g}] must be whole numbers within 0 … {largest}, or type float32")
        return self


RGB = ValuesConfig(type="uint8", channels=3, range=(0, 255))
"""The numbers of packed 8-bit colours."""


class DatasetConfig(Section):
    """The images that the dataset stage reads, and how it packs them."""

    moved: ClassVar[dict[str, str]] = {"white_point": "source_values.range"}

    source: Address = Field(
        default="builtin:relief-to-satellite",
        description="where the images are: the path or the https://, s3:// or minio:// address of a folder or an "
        "archive (.zip, .tar, .tar.gz); the name of a known dataset: horse2zebra, apple2orange, "
        "summer2winter_yosemite, monet2photo, facades, maps, edges2shoes, edges2handbags, cityscapes; or built-in "
        "data: builtin:relief-to-satellite, builtin:satellite-to-relief, builtin:relief-to-pastel, "
        "builtin:satellite-to-pastel, builtin:climate-to-satellite, builtin:satellite-to-relief-unpaired",
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="expected SHA-256 of the source; only for a source that is a single archive",
    )
    layout: LayoutName = Field(
        default="auto",
        description="how the images are arranged; auto: recognise it from the folders; combined: A and B side by side "
        "in each image, in train/ and test/; parallel: folders A and B, partners have equal names; unpaired: folders "
        "trainA, trainB, testA, testB; single: one folder; cityscapes: gtFine/ and leftImg8bit/ as distributed, photos "
        "are A and maps are B; imagefolder: metadata.csv or metadata.jsonl names the partners, as in Hugging Face's "
        "imagefolder; croissant: a Croissant description (JSON-LD) names them",
    )
    direction: DatasetDirection = Field(
        default="AtoB", description="direction of translation; AtoB: A is the source (input), B the target"
    )
    load_size: Size = Field(
        default=(286, 286), description="height and width of packed training images, from which crops are cut"
    )
    crop_size: Size = Field(default=(256, 256), description="height and width of training crops and evaluation images")
    prepared_size: Size | None = Field(
        default=None,
        description="pictures only: height and width to resize to before anything else, for data that was published "
        "at a smaller size (Cityscapes for pix2pix: 256)",
    )
    num_labels: int | None = Field(default=None, ge=1, le=255, description="label maps only: number of classes")
    dont_care_plane: bool = Field(
        default=False,
        description="label maps only: whether pixels labelled 255 (no class) get a plane of their own instead of zeros",
    )
    source_values: ValuesConfig | None = Field(
        default=None,
        description="source images (input) in TIFF, PNG or .npy files, packed without loss; null: read as 8-bit RGB",
    )
    target_values: ValuesConfig | None = Field(
        default=None,
        description="target images (output) in TIFF, PNG or .npy files, packed without loss; null: read as 8-bit RGB",
    )
    test_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="share of images to hold out if the source has no test or val split"
    )
    max_images: Count | None = Field(
        default=None, description="largest number of images per split; the first ones are kept"
    )
    on_error: Literal["fail", "skip"] = Field(
        default="fail",
        description="what to do if images cannot be read, lack a partner or differ in size from it; fail: stop with an "
        "error; skip: leave these images out",
    )

    @model_validator(mode="after")
    def _check(self) -> DatasetConfig:
        if self.load_size[0] < self.crop_size[0] or self.load_size[1] < self.crop_size[1]:
            raise ValueError(
                f"load_size {self.load_size} must be at least crop_size {self.crop_size}; "
                "raise load_size or lower crop_size"
            )
        if self.prepared_size is not None and self.num_labels is not None:
            raise ValueError(
                "prepared_size is for pictures, but num_labels declares label maps, which are resized only once; "
                "remove prepared_size"
            )
        if self.source_values is not None and self.num_labels is not None:
            raise ValueError(
                "source_values describes source images, but num_labels declares that these are label maps; remove one"
            )
        return self

    @property
    def values(self) -> dict[PictureRole, ValuesConfig]:
        """What the packed numbers of source and target pictures mean; label maps are no pictures."""
        target = self.target_values or RGB
        return {"target": target} if self.num_labels else {"source": self.source_values or RGB, "target": target}

    @property
    def channels(self) -> dict[Literal["in_channels", "out_channels"], int]:
        """Channels of pictures that a generator reads and makes; those of label maps follow from the data."""
        return {
            "in_channels": (self.source_values or RGB).channels,
            "out_channels": (self.target_values or RGB).channels,
        }
