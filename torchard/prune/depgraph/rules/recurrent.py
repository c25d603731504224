"""Recurrent kernels: one call per layer and direction."""

from torchard.prune.depgraph.algebra import peel
from torchard.prune.depgraph.ledger import fixed_dims
from torchard.prune.depgraph.rules.registry import Op, Outcome, rule


@rule("aten.mkldnn_rnn_layer")
def lstm_layer(op: Op) -> Outcome:
    """The fused CPU kernel of one LSTM layer: weights are (4·H, inputs), (4·H, H) and biases 4·H."""
    steps, batch, features = op.dims("input")
    hidden_state, cell_state = op.dims("hx_"), op.dims("cx_")
    hidden = hidden_state[-1]
    kernels = [op.dims(f"weight{place}") for place in range(4)]
    op.same(features, kernels[0][1])
    op.same(hidden, kernels[1][1])
    op.same(hidden, cell_state[-1])
    for dims in kernels:
        gates, units = peel(dims[0], hidden.size)
        op.fix(gates, "gates of a recurrent layer")
        op.same(units, hidden)
    op.ledger.mark(op["weight2"], "bias")
    op.ledger.mark(op["weight3"], "bias")
    op.same(batch, hidden_state[-2])
    op.same(batch, cell_state[-2])
    op.cost(steps, batch, features, kernels[0][0])
    op.cost(steps, batch, hidden, kernels[1][0])
    workspace = None if op.out[3] is None else fixed_dims(op.out[3].shape)
    return [[steps, batch, hidden], hidden_state, cell_state, workspace]
