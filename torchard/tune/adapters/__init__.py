"""The machinery below :mod:`torchard.tune.interface`: sites, containers, hooks, merging, files."""

from torchard.tune.adapters.errors import (
    AdapterMismatchError,
    NothingToSaveError,
    NotMergeableError,
    UnreachableSiteError,
)
from torchard.tune.adapters.site_adapter import SiteAdapter
from torchard.tune.adapters.sites import Site
from torchard.tune.adapters.state import AdapterSpec

__all__ = [
    "AdapterMismatchError",
    "AdapterSpec",
    "NotMergeableError",
    "NothingToSaveError",
    "Site",
    "SiteAdapter",
    "UnreachableSiteError",
]
