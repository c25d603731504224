"""Extracting features leaves the model as it was and equals a forward pass by hand."""

import pytest
import timm
import torch
from torch import nn

from torchard.core.features import extract, penultimate, stream, to_vectors


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(16, 5),
    )


def batches(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 8, 8, generator=generator) for size in sizes]


def test_default_is_what_the_classifier_sees(net):
    images = batches(4, 4, 3)
    features = extract(net, images)
    assert features.shape == (11, 16)
    torch.testing.assert_close(net.eval()[5](features), net(torch.cat(images)))


def test_timm_models_use_their_own_head():
    model = timm.create_model("resnet10t", num_classes=7).eval()
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.fc(extract(model, [image])), model(image))
    torch.testing.assert_close(penultimate(model, image), extract(model, [image]))


def test_any_layer_pooled_to_vectors_without_running_the_rest(net):
    ran = []
    net[5].register_forward_hook(lambda *_: ran.append(1))
    image = batches(2)
    features = extract(net, image, layer="1")
    assert not ran
    torch.testing.assert_close(features, net.eval()[:2](image[0]).mean(dim=(2, 3)))
    assert extract(net, image, layer="1", pool=lambda maps: maps.flatten(1)).shape == (2, 4 * 36)


@pytest.mark.parametrize("sizes", [(3, 3, 3), (4, 4, 1), (1, 5, 9, 2)], ids=str)
@pytest.mark.parametrize("sized", [True, False])
def test_batch_split_does_not_matter(net, sizes, sized):
    images = batches(*sizes)
    given = images if sized else iter(images)
    torch.testing.assert_close(extract(net, given), extract(net, torch.cat(images)))


def test_batches_may_be_tuples_or_carry_inputs(net):
    class Batch:
        def __init__(self, inputs):
            self.inputs = inputs

    (image,) = batches(3)
    expected = extract(net, [image])
    torch.testing.assert_close(extract(net, [(image, torch.zeros(3))]), expected)
    torch.testing.assert_close(extract(net, [Batch(image)]), expected)


def test_model_is_left_as_it_was(net):
    net.train()
    net[4].eval()
    net[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    extract(net, batches(2, 2))
    extract(net, batches(2), layer="0")
    assert net.training
    assert net[1].training
    assert not net[4].training
    assert not net[0].weight.requires_grad
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("layer", [None, "5"])
def test_flags_and_hooks_are_restored_after_an_error(net, layer):
    net.train()
    with pytest.raises(RuntimeError):
        extract(net, [torch.randn(2, 1, 8, 8)], layer=layer)
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_gradients_are_off_inside_and_on_between_batches(net):
    for output in stream(net, batches(1, 1)):
        assert not output.requires_grad
        assert torch.is_grad_enabled()
        assert net.training
    weight = torch.zeros(16, 2, requires_grad=True)
    (extract(net, batches(2)) @ weight).sum().backward()  # an inference tensor would refuse here
    assert weight.grad is not None


def test_tokens_are_averaged():
    tokens = torch.randn(2, 5, 3)
    torch.testing.assert_close(to_vectors(tokens), tokens.mean(1))


def test_bad_calls(net):
    with pytest.raises(ValueError, match="empty"):
        extract(net, [])
    with pytest.raises(ValueError, match="Nearest names"):
        extract(net, batches(1), layer="block")


def test_a_layer_that_forward_never_reaches_is_an_error(net):
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = net, nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match="never reached"):
        extract(Lazy(), batches(1), layer="unused")
