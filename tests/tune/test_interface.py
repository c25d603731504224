"""The verbs shared by all methods: what they change, what they leave, what they refuse."""

import copy
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from tests.tune.models import images, make
from torchard.tune import NothingToSaveError, NotMergeableError, SiteAdapter, UnreachableSiteError, ssf
from torchard.tune import interface as tune

FAMILIES = ["vit", "swin", "convnext", "resnet", "efficientnet"]


def attach_random(model: nn.Module, seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return ssf.attach(model, init_std=0.3, **options)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double().eval()


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def hooks(model: nn.Module) -> int:
    tables = ("_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")
    return sum(len(getattr(module, table)) for module in model.modules() for table in tables)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_attach_keeps_base_keys_and_disabled_is_bit_identical(family):
    model, inputs = make(family), images(family)
    expected, before = model(inputs), state(model)
    attach_random(model, sample=inputs)
    assert before.keys() <= model.state_dict().keys()
    model.load_state_dict(before, strict=False)
    with tune.disabled(model):
        assert torch.equal(model(inputs), expected)
    assert not torch.equal(model(inputs), expected)


def test_disabled_gives_the_base_output_also_after_training_and_while_merged():
    model, inputs = small(), torch.randn(5, 4).double()
    with torch.no_grad():
        expected = model(inputs)
    ssf.attach(model)
    for parameter in tune.trainable_parameters(model).values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    with torch.no_grad():
        tuned = model(inputs)
        with tune.disabled(model):
            assert torch.equal(model(inputs), expected)
        assert torch.equal(model(inputs), tuned)
        merged = tune.merge(model)(inputs)
        with tune.disabled(model):
            assert torch.equal(model(inputs), expected)
        assert torch.equal(model(inputs), merged)


@pytest.mark.parametrize("family", FAMILIES)
def test_detach_restores_keys_hooks_and_gradient_flags(family):
    model = make(family)
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 != 0)
    keys, flags, count = list(model.state_dict()), [p.requires_grad for p in model.parameters()], hooks(model)
    attach_random(model)
    tune.detach(model)
    assert list(model.state_dict()) == keys
    assert [p.requires_grad for p in model.parameters()] == flags
    assert hooks(model) == count
    with pytest.raises(NothingToSaveError, match="no adapter is attached"):
        tune.summary(model)


