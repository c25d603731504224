import os
from pathlib import Path

import pytest

from torchard.core.data.walk import notes, printable, walk
from torchard.core.errors import UsageError


def names(root: Path) -> list[str]:
    return ["/".join(place) for place, _ in walk(root).files]


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")


def test_image_files_are_found_at_any_depth_in_order(tmp_path):
    touch(tmp_path, "b/2.png", "b/1.JPG", "a/deep/er/3.tiff", "top.webp")
    assert names(tmp_path) == ["a/deep/er/3.tiff", "b/1.JPG", "b/2.png", "top.webp"]
    assert ("a", "deep") in walk(tmp_path).folders


def test_hidden_and_system_entries_are_ignored_and_counted(tmp_path):
    touch(tmp_path, "a/1.png", ".git/x.png", "a/.ipynb_checkpoints/1.png", "__MACOSX/a/1.png", "a/Thumbs.db")
    touch(tmp_path, "a/.DS_Store", "a/._1.png", "a/desktop.ini")
    found = walk(tmp_path)
    assert [path.name for _, path in found.files] == ["1.png"]
    assert notes(found) == ["Hidden or system files and folders, ignored: 7."]


def test_files_without_an_image_suffix_are_ignored_and_counted(tmp_path):
    touch(tmp_path, "a/1.png", "a/readme.txt", "a/noext", "a/data.npz")
    assert notes(walk(tmp_path)) == ["Files without an image suffix, ignored: 3."]


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    touch(outside, "secret.png")
    touch(root, "a/1.png")
    (root / "a" / "out.png").symlink_to(outside / "secret.png")
    (root / "b").symlink_to(outside)
    (root / "a" / "broken.png").symlink_to(root / "nothing.png")
    found = walk(root)
    assert ["/".join(place) for place, _ in found.files] == ["a/1.png"]
    assert all(root in path.parents for _, path in found.files)
    assert notes(found) == [
        "Links that lead out of the folder, to another folder or nowhere, not followed: 3."
    ]


def test_a_folder_beside_whose_name_begins_alike_is_outside(tmp_path):
    touch(tmp_path, "root/a/1.png", "rootless/2.png")
    (tmp_path / "root" / "a" / "2.png").symlink_to(tmp_path / "rootless" / "2.png")
    assert names(tmp_path / "root") == ["a/1.png"]


def test_link_loops_end(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "self.png").symlink_to(tmp_path / "a" / "self.png")
    assert names(tmp_path) == ["a/1.png"]


def test_a_link_to_a_file_inside_gives_the_real_file(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "a" / "2.png").symlink_to("1.png")
    assert {path for _, path in walk(tmp_path).files} == {tmp_path / "a" / "1.png"}
    assert names(tmp_path) == ["a/1.png", "a/2.png"]


def test_the_root_itself_may_be_a_link(tmp_path):
    touch(tmp_path, "real/a/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(tmp_path / "link") == ["a/1.png"]


def test_pipes_are_no_images(tmp_path):
    touch(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a" / "2.png")
    assert names(tmp_path) == ["a/1.png"]


@pytest.mark.parametrize(
    "name", ["a\nb", "'\"", "<script>", "[red]", "🍎", "-rf", " ", "x" * 251, "a\\b", "{{7*7}}"], ids=ascii
)
def test_strange_names_are_kept(tmp_path, name):
    touch(tmp_path, f"{name[:200]}/{name}.png")
    assert names(tmp_path) == [f"{name[:200]}/{name}.png"]


def test_a_name_that_is_no_utf8_can_be_read_and_written_down(tmp_path):
    raw = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    with open(raw, "wb") as file:
        file.write(b"x")
    ((place, path),) = walk(tmp_path).files
    assert path.read_bytes() == b"x"
    assert printable(place[0]) == "caf\\xe9.png"
    printable(place[0]).encode("utf-8")


def test_missing_folders_and_files_are_refused(tmp_path):
    touch(tmp_path, "file.png")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UsageError, match="does not exist"):
        walk(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is no folder"):
        walk(tmp_path / "file.png")
    with pytest.raises(UsageError, match="cannot be read"):
        walk(tmp_path / "loop")
    with pytest.raises(UsageError, match="cannot be read"):
        walk(tmp_path / ("x" * 300))


def test_an_unreadable_folder_is_refused_by_name(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png")

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        walk(tmp_path)
