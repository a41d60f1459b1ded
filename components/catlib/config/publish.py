"""Settings of publishing: where versions of a student go, in which layout, and under which licence."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from components.catlib.config.sections import Section

Layout = Literal["files", "triton", "huggingface", "oci"]

PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,94}[A-Za-z0-9])?$")]
"""A name that is the same in a path, a file of settings and a registry: no slash, space, quote or line end."""


class PublishConfig(Section):
    """Versions of the students for people who use them. No other stage sees these settings."""

    to: str | None = Field(
        default=None,
        min_length=1,
        description="folder or s3://BUCKET/NAME to which the last task of a pipeline adds every student, as a version "
        "of its own: TO/VERSION; null: nothing is published",
    )
    name: PlainName | None = Field(
        default=None,
        description="name of the model, of letters, digits, dots, hyphens and underscores; null: the last part of the "
        "address to which it is published",
    )
    version: PlainName | None = Field(
        default=None,
        description="version, of the same characters; of several students each gets its budget added: 1.0-0.1x; null: "
        "the beginning of the SHA-256 of the content",
    )
    layout: Layout = Field(
        default="files",
        description="files: model card, ONNX, safetensors and the facts about them; triton: a model repository of "
        "Triton and KServe; huggingface: a repository of the Hugging Face Hub; oci: an OCI image layout with a "
        "ModelPack artifact, for registries",
    )
    licence: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.+ ()-]{0,99}$",
        description="licence of the weights, an SPDX identifier such as Apache-2.0; null: none is stated",
    )

    @property
    def model_name(self) -> str | None:
        """The model's name; None if neither it nor an address is given."""
        return self.name or (self.to and PurePosixPath(self.to.partition("://")[2] or self.to).name)

    @model_validator(mode="after")
    def _check(self) -> PublishConfig:
        if self.to is None:
            return self
        scheme, separator, _ = self.to.partition("://")
        if separator and scheme not in ("s3", "minio"):
            raise ValueError(f"to is {self.to}, which cannot be written to; give a folder or s3://BUCKET/NAME")
        try:
            _PLAIN.validate_python(self.model_name)
        except ValidationError:
            raise ValueError(
                f"the last part of to, {self.model_name!r}, cannot name a model; set publish.name, of letters, digits, "
                "dots, hyphens and underscores"
            ) from None
        return self


_PLAIN = TypeAdapter(PlainName)
