"""The verbs that every parameter-efficient method shares: merge, detach, save and the rest.

A method attaches adapters (``ssf.attach(model)``); from then on these functions serve, whichever method it
was. Each method module hands them on (``ssf.merge(model)``), and they are at hand together as
``from torchard.tune import interface as tune; tune.merge(model)``.

The model stays the object it was: an adapter is a child of the layer it serves, so the keys of the base
``state_dict`` never change, and its output passes through a forward hook. A plain checkpoint still loads with
``strict=False``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from torchard.tune.adapters.errors import (
    AdapterMismatchError,
    NothingToSaveError,
    NotMergeableError,
    UnreachableSiteError,
)
from torchard.tune.adapters.files import copy_into_adapter, read_adapter, write_adapter
from torchard.tune.adapters.install import install, uninstall
from torchard.tune.adapters.merging import commit_merge, plan_merge, restore
from torchard.tune.adapters.site_adapter import SiteAdapter
from torchard.tune.adapters.state import (
    AdapterSpec,
    Merged,
    adapter_parameters,
    names_of,
    require_name,
    require_tuning,
    synchronise,
)
from torchard.tune.adapters.through_weights import adapt_through_weights, is_through_weights

__all__ = [
    "AdapterMismatchError",
    "AdapterSpec",
    "NotMergeableError",
    "NothingToSaveError",
    "SiteAdapter",
    "TuneSummary",
    "UnreachableSiteError",
    "activate",
    "detach",
    "disabled",
    "load",
    "merge",
    "parameter_groups",
    "save",
    "summary",
    "trainable_parameters",
    "unmerge",
]


@dataclass(frozen=True)
class TuneSummary:
    """What is attached to a model; each parameter is counted once."""

    method: str
    name: str
    sites: tuple[str, ...]
    adapter_params: int
    also_train_params: int
    total: int
    merged: bool
    active: bool

    def __str__(self) -> str:
        trained = self.adapter_params + self.also_train_params
        state = "merged" if self.merged else "active" if self.active else "inactive"
        return (
            f"{self.method} {self.name!r}: {len(self.sites)} sites, {self.adapter_params:,} adapter and "
            f"{self.also_train_params:,} other trained parameters, {trained / self.total:.2%} of "
            f"{self.total:,} ({state})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the same facts as plain JSON values."""
        return {**asdict(self), "sites": list(self.sites)}


def trainable_parameters(model: nn.Module, name: str | None = None) -> dict[str, nn.Parameter]:
    """Return what is trained, by name: the adapters' parameters, then those trained beside them.

    Without ``name``: those of all active sets. Sets loaded without ``trainable=True`` have none.
    """
    tuning = require_tuning(model)
    named = tuning.active if name is None else (require_name(model, name),)
    names = [one for one in named if tuning.attachments[one].trainable]
    adapters = {
        (key if len(names) == 1 else f"{one}:{key}"): parameter
        for one in names
        for key, parameter in adapter_parameters(model, one).items()
    }
    parameters = dict(model.named_parameters())
    beside = {key: parameters[key] for one in names for key in tuning.attachments[one].also_train}
    return {**adapters, **beside}


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, head_lr: float | None = None
) -> list[dict[str, Any]]:
    """Return optimiser groups: matrices with weight decay, vectors without, the classifier at ``head_lr``."""
    tuning = require_tuning(model)
    beside = {key for name in tuning.active for key in tuning.attachments[name].also_train}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for key, parameter in trainable_parameters(model).items():
        rate = head_lr if head_lr is not None and key in beside else lr
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def summary(model: nn.Module, name: str | None = None) -> TuneSummary:
    """Return what is attached under ``name``, which may be left out where there is only one set."""
    tuning = require_tuning(model)
    name = require_name(model, name)
    attachment = tuning.attachments[name]
    parameters = dict(model.named_parameters())
    return TuneSummary(
        method=attachment.method,
        name=name,
        sites=tuple(attachment.sites),
        adapter_params=sum(p.numel() for p in adapter_parameters(model, name).values()),
        also_train_params=sum(parameters[key].numel() for key in attachment.also_train),
        total=sum(p.numel() for p in parameters.values()),
        merged=tuning.merged is not None and name in tuning.merged.names,
        active=name in tuning.active,
    )


