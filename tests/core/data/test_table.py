from pathlib import Path

import pytest

from torchard.core.data import load_task
from torchard.core.data.table import MAX_LINE, load_table, read_rows
from torchard.core.errors import DataError, UsageError


@pytest.fixture
def images(make_folder) -> Path:
    return make_folder({"img": 16})


def write(root: Path, text: str | bytes, *, name: str = "labels.csv") -> Path:
    file = root / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return file


def lines(count: int = 16, *, head: str = "path,label", more: str = "") -> str:
    return head + "\n" + "".join(f"img/{row:03d}.png,{'ab'[row % 2]}{more}\n" for row in range(count))


def test_paths_and_labels_become_a_task(images):
    task = load_task(str(write(images, lines())))
    assert task.classes == ("a", "b")
    assert sum(map(len, task.splits.values())) == 16
    assert all("ab"[split.targets[0]] == "ab"[int(split.names[0][4:7]) % 2] for split in task.splits.values())
    assert task.train.groups is None


def test_groups_and_splits_are_taken_over(images):
    text = "label,split,path,group,extra\n" + "".join(
        f"{'ab'[row % 2]},{part},img/{row:03d}.png,{'xy'[row // 8]},?\n"
        for row, part in enumerate(["train", "VAL", "test", "train"][row // 4] for row in range(16))
    )
    task = load_table(write(images, text))
    assert task.summary()["counts"]["validation"] == {"a": 2, "b": 2}
    assert task.summary()["groups"]["train"] == {"x": 4, "y": 4}
    assert task.test.groups == ("y",) * 4


@pytest.mark.parametrize(
    "text",
    [
        lines().encode("utf-8-sig"),
        lines().replace(",", ";"),
        lines().replace("\n", "\r\n"),
        lines(head=" Path , LABEL "),
        lines() + "\n\n",
        "path,label\n" + "".join(f'"img/{row:03d}.png","{"ab"[row % 2]}"\n' for row in range(16)),
    ],
    ids=["BOM", "semicolons", "CRLF", "head in capitals", "blank lines", "quotes"],
)
def test_the_forms_spreadsheets_write_are_read(images, text):
    rows = read_rows(write(images, text), images)
    assert [(row.path, row.label) for row in rows] == [
        (f"img/{row:03d}.png", "ab"[row % 2]) for row in range(16)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; the first line must name"),
        ("path,class\n", "row 1: column label is missing; the head names 'path', 'class'"),
        ("file,label\n", "row 1: column path is missing"),
        ("path,label,label\n", "row 1: column label is named twice"),
        ("path,label\nimg/000.png,a\nimg/000.png,b\n", "row 3: 'img/000.png' is listed already in row 2"),
        ("path,label\nimg/000.png,a\nimg//000.png,a\n", "row 3: .* is listed already in row 2"),
        ("path,label\nimg/000.png,\n", "row 2: the label is missing"),
        ("path,label\nimg/000.png,NaN\n", "row 2: the label is missing"),
        ("path,label\nimg/000.png,<NA>\n", "row 2: the label is missing"),
        ("path,label\n,a\n", "row 2: the path is missing"),
        ("path,label\n/etc/passwd,a\n", "row 2: '/etc/passwd' is absolute"),
        ("path,label\nC:\\x.png,a\n", "row 2: .* is absolute"),
        ("path,label\n\\\\host\\x.png,a\n", "row 2: .* is absolute"),
        ("path,label\n../x.png,a\n", r"row 2: '../x.png' has '\.\.'"),
        ("path,label\nimg/../../x.png,a\n", r"row 2: .* has '\.\.'"),
        ("path,label\n..\\x.png,a\n", r"row 2: .* has '\.\.'"),
        ("path,label\nhttp://host/x.png,a\n", "row 2: 'http://host/x.png' is a URL; download"),
        ("path,label\nfile:///etc/x.png,a\n", "row 2: .* is a URL"),
        ("path,label\ns3://b/x.png,a\n", "row 2: .* is a URL"),
        ("path,label\nimg/out.png,a\n", "row 2: .* leads out of"),
        ("path,label\nimg/000.png\n", "row 2: 1 values where the head names 2"),
        ("path,label\nimg/000.png,a,b\n", "row 2: 3 values where the head names 2"),
        (
            "path,label,split\nimg/000.png,a,dev\n",
            "row 2: split 'dev' is unknown; choose train, validation or test",
        ),
        ("path,label,split\nimg/000.png,a,\n", "row 2: split '' is unknown"),
        ("path,label\n\nimg/000.png,\n", "row 3: the label is missing"),
        ('path,label\nimg/000.png,"a\n', "row 2: unexpected end of data"),
        (b"path,label\nimg/000.png,caf\xe9\n", "row 2: the text is no UTF-8"),
        ("path,label\nimg/000.png,a".encode("utf-16"), "row 1: the text is no UTF-8"),
        (b"path,label\nimg/\0.png,a\n", "row 2: the text holds a zero byte"),
        (b"path,label\nimg/000.png," + b"a" * MAX_LINE, "row 2: the line is longer than 65,536 bytes"),
        (b'path,label\nimg/000.png,"' + b"a\n" * 100_000, "row .*: field larger than field limit"),
    ],
)
def test_a_wrong_row_is_told_by_its_number(images, text, message):
    (images / "img" / "out.png").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match=message) as caught:
        read_rows(write(images, text), images)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_huge_line_is_not_held_in_memory(images):
    file = images / "labels.csv"
    with open(file, "wb") as stream:
        stream.write(b"path,label\n")
        stream.truncate(1 << 30)  # a gigabyte of zeros in one line, sparse on disk
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(DataError, match="row 2: the line is longer"):
        load_table(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_missing_image_is_left_out_by_name(images):
    text = lines() + "img/999.png,a\n"
    assert load_table(write(images, text)).excluded == (("img/999.png", "missing file"),)


def test_paths_start_from_root_if_given(images, tmp_path):
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    file = write(elsewhere, lines())
    assert sum(map(len, load_task(str(file), root=images).splits.values())) == 16
    with pytest.raises(DataError, match="16 of 16 images cannot be used: 16 missing file"):
        load_task(str(file))


def test_a_missing_table_or_root_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_task(str(tmp_path / "no.csv"))
    with pytest.raises(UsageError, match="is no folder"):
        load_task(str(write(tmp_path, lines())), root=tmp_path / "nowhere")
