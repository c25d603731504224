"""Remove channels, hidden units and head dimensions of any network, whatever its layers (DepGraph)."""

from torchard.core.method import Method
from torchard.prune.depgraph.cutting import MaskHandle, apply, mask
from torchard.prune.depgraph.decision import Plan, merge, plan_for
from torchard.prune.depgraph.graph import DimGraph, Group, Member
from torchard.prune.depgraph.importance import activation, fisher, hessian, random_scores, score
from torchard.prune.depgraph.iterative import IterativePruner, prune
from torchard.prune.depgraph.reconstruction import reconstruct_
from torchard.prune.depgraph.rehearsal import rehearse
from torchard.prune.depgraph.replay import Verification, verify
from torchard.prune.depgraph.report import PruneReport
from torchard.prune.depgraph.rules.registry import rule
from torchard.prune.depgraph.selection import StaleSizeError, UnprunableError, plan
from torchard.prune.depgraph.sparsity import GroupSparsity, group_sparsity_
from torchard.prune.depgraph.store import Origin, load_pruned, save_pruned
from torchard.prune.depgraph.target import Target, UnreachableTargetError
from torchard.prune.depgraph.tracer import trace

METHOD = Method(
    shapes=("transform",),
    source="Fang et al., CVPR 2023, arXiv 2301.12900; Fang et al., ECCV 2024, arXiv 2407.04616",
    claim="Any network pruned in one call; ResNet-56 on CIFAR-10 keeps 93.8 % at 2.1x fewer MACs.",
)

__all__ = [
    "METHOD",
    "DimGraph",
    "Group",
    "GroupSparsity",
    "IterativePruner",
    "MaskHandle",
    "Member",
    "Origin",
    "Plan",
    "PruneReport",
    "StaleSizeError",
    "Target",
    "UnprunableError",
    "UnreachableTargetError",
    "Verification",
    "activation",
    "apply",
    "fisher",
    "group_sparsity_",
    "hessian",
    "load_pruned",
    "mask",
    "merge",
    "plan",
    "plan_for",
    "prune",
    "random_scores",
    "reconstruct_",
    "rehearse",
    "rule",
    "save_pruned",
    "score",
    "trace",
    "verify",
]
