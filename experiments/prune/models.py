"""The zoo: architectures with random weights and an example input, by name.

Nothing is downloaded. Models of optional packages (transformers, diffusers, torch_geometric) are listed only
where those are installed.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from experiments.prune import patterns
from experiments.prune.subject import Subject

Build = Callable[[], Subject]

TIMM = [
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "seresnet50",
    "ecaresnet26t",
    "resnetv2_50",
    "resnet26d",
    "skresnet18",
    "densenet121",
    "vgg11_bn",
    "vgg11",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "efficientnetv2_rw_t",
    "mnasnet_100",
    "mixnet_s",
    "fbnetc_100",
    "spnasnet_100",
    "tinynet_e",
    "lcnet_050",
    "hardcorenas_a",
    "ghostnet_100",
    "ghostnetv2_100",
    "regnetx_002",
    "regnety_002",
    "regnetz_b16",
    "rexnet_100",
    "res2net50_26w_4s",
    "resnest14d",
    "repvgg_a0",
    "mobileone_s0",
    "gernet_s",
    "cspresnet50",
    "cspdarknet53",
    "cs3darknet_focus_s",
    "dla34",
    "dpn48b",
    "hrnet_w18_small",
    "inception_v3",
    "inception_v4",
    "inception_resnet_v2",
    "xception41",
    "legacy_xception",
    "legacy_seresnet18",
    "selecsls42",
    "tresnet_m",
    "ese_vovnet19b_slim",
    "vovnet39a",
    "convnext_atto",
    "convnextv2_atto",
    "convmixer_768_32",
    "nfnet_f0",
    "eca_nfnet_l0",
    "nf_regnet_b0",
    "hgnet_tiny",
    "hgnetv2_b0",
    "bat_resnext26ts",
    "botnet26t_256",
    "halonet26t",
    "lambda_resnet26t",
    "gcresnext26ts",
    "vit_tiny_patch16_224",
    "vit_small_patch32_224",
    "deit_tiny_distilled_patch16_224",
    "deit3_small_patch16_224",
    "vit_relpos_small_patch16_224",
    "vit_small_r26_s32_224",
    "beit_base_patch16_224",
    "cait_xxs24_224",
    "xcit_nano_12_p16_224",
    "eva02_tiny_patch14_224",
    "vit_base_patch16_siglip_224",
    "test_vit",
    "tnt_s_patch16_224",
    "crossvit_tiny_240",
    "pit_ti_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "swinv2_cr_tiny_224",
    "twins_svt_small",
    "twins_pcpvt_small",
    "nest_tiny",
    "coat_lite_tiny",
    "coat_tiny",
    "convit_tiny",
    "levit_128s",
    "visformer_tiny",
    "volo_d1_224",
    "pvt_v2_b0",
    "mvitv2_tiny",
    "davit_tiny",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientvit_b0",
    "efficientvit_m0",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gcvit_xxtiny",
    "hiera_tiny_224",
    "inception_next_atto",
    "caformer_s18",
    "poolformerv2_s12",
    "maxvit_tiny_tf_224",
    "coatnet_nano_rw_224",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "nextvit_small",
    "repvit_m0_9",
    "repghostnet_050",
    "rdnet_tiny",
    "sequencer2d_s",
    "starnet_s1",
    "fasternet_t0",
    "shvit_s1",
    "swiftformer_xs",
    "tiny_vit_5m_224",
    "mambaout_femto",
    "mixer_s32_224",
    "gmlp_ti16_224",
    "resmlp_12_224",
    "gmixer_12_224",
    "naflexvit_base_patch16_gap",
    "vitamin_small_224",
    "samvit_base_patch16_224",
    "mobilenetv4_conv_small",
    "mobilenetv4_hybrid_medium",
]

TORCHVISION = [
    "alexnet",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "efficientnet_v2_s",
    "regnet_y_400mf",
    "swin_t",
    "swin_v2_t",
    "vit_b_32",
    "maxvit_t",
    "convnext_tiny",
    "resnext50_32x4d",
    "densenet169",
    "inception_v3",
]

SEGMENTATION = (
    "fcn_resnet50",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
    "deeplabv3_resnet50",
)


def zoo() -> dict[str, Build]:
    """Return every subject by name, not yet built."""
    subjects: dict[str, Build] = {f"timm/{name}": _timm(name) for name in TIMM}
    subjects |= {f"torchvision/{name}": _torchvision(name) for name in TORCHVISION}
    subjects |= {f"torchvision/{name}": _segmentation(name) for name in SEGMENTATION}
    subjects |= {f"torchvision/{name}": _detection(name) for name in DETECTION}
    subjects |= {f"pattern/{name}": _pattern(build) for name, build in patterns.PATTERNS.items()}
    if _installed("transformers"):
        from experiments.prune import language

        subjects |= {f"transformers/{name}": build for name, build in language.MODELS.items()}
    if _installed("diffusers"):
        from experiments.prune import diffusion

        subjects |= {f"diffusers/{name}": build for name, build in diffusion.MODELS.items()}
    if _installed("torch_geometric"):
        from experiments.prune import graphs

        subjects |= {f"geometric/{name}": build for name, build in graphs.MODELS.items()}
    return subjects


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _timm(name: str) -> Build:
    def build() -> Subject:
        model = timm.create_model(name, pretrained=False, num_classes=5)
        channels, height, width = model.pretrained_cfg["input_size"]
        small = not model.pretrained_cfg.get("fixed_input_size") and "inception" not in name
        size = (128, 128) if small and name not in _WHOLE else (height, width)
        return Subject(model, torch.randn(1, channels, *size))

    return build


# Windows, position tables or strides of these need the size they were made for.
_WHOLE = {
    "botnet26t_256", "halonet26t", "lambda_resnet26t", "bat_resnext26ts", "nest_tiny", "volo_d1_224",
    "mobilevit_xxs", "mobilevitv2_050", "nextvit_small", "samvit_base_patch16_224", "davit_tiny",
    "focalnet_tiny_srf", "coat_tiny", "naflexvit_base_patch16_gap", "efficientvit_b0", "gcvit_xxtiny",
    "mvitv2_tiny", "swinv2_cr_tiny_224", "levit_128s", "tiny_vit_5m_224", "maxvit_tiny_tf_224",
}  # fmt: skip


def _torchvision(name: str) -> Build:
    def build() -> Subject:
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(name, weights=None, num_classes=5, **extra)
        size = {"inception_v3": 299, "alexnet": 224, "vit_b_32": 224, "maxvit_t": 224}.get(name, 128)
        return Subject(model, torch.randn(1, 3, size, size))

    return build


def _segmentation(name: str) -> Build:
    def build() -> Subject:
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5)
        return Subject(model, torch.randn(1, 3, 96, 96))

    return build


DETECTION = ("retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large")


def _detection(name: str) -> Build:
    """Detectors by their raw head outputs: boxes after suppression cannot be compared."""

    def build() -> Subject:
        model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5)
        return Subject(RawHeads(model), torch.randn(1, 3, 128, 128))

    return build


class RawHeads(nn.Module):
    """Backbone and head of a detector, without anchors and suppression."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.head(list(self.backbone(images).values()))


def _pattern(build: Callable[[], tuple[nn.Module, Any]]) -> Build:
    return lambda: Subject(*build())
