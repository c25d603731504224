import json

import pytest
import torch
from PIL import Image

from tests.export.models import CLASSES, SPEC
from torchard.core.data import preprocess
from torchard.core.errors import ExportMismatchError, UsageError
from torchard.core.pixels import open_image
from torchard.export import program
from torchard.export.program import export_pt2


def test_the_loaded_program_answers_as_the_model_for_any_batch(exported, tmp_path):
    report = export_pt2(exported.model, tmp_path / "m.pt2", spec=SPEC, classes=CLASSES, images=exported.files)
    extra = {"torchard.json": ""}
    loaded = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    inputs = torch.stack([torch.from_numpy(preprocess(open_image(file), SPEC)) for file in exported.files])
    with torch.inference_mode():
        for batch in (1, 2, 7):
            torch.testing.assert_close(
                loaded(inputs[:batch]), exported.model(inputs[:batch]), atol=1e-5, rtol=0
            )
    assert json.loads(json.loads(extra["torchard.json"])["classes"]) == list(CLASSES)
    assert report.images == len(exported.files)


def test_nothing_of_this_machine_is_in_the_file(exported, tmp_path):
    export_pt2(exported.model, tmp_path / "m.pt2", spec=SPEC, classes=CLASSES, images=exported.files[:1])
    assert b"site-packages" not in (tmp_path / "m.pt2").read_bytes()


def test_another_answer_is_a_mismatch_and_the_file_is_kept_apart(exported, tmp_path, monkeypatch):
    right = program.exportable
    monkeypatch.setattr(
        program, "exportable", lambda model: torch.nn.Sequential(right(model), torch.nn.Softplus())
    )
    with pytest.raises(ExportMismatchError, match=r"m\.pt2\.rejected"):
        export_pt2(exported.model, tmp_path / "m.pt2", spec=SPEC, classes=CLASSES, images=exported.files[:2])
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt2.rejected"]


def test_no_images_no_export(exported, tmp_path):
    with pytest.raises(UsageError, match="`images` is empty"):
        export_pt2(exported.model, tmp_path / "m.pt2", spec=SPEC, classes=CLASSES, images=[])


def test_what_cannot_be_traced_is_told_in_one_line(tmp_path):
    class Branches(torch.nn.Module):
        def forward(self, images):
            answer = images.flatten(1)[:, :3]
            return answer if answer.sum() > 0 else -answer

    with pytest.raises(RuntimeError, match=r"Branches cannot be exported by torch\.export") as caught:
        export_pt2(
            Branches(), tmp_path / "m.pt2", spec=SPEC, classes=CLASSES, images=[Image.new("RGB", (9, 9))]
        )
    assert "\n" not in str(caught.value)
