"""timm's pre-trained models, fetched from the Hugging Face hub when they are not on this machine yet.

Only safetensors are taken: a model that is offered as a pickle alone is refused by name.
"""

import urllib.error
import urllib.request
from pathlib import Path

import huggingface_hub
import timm
from huggingface_hub import constants
from torch import nn

from torchard.core.errors import UsageError
from torchard.hub.model import HubModel, made_ready, refuse_non_finite, spec_of

WEIGHTS = "model.safetensors"
PROBE_SECONDS = 5.0


def list_timm(pattern: str = "*") -> list[HubModel]:
    """Return timm's pre-trained models with three input channels whose names match the glob ``pattern``.

    No connection is made; a model counts as available once its weights are on this machine.
    """
    names = timm.list_models(pattern, pretrained=True)
    return [describe_timm(name) for name in names if _is_offered(name)]


def describe_timm(name: str) -> HubModel:
    """Return what timm's registry says of the model ``name``, which it must know."""
    cfg = timm.models.get_pretrained_cfg(name)
    assert cfg is not None
    here = bool(_is_offered(name) and _cached(name))
    missing = "not downloaded yet; loading it once online keeps it here"
    return HubModel(
        name=name,
        source="timm",
        params=None,
        input=spec_of(cfg.to_dict()),
        license=cfg.license or "see the model's page",
        description=cfg.hf_hub_id or "",
        available=here,
        why_not="" if here else missing if _is_offered(name) else "timm has no safetensors of it",
    )


def load_timm(name: str, *, num_classes: int | None, pretrained: bool) -> nn.Module:
    """Return timm's model ``name``.

    Raises:
        UsageError: if the weights are neither here nor, within five seconds, reachable.
    """
    if not pretrained:
        return made_ready(timm.create_model(name, pretrained=False), num_classes)
    path = _cached(name) or _fetched(name)
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"timm could not load {name!r} from its weight file: {first}") from None
    refuse_non_finite(model.state_dict(), f"{name} ({path.name})")
    return made_ready(model, num_classes)


def _is_offered(name: str) -> bool:
    """Whether timm has weights for it that we would take, for images of three channels."""
    cfg = timm.models.get_pretrained_cfg(name)
    return bool(cfg and cfg.hf_hub_id and not cfg.custom_load and cfg.input_size[0] == 3)


def _repository(name: str) -> str:
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id or cfg.custom_load:
        raise UsageError(
            f"timm has no pre-trained safetensors for {name!r}. "
            f"`torchard hub list --source timm` shows those it has; near: {', '.join(_near(name)) or 'none'}."
        )
    return cfg.hf_hub_id


def _near(name: str) -> list[str]:
    return timm.list_models(f"{name.split('.')[0]}*", pretrained=True)[:3]


def _cached(name: str) -> Path | None:
    path = huggingface_hub.try_to_load_from_cache(_repository(name), WEIGHTS)
    return Path(path) if isinstance(path, str) else None


def _fetched(name: str) -> Path:
    repository = _repository(name)
    if not _online():
        raise UsageError(
            f"The weights of {name!r} are not on this machine and {constants.ENDPOINT} cannot be reached. "
            "Go online once, or choose a packaged model: `torchard hub list`."
        )
    try:
        return Path(huggingface_hub.hf_hub_download(repository, WEIGHTS))
    except Exception as error:  # the client's transport errors belong to whichever HTTP library it uses
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{repository} could not be fetched as {WEIGHTS}: {first}") from None


def _online() -> bool:
    """One question with a short deadline; the hub's own client would retry for half a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
