# Both flavours for both architectures, with REGISTRY=… in the environment:
#   IMAGE=$(python3 -m components.image) docker buildx bake --file docker/bake.hcl --push
# A single image for this machine: `make docker-image`.
variable "IMAGE" {
  default = ""
  validation {
    condition     = IMAGE != ""
    error_message = "Set IMAGE to what `python3 -m components.image` prints."
  }
}
variable "REGISTRY" { default = "" }
variable "VERSION" { default = "0.2.0" }
variable "REVISION" { default = "unknown" }
variable "BASE_IMAGE" { default = "python:3.11-slim-bookworm" }
variable "TORCH_INDEX" { default = "" }

group "default" { targets = ["cpu", "cuda"] }

target "image" {
  context    = "."
  dockerfile = "docker/Dockerfile"
  platforms  = ["linux/amd64", "linux/arm64"]
  args = {
    BASE_IMAGE = BASE_IMAGE
    VERSION    = VERSION
    REVISION   = REVISION
  }
  attest = ["type=provenance,mode=max", "type=sbom"]
}

target "cpu" {
  inherits = ["image"]
  args     = { FLAVOUR = "cpu", TORCH_INDEX = TORCH_INDEX }
  tags     = ["${REGISTRY}${IMAGE}", "${REGISTRY}cat-pipeline:${VERSION}"]
}

target "cuda" {
  inherits = ["image"]
  args     = { FLAVOUR = "cuda" }
  tags     = ["${REGISTRY}${IMAGE}-cuda", "${REGISTRY}cat-pipeline:${VERSION}-cuda"]
}
