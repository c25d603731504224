"""How much faster is a model with half its channels? Five networks, eager and ONNX Runtime, one run.

Random weights: time does not depend on them. Widths are kept at multiples of 8. About a minute on two idle
cores; on a busy machine the numbers mean nothing, though each pair is timed in turn.

Expected: a speed-up, smaller than the reduction of operations.
"""

import argparse
import io
import warnings
from typing import Any

import onnxruntime
import timm
import torch
from torch import Tensor, nn

from experiments import record
from torchard.cli.console import Column
from torchard.core.budget import compare_latency
from torchard.prune.depgraph import apply, plan, trace

CLAIM = "Half the channels, in multiples of 8, make every network faster in PyTorch and in ONNX Runtime."
MODELS = ("resnet50", "mobilenetv2_100", "tf_efficientnet_lite0", "vit_small_patch16_224", "convnext_tiny")
COLUMNS = [
    Column("model"),
    Column("macs", "MACs", "×", digits=2),
    Column("eager_before", "eager before", "ms", digits=1),
    Column("eager_after", "eager after", "ms", digits=1),
    Column("eager", "faster", "×", digits=2),
    Column("onnx_before", "ONNX before", "ms", digits=1),
    Column("onnx_after", "ONNX after", "ms", digits=1),
    Column("onnx", "faster", "×", digits=2),
]


def main() -> None:
    """Time every model before and after, print the table and write ``results/depgraph_latency.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--results", default="results/depgraph_latency.json")
    options = parser.parse_args()
    rows = [timed(name, options.size, options.repeats) for name in options.models]
    slowest = min(min(row["eager"], row["onnx"]) for row in rows)
    held = "Held" if slowest > 1 else "Not held"
    verdict = f"{held}: the least speed-up is {slowest:.2f}."
    record.save(options.results, rows, COLUMNS, claim=CLAIM, verdict=verdict)


def timed(name: str, size: int, repeats: int) -> dict[str, Any]:
    """Prune one model and time both, in turn."""
    torch.manual_seed(0)
    before = timm.create_model(name, num_classes=10).eval()
    if not name.startswith("vit"):
        before = before.to(memory_format=torch.channels_last)
    example = torch.randn(1, 3, size, size)
    chosen = plan(trace(before, example), ratio=0.5, round_to=8)
    after = apply(before, chosen, inplace=False).model.eval()
    eager = compare_latency(before, after, example, repeats=repeats)
    sessions = [Session(model, example) for model in (before, after)]
    onnx = compare_latency(sessions[0], sessions[1], example, repeats=repeats)
    return {
        "model": name,
        "macs": chosen.macs[0] / chosen.macs[1],
        "eager_before": eager.before.median_ms,
        "eager_after": eager.after.median_ms,
        "eager": eager.speedup,
        "onnx_before": onnx.before.median_ms,
        "onnx_after": onnx.after.median_ms,
        "onnx": onnx.speedup,
    }


class Session:
    """A model in ONNX Runtime, with as many threads as torch has."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(model, (example,), dynamo=True, verbose=False)
        assert program is not None
        program.save(file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Two sessions take turns: threads of the one must not spin while the other is timed.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(file.getvalue(), options)
        self.name = self.session.get_inputs()[0].name

    def __call__(self, images: Tensor) -> Any:
        return self.session.run(None, {self.name: images.contiguous().numpy()})


if __name__ == "__main__":
    main()
