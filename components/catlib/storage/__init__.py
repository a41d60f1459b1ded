"""Files elsewhere, by address: artifacts in an object store, files of the web; nothing else uses the network.

`Storage` takes every kind of address. Below it, a `Store` holds named files, each whole or absent: a folder or
`s3://bucket/prefix` (`minio://` means the same). Requests that fail for a passing reason are repeated.
"""

from components.catlib.storage.addresses import Location, is_web, shown
from components.catlib.storage.places import is_in_object_store, is_remote, open_store
from components.catlib.storage.settings import StoreSettings
from components.catlib.storage.storage import Storage, local_artifact, local_copy
from components.catlib.storage.store import Entry, NotThere, Store

__all__ = [
    "Entry",
    "Location",
    "NotThere",
    "Storage",
    "Store",
    "StoreSettings",
    "is_in_object_store",
    "is_remote",
    "is_web",
    "local_artifact",
    "local_copy",
    "open_store",
    "shown",
]
