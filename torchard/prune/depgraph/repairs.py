"""Bring the integers of standard modules in line with their new weights."""

from collections.abc import Callable
from typing import Any

from torch import nn

from torchard.prune.depgraph.decision import Plan


def repair_modules(model: nn.Module, plan: Plan) -> None:
    """Set the integers the code uses, then those standard modules keep about their parameters."""
    for path, attribute, place, value in plan.attributes:
        _set_integer(model.get_submodule(path), attribute, place, value)
    for name, module in model.named_modules():
        for kind, repair in _REPAIRS:
            if isinstance(module, kind):
                repair(name, module, plan)
                break


def _set_integer(module: nn.Module, attribute: str, place: int | None, value: int) -> None:
    if place is None:
        setattr(module, attribute, value)
        return
    held = vars(module)[attribute]
    items = [*held[:place], value, *held[place + 1 :]]
    setattr(module, attribute, items if isinstance(held, list) else tuple(items))


def _linear(_name: str, module: Any, _plan: Plan) -> None:
    module.out_features, module.in_features = module.weight.shape


def _convolution(name: str, module: Any, plan: Plan) -> None:
    module.groups = plan.conv_groups.get(f"{name}.weight" if name else "weight", module.groups)
    first, second = module.weight.shape[:2]
    if getattr(module, "transposed", False):
        module.in_channels, module.out_channels = first, second * module.groups
    else:
        module.out_channels, module.in_channels = first, second * module.groups


def _batch_norm(_name: str, module: Any, _plan: Plan) -> None:
    for tensor in (module.weight, module.running_mean):
        if tensor is not None:
            module.num_features = tensor.shape[0]


def _layer_norm(_name: str, module: Any, _plan: Plan) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _group_norm(_name: str, module: Any, _plan: Plan) -> None:
    if module.weight is not None:
        module.num_channels = module.weight.shape[0]


def _embedding(_name: str, module: Any, _plan: Plan) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _prelu(_name: str, module: Any, _plan: Plan) -> None:
    module.num_parameters = module.weight.shape[0]


def _bilinear(_name: str, module: Any, _plan: Plan) -> None:
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


def _recurrent(_name: str, module: Any, _plan: Plan) -> None:
    hidden = module.weight_hh_l0.shape[0] // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    module.input_size, module.hidden_size = module.weight_ih_l0.shape[1], hidden
    if module.proj_size:
        module.proj_size = module.weight_hr_l0.shape[0]


def _recurrent_cell(_name: str, module: Any, _plan: Plan) -> None:
    gates = module.weight_hh.shape[0] // module.weight_hh.shape[1]
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[0] // gates


def _attention(_name: str, module: Any, _plan: Plan) -> None:
    out = module.out_proj.weight
    module.embed_dim = out.shape[0]
    module.head_dim = module.embed_dim // module.num_heads
    if module.in_proj_weight is not None:
        module.kdim = module.vdim = module.embed_dim
    else:
        module.kdim, module.vdim = module.k_proj_weight.shape[1], module.v_proj_weight.shape[1]


_REPAIRS: tuple[tuple[type[nn.Module], Callable[[str, Any, Plan], None]], ...] = (
    (nn.Linear, _linear),
    (nn.modules.conv._ConvNd, _convolution),
    (nn.modules.batchnorm._NormBase, _batch_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.Embedding, _embedding),
    (nn.EmbeddingBag, _embedding),
    (nn.PReLU, _prelu),
    (nn.Bilinear, _bilinear),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _recurrent_cell),
    (nn.MultiheadAttention, _attention),
)