@torch.no_grad()
def test_merge_then_detach_leaves_a_plain_model_with_the_tuned_output():
    model, inputs = make("vit"), images("vit")
    keys = list(model.state_dict())
    expected = attach_random(model)(inputs)
    tune.detach(tune.merge(model))
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(model(inputs), expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_save_and_load_into_a_fresh_model_gives_the_same_bits(tmp_path):
    model, inputs = make("vit"), images("vit")
    attach_random(model)
    model.head.weight.data += 1
    expected = model(inputs)
    folder = tune.save(model, tmp_path / "run")
    fresh = tune.load(make("vit"), folder)
    assert torch.equal(fresh(inputs), expected)
    assert not any(p.requires_grad for p in fresh.parameters())

    trained = sum(p.numel() * p.element_size() for p in tune.trainable_parameters(model).values())
    assert (folder / "adapter.safetensors").stat().st_size <= trained + 16 * 1024
    trainable = tune.load(make("vit"), folder, trainable=True, name="again")
    assert tune.trainable_parameters(trainable).keys() == tune.trainable_parameters(model).keys()
    assert tune.summary(trainable).name == "again"


@torch.no_grad()
def test_deepcopy_and_torch_save_keep_the_output():
    for family in ("vit", "efficientnet"):
        model, inputs = make(family), images(family)
        expected = attach_random(model, sample=inputs)(inputs)
        assert torch.equal(copy.deepcopy(model)(inputs), expected)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        assert torch.equal(loaded(inputs), expected)
        assert tune.summary(loaded) == tune.summary(model)


def test_an_optimiser_on_the_copy_does_not_move_the_original():
    model, inputs = make("efficientnet"), images("efficientnet")
    attach_random(model, sample=inputs)
    twin = copy.deepcopy(model)
    before = state(model)
    optimizer = torch.optim.SGD(tune.parameter_groups(twin, lr=1.0, weight_decay=0.0))
    twin(inputs).square().sum().backward()
    optimizer.step()
    assert same(state(model), before)
    assert not torch.equal(twin(inputs), model(inputs))
    assert all(p.grad is None for p in model.parameters())


@torch.no_grad()
def test_each_of_two_names_acts_alone_and_together_they_compose():
    inputs = torch.randn(5, 4).double()
    alone = {}
    for name, seed in (("a", 1), ("b", 2)):
        alone[name] = attach_random(small(), seed, name=name)(inputs)
    model = attach_random(attach_random(small(), 1, name="a"), 2, name="b")
    assert torch.equal(model(inputs), alone["b"])
    assert torch.equal(tune.activate(model, "a")(inputs), alone["a"])
    assert torch.equal(tune.activate(model, None)(inputs), small()(inputs))
    both = tune.activate(model, ["b", "a"])(inputs)
    torch.testing.assert_close(tune.merge(model)(inputs), both, rtol=1e-10, atol=1e-12)
    tune.detach(tune.unmerge(model), "a")
    assert torch.equal(model(inputs), alone["b"])


@torch.no_grad()
def test_each_name_has_its_own_classifier():
    inputs, model = torch.randn(5, 4).double(), small()
    attach_random(model, 1, name="a")
    model[2].weight.fill_(1.0)
    with_a = model(inputs)
    attach_random(model, 2, name="b")
    assert torch.equal(model[2].weight, small()[2].weight)
    model[2].weight.fill_(2.0)
    assert torch.equal(tune.activate(model, "a")(inputs), with_a)
    assert (tune.activate(model, "b")[2].weight == 2).all()


def test_only_active_trainable_sets_want_gradients():
    model = attach_random(attach_random(small(), 1, name="a"), 2, name="b")
    for active in ("a", "b"):
        tune.activate(model, active)
        wanted = {key for key, p in model.named_parameters() if p.requires_grad}
        assert {key.split(".")[2] for key in wanted if "torchard" in key} == {active}
        assert {"2.weight", "2.bias"} <= wanted
        assert "0.weight" not in wanted


def test_every_trained_parameter_has_a_gradient_after_one_step_under_ddp(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, inputs = make("vit").train(), images("vit")
        attach_random(model)
        parallel = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):  # an unused parameter would be an error in the second forward pass
            parallel(inputs).square().sum().backward()
        assert all(p.grad is not None for p in tune.trainable_parameters(model).values())
    finally:
        torch.distributed.destroy_process_group()


def test_compiled_forward_and_gradients_equal_the_eager_ones(untyped):
    inputs = torch.randn(5, 4).double()
    model = attach_random(small().train())
    model(inputs).square().sum().backward()
    expected = {key: p.grad.clone() for key, p in tune.trainable_parameters(model).items()}
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(inputs).square().sum().backward()
    for key, parameter in tune.trainable_parameters(model).items():
        torch.testing.assert_close(parameter.grad, expected[key])


def test_parameter_groups_decay_matrices_only_and_give_the_head_its_rate():
    model = attach_random(small())
    groups = tune.parameter_groups(model, lr=1.0, weight_decay=0.5, head_lr=2.0)
    found = {(group["lr"], group["weight_decay"]): [p.ndim for p in group["params"]] for group in groups}
    assert found == {(1.0, 0.0): [1, 1, 1, 1], (2.0, 0.5): [2], (2.0, 0.0): [1]}


def test_summary_counts_each_parameter_once_and_prints_shares():
    model = attach_random(small())
    summary = tune.summary(model)
    assert (summary.adapter_params, summary.also_train_params) == (24, 21)
    assert summary.total == 30 + 12 + 21 + 24
    assert summary.to_json()["sites"] == ["0", "1"]
    assert "2 sites, 24 adapter and 21 other trained parameters, 51.72% of 87 (active)" in str(summary)


def test_freeze_base_false_leaves_the_base_trainable():
    model = ssf.attach(small(), freeze_base=False)
    assert all(p.requires_grad for p in model.parameters())


class TestReach:
    """Layers whose weight is read without calling them."""

    @torch.no_grad()
    def test_multihead_attention_is_reached_through_its_weights(self):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        model = nn.Sequential(layer, nn.Linear(8, 3)).double().eval()
        inputs = torch.randn(2, 5, 8).double()
        base, keys = model(inputs), model.state_dict().keys()
        attach_random(model, sample=inputs)
        site = "0.self_attn.out_proj"
        assert site in tune.summary(model).sites
        assert keys <= model.state_dict().keys()
        expected = model(inputs)
        twin = copy.deepcopy(model)
        assert torch.equal(twin(inputs), expected)
        twin.load_state_dict(model.state_dict())

        adapter = model.get_submodule(site).torchard_adapters["default"]
        kept = adapter.shift.clone()
        adapter.shift += 1
        assert not torch.equal(model(inputs), expected)
        adapter.shift.copy_(kept)

        torch.testing.assert_close(tune.merge(model)(inputs), expected, rtol=1e-10, atol=1e-12)
        assert torch.equal(tune.unmerge(model)(inputs), expected)
        tune.detach(model)
        assert torch.equal(model(inputs), base)
        assert model.state_dict().keys() == keys
        assert hooks(model) == 0

    def test_a_stored_set_reaches_them_again(self, tmp_path):
        def model() -> nn.Module:
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
            return nn.Sequential(layer, nn.Linear(8, 3)).double().eval()

        inputs = torch.randn(2, 5, 8).double()
        with torch.no_grad():
            first = attach_random(model(), sample=inputs)
            second = tune.load(model(), tune.save(first, tmp_path))
            assert torch.equal(first(inputs), second(inputs))

    def test_beit_with_its_separate_biases_is_refused_with_the_way_out(self):
        model = timm.create_model("beit_base_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=3)
        keys, flags = list(model.state_dict()), [p.requires_grad for p in model.parameters()]
        sample = torch.randn(1, 3, 32, 32)
        with pytest.raises(UnreachableSiteError, match=r"exclude=\['\*\.attn\.qkv'\]"):
            ssf.attach(model, sample=sample)
        assert list(model.state_dict()) == keys
        assert [p.requires_grad for p in model.parameters()] == flags
        assert hooks(model) == 0
        ssf.attach(model, sample=sample, exclude=["*.attn.qkv"])

    def test_a_layer_that_is_never_run_is_named(self):
        class Idle(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.used, self.idle, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                return self.head(self.used(inputs))

        with pytest.raises(UnreachableSiteError, match="never calls idle, and nobody reads its weight"):
            ssf.attach(Idle(), sample=torch.zeros(1, 4))
        model = ssf.attach(Idle()).train()
        with pytest.warns(UserWarning, match="idle was not run by Idle"):
            model(torch.zeros(1, 4))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(torch.zeros(1, 4))


class TestRefusals:
    """Bad use is told, and nothing is changed."""

    def test_no_match_lists_the_nearest_names(self):
        with pytest.raises(ValueError, match=r"'blocks\.0\.atn' matches nothing.*blocks\.0\.attn"):
            ssf.attach(make("vit"), targets=["blocks.0.atn"])

    def test_excluding_everything_is_refused(self):
        with pytest.raises(ValueError, match="leaves no layer of Sequential"):
            ssf.attach(small(), exclude=["0", "1"])

    def test_an_unsupported_layer_type_is_named(self):
        with pytest.raises(ValueError, match="only modules of type GELU, which cannot be adapted"):
            ssf.attach(make("vit"), targets=["blocks.0.mlp.act"])

    @pytest.mark.parametrize("name", ["a.b", "", "keys"])
    def test_impossible_names(self, name):
        with pytest.raises(ValueError, match="cannot name a module"):
            ssf.attach(small(), name=name)

    def test_the_same_name_twice(self):
        with pytest.raises(ValueError, match="attached already"):
            ssf.attach(ssf.attach(small()))

    def test_attach_after_merge(self):
        model = tune.merge(attach_random(small()))
        with pytest.raises(ValueError, match="merged into this model"):
            ssf.attach(model, name="other")
        with pytest.raises(ValueError, match="merged already"):
            tune.merge(model)
        with pytest.raises(ValueError, match="is merged into this model"):
            tune.activate(model, None)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_merging_what_is_not_finite_changes_nothing(self, value):
        model = attach_random(small())
        model[1].torchard_adapters["default"].scale.data[2] = value
        before = state(model)
        with pytest.raises(NotMergeableError, match="1: the folded weight and bias would hold NaN"):
            tune.merge(model)
        assert before.keys() == model.state_dict().keys()
        assert torch.equal(model[0].weight, before["0.weight"])

    def test_tied_weights(self):
        model = nn.ModuleDict({"table": nn.Embedding(4, 4), "out": nn.Linear(4, 4, bias=False)})
        model["out"].weight = model["table"].weight
        ssf.attach(model, targets=["out"], also_train=None)
        with pytest.raises(NotMergeableError, match=r"out\.weight is shared with table"):
            tune.merge(model)

    def test_parametrised_and_quantised_weights(self):
        normed = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
        ssf.attach(normed)
        with pytest.raises(NotMergeableError, match=r"0\.weight is parametrised"):
            tune.merge(normed)
        quantised = ssf.attach(small())
        quantised[0].weight = nn.Parameter(torch.zeros(6, 4, dtype=torch.int8), requires_grad=False)
        with pytest.raises(NotMergeableError, match=r"0\.weight is quantised"):
            tune.merge(quantised)

    def test_unmerge_without_originals_but_detach_finishes(self):
        model = tune.merge(attach_random(small()), keep_original=False)
        with pytest.raises(ValueError, match="were not kept"):
            tune.unmerge(model)
        with pytest.raises(ValueError, match="were not kept"), tune.disabled(model):
            pass
        tune.detach(model)
        assert list(model.state_dict()) == list(small().state_dict())

    def test_merging_over_an_earlier_active_set(self):
        model = attach_random(attach_random(small(), 1, name="a"), 2, name="b")
        tune.activate(model, ["a", "b"])
        with pytest.raises(ValueError, match="a acts before b"):
            tune.merge(model, "b")
        tune.merge(model, "a")
        with pytest.raises(ValueError, match="one of several while adapters are merged"):
            tune.detach(model, "a")

    def test_no_classifier(self):
        model = timm.create_model("test_vit", num_classes=0)
        with pytest.raises(ValueError, match="also_train=None"):
            ssf.attach(model)
        assert tune.summary(ssf.attach(model, also_train=None)).also_train_params == 0

    def test_unknown_names(self):
        model = attach_random(small())
        with pytest.raises(ValueError, match="'other'"):
            tune.save(model, Path("nowhere"), "other")
        with pytest.raises(ValueError, match="not attached"):
            tune.activate(model, "other")


@dataclass(frozen=True)
class _NoConfig:
    """A method without settings."""


class _Doubled(SiteAdapter):
    def forward(self, output: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return 2 * output


def test_a_method_that_cannot_fold_refuses_to_merge_and_one_without_numbers_to_save(tmp_path):
    from torchard.tune.adapters.install import install
    from torchard.tune.adapters.sites import Site

    spec = tune.AdapterSpec("doubled", 1, _NoConfig, lambda layer, site, config, shared: _Doubled())
    model = install(small(), spec, _NoConfig(), {"0": Site("0", "Linear", 6)}, name="default", also_train=())
    with pytest.raises(NotMergeableError, match="0: _Doubled is not an affine map"):
        tune.merge(model)
    with pytest.raises(NothingToSaveError, match="doubled adds no numbers"):
        tune.save(model, tmp_path)