def merge(
    model: nn.Module, name: str | Sequence[str] | None = None, *, keep_original: bool = True
) -> nn.Module:
    """Fold adapters (default: all active) into the weights of their layers, in place, and return the model.

    Everything is computed and checked before anything is written. ``keep_original`` keeps copies of the
    touched tensors, so that :func:`unmerge` restores them bit for bit.

    Raises:
        NotMergeableError: naming layer and reason; nothing was changed.
        ValueError: if adapters are merged already, or an active one would then act before a merged one.
    """
    tuning = require_tuning(model)
    names = names_of(model, name)
    if tuning.merged is not None:
        raise ValueError(f"{', '.join(tuning.merged.names)} is merged already; `unmerge` first.")
    early = [other for other in tuning.active if other not in names and _before(tuning.active, other, names)]
    if not names or early:
        reason = f"{', '.join(early)} acts before {', '.join(names)}" if early else "no adapter is active"
        raise ValueError(f"cannot merge: {reason}. Use `activate` to choose what to merge.")
    originals = commit_merge(model, plan_merge(model, names), keep=keep_original)
    tuning.merged = Merged(names, originals)
    synchronise(model)
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Put the original weights back, bit for bit, in place; the adapters act through their hooks again.

    Raises:
        ValueError: if nothing is merged, or the originals were not kept.
    """
    tuning = require_tuning(model)
    if tuning.merged is None:
        raise ValueError("nothing is merged into this model.")
    restore(model, _originals(tuning.merged))
    tuning.merged = None
    synchronise(model)
    return model


def detach(model: nn.Module, name: str | None = None) -> nn.Module:
    """Take adapters out (default: all), with their containers and hooks, and return the model.

    With the last set the gradient flags return to what they were. Parameters trained beside the adapters keep
    their values. After :func:`merge` the folded weights stay: what remains is the plain architecture.

    Raises:
        ValueError: if only some of the sets are named while adapters are merged.
    """
    tuning = require_tuning(model)
    names = list(tuning.attachments) if name is None else [require_name(model, name)]
    if tuning.merged is not None and len(names) < len(tuning.attachments):
        raise ValueError("cannot detach one of several while adapters are merged; `unmerge` first.")
    for one in names:
        uninstall(model, one)
    return model


@contextmanager
def disabled(model: nn.Module, name: str | None = None) -> Iterator[nn.Module]:
    """Give the base model's exact output within a ``with`` block: no adapters, and the untrained classifier.

    With ``name`` only that set is switched off.

    Raises:
        ValueError: if it is merged and the originals were not kept.
    """
    tuning = require_tuning(model)
    names = tuple(tuning.attachments) if name is None else (require_name(model, name),)
    merged, before = tuning.merged, tuning.disabled
    if merged is not None and set(names) & set(merged.names):
        _originals(merged)
        unmerge(model)
    else:
        merged = None
    tuning.disabled = (*before, *names)
    synchronise(model)
    try:
        yield model
    finally:
        tuning.disabled = before
        synchronise(model)
        if merged is not None:
            merge(model, merged.names)


def activate(model: nn.Module, name: str | Sequence[str] | None) -> nn.Module:
    """Let these sets act, in the order they were attached, and no others; ``None`` switches all off.

    The values of parameters trained beside the adapters change with them: each set has its own classifier. Of
    several active ones, the last decides.

    Raises:
        ValueError: if a name is not attached, or adapters are merged.
    """
    tuning = require_tuning(model)
    if tuning.merged is not None:
        raise ValueError(f"{', '.join(tuning.merged.names)} is merged into this model; `unmerge` first.")
    tuning.active = () if name is None else names_of(model, name)
    synchronise(model)
    return model


def save(model: nn.Module, path: Path | str, name: str | None = None) -> Path:
    """Write one set into the folder ``path`` and return the folder.

    ``adapter.safetensors`` and ``adapter.json`` hold the adapters and what was trained beside them, and
    nothing of the base model.

    Raises:
        NothingToSaveError: if nothing is attached.
    """
    return write_adapter(model, Path(path), require_name(model, name))


def load(
    model: nn.Module,
    path: Path | str,
    *,
    name: str | None = None,
    trainable: bool = False,
    strict: bool = True,
) -> nn.Module:
    """Attach the set stored in ``path`` to ``model``, in place, as the active one, and return the model.

    ``name`` renames it. With ``strict=False`` layers that the model lacks are passed over.

    Raises:
        AdapterMismatchError: if it does not fit; the model is as it was.
        ValueError: if the name is attached already.
    """
    stored = read_adapter(model, Path(path), strict=strict)
    name = name or stored.name
    missing = [key for key in stored.also_train if key not in dict(model.named_parameters())]
    if missing:
        raise AdapterMismatchError(f"{path} also holds {', '.join(missing[:10])}, which the model lacks.")
    install(
        model,
        stored.spec,
        stored.config,
        stored.sites,
        name=name,
        also_train=stored.also_train,
        trainable=trainable,
        check_reach=False,
    )
    try:
        copy_into_adapter(model, name, stored.tensors)
    except AdapterMismatchError:
        uninstall(model, name)
        raise
    for path_ in stored.through_weights:
        if not is_through_weights(model.get_submodule(path_)):
            adapt_through_weights(model.get_submodule(path_))
    return model


def _before(active: Sequence[str], other: str, names: Sequence[str]) -> bool:
    return any(active.index(other) < active.index(name) for name in names if name in active)


def _originals(merged: Merged) -> dict[str, dict[str, Any]]:
    if merged.originals is None:
        raise ValueError("the original weights were not kept (`merge(..., keep_original=False)`).")
    return merged.originals
