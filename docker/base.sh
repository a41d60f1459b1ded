#!/bin/sh
# Makes a base image from Debian's packages, for machines without access to an image registry: `base.sh IMAGE [SUITE]`.
# Needs root, debootstrap and a Docker engine.
set -eu
image=$1
suite=${2:-bookworm}
docker=${DOCKER:-docker}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$folder" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
rm -rf "$folder"/var/cache/apt/* "$folder"/var/lib/apt/lists/* "$folder"/var/log/* "$folder"/usr/share/doc/* "$folder"/usr/share/man/*
tar --create --directory "$folder" --exclude=./dev/* --exclude=./proc/* --exclude=./sys/* . |
    $docker import --change 'CMD ["python3"]' - "$image"
