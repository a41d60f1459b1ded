"""Connections to servers, with time limits and trusted certificates."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from components.catlib.storage.parallel import PARALLEL

if TYPE_CHECKING:
    from urllib3 import PoolManager


def connections(ca_file: str | None) -> PoolManager:
    """Returns a pool of connections with time limits, which repeats nothing.

    Args:
        ca_file: Certificates to trust instead of the usual ones.
    """
    import certifi
    import urllib3

    logging.getLogger("urllib3").setLevel(logging.WARNING)  # it logs where redirects lead, with tokens and signatures
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=10, read=60),
        maxsize=4 * PARALLEL,
        retries=False,  # `retrying` repeats requests, with a time limit and a log line
        cert_reqs="CERT_REQUIRED",
        ca_certs=ca_file or certifi.where(),
    )
