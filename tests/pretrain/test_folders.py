"""Which images a folder holds, and the index that remembers them."""

import logging
import os
import shutil
from contextlib import contextmanager

import pytest
from pretrain_helpers import make_folders
from torchvision.datasets import ImageFolder

from pretrain.folders import ImageIndex

LONG_AGO = 10**18  # ns; a folder that changed just now is not yet kept in an index


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("colours"))


@contextmanager
def log_lines():
    """What the pretraining logs meanwhile."""
    lines, handler = [], logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger, level = logging.getLogger("pretrain"), logging.getLogger("pretrain").level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


# --- which images ---------------------------------------------------------------------------------


@pytest.fixture
def odd_tree(tmp_path):
    """Nested, linked, oddly named; ImageFolder does not open a file to list it."""
    root, elsewhere = tmp_path / "odd", tmp_path / "elsewhere" / "deep"
    files = ["b/2.JPEG", "b/10.jpg", "b/x/1.png", "b/x.y/1.webp", "b/x-y/z/3.tiff", "b/notes.txt"]
    files += ["a/Z.bmp", "a/a.ppm", "a/\u00e9.pgm", "a/\U0001f600.jpg", "C d/3.jpg", "1.jpg"]
    for file in [*(root / each for each in files), elsewhere / "far.jpg"]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with open(os.path.join(os.fsencode(root), b"a", b"\xff.jpg"), "wb"):
        pass  # a name that is not UTF-8
    (root / "linked").symlink_to(elsewhere.parent)
    (root / "a" / "inner").symlink_to(elsewhere)
    (root / "a" / "dangling.jpg").symlink_to(root / "nowhere")
    return root


def age(root):
    """Let every folder have changed long ago."""
    for folder in {root, *(path for path in root.rglob("*") if path.is_dir())}:
        os.utime(folder, ns=(LONG_AGO, LONG_AGO))
        for inner in folder.iterdir():
            if inner.is_symlink() and inner.is_dir():
                age(inner)


def samples(images):
    paths = [os.path.join(images.root, os.fsdecode(path)) for path in images.paths]
    return list(zip(paths, images.labels.tolist(), strict=True))


def test_hidden_files_are_passed_over_and_other_endings_named(odd_tree):
    """macOS' ._x.jpg stopped the first epoch, and .ipynb_checkpoints was a class."""
    before = ImageIndex("").images(odd_tree)
    for name in ("a/._Z.bmp", "b/x/.1.png", ".ipynb_checkpoints/1.jpg", "b/.cache/1.jpg"):
        (odd_tree / name).parent.mkdir(exist_ok=True)
        (odd_tree / name).touch()
    (odd_tree / "b" / "x" / "moving.GIF").touch()
    (odd_tree / "a" / "README").touch()
    with log_lines() as lines:
        after = ImageIndex("").images(odd_tree)
    assert after.classes == before.classes
    assert samples(after) == samples(before)
    (line,) = [line for line in lines if line.startswith(f"passed over in {odd_tree}: ")]
    for part in (
        "4 hidden (first: .ipynb_checkpoints)",
        "1 outside the class folders (first: 1.jpg)",
        "1 with the ending .gif (first: b/x/moving.GIF)",
        "1 with the ending .txt (first: b/notes.txt)",
        "1 without an ending (first: a/README)",
    ):
        assert part in line


def test_links_that_lead_back_are_not_followed(odd_tree):
    """Each image once; two such links in one folder would make 2^40 of its images."""
    before = ImageIndex("").images(odd_tree)
    for name in ("b/x/back", "b/x/again"):
        (odd_tree / name).symlink_to(odd_tree / "b")
    with log_lines() as lines:
        after = ImageIndex("").images(odd_tree)
    assert samples(after) == samples(before)
    assert any("2 links to a folder that they are in (first: b/x/" in line for line in lines)


def test_images_order_and_labels_are_those_of_image_folder(odd_tree, tmp_path):
    theirs = ImageFolder(odd_tree)
    age(odd_tree)
    index = ImageIndex(tmp_path / "index")
    for images in (index.images(odd_tree), index.images(odd_tree)):  # scanned, then from the index
        assert images.classes == theirs.classes
        assert samples(images) == theirs.samples
    assert len(list((tmp_path / "index").iterdir())) == 1


def scans(index, root):
    """Whether going through the folders was needed; and the images are right anyhow."""
    with log_lines() as lines:
        images = index.images(root)
    assert samples(images) == ImageFolder(root, allow_empty=True).samples
    if not lines:
        return False
    assert f"scanning {root}" in lines[0] and str(len(images.paths)) in lines[1]
    return True


def test_an_unchanged_tree_is_not_gone_through_again(odd_tree, tmp_path):
    def noticed_once(folder, seconds):
        """As if the folder had changed so long after LONG_AGO."""
        os.utime(folder, ns=(LONG_AGO, LONG_AGO + seconds * 10**9))
        return scans(index, odd_tree) and not scans(index, odd_tree)

    index = ImageIndex(tmp_path / "index")
    age(odd_tree)
    assert scans(index, odd_tree)
    assert not scans(index, odd_tree) and not scans(ImageIndex(tmp_path / "index"), odd_tree)
    inner = odd_tree / "b" / "x-y" / "z"
    linked = odd_tree / "linked" / "deep"
    (inner / "new.jpg").touch()
    assert noticed_once(inner, 1)
    (inner / "new.jpg").unlink()
    assert noticed_once(inner, 2)
    (linked / "new.jpg").touch()
    assert noticed_once(linked, 1)
    (odd_tree / "b").rename(odd_tree / "bb")
    assert noticed_once(odd_tree, 1)
    shutil.rmtree(odd_tree / "bb")
    assert noticed_once(odd_tree, 2)


def test_a_tree_that_may_still_be_changing_is_not_kept(odd_tree, tmp_path):
    index = ImageIndex(tmp_path / "index")
    age(odd_tree)
    (odd_tree / "b" / "x" / "new.jpg").touch()
    assert scans(index, odd_tree) and scans(index, odd_tree)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "spoil",
    [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"x" * len(whole)],
)
def test_a_broken_index_is_written_anew(odd_tree, tmp_path, spoil):
    index = ImageIndex(tmp_path / "index")
    age(odd_tree)
    index.images(odd_tree)
    (file,) = (tmp_path / "index").iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    assert scans(index, odd_tree) and not scans(index, odd_tree)


def test_trees_do_not_share_an_index(odd_tree, tmp_path):
    index, other = ImageIndex(tmp_path / "index"), tmp_path / "other"
    (other / "a").mkdir(parents=True)
    (other / "a" / "1.jpg").touch()
    for root in (odd_tree, other):
        age(root)
        assert scans(index, root)
    assert not scans(index, odd_tree) and not scans(index, other)


def test_where_no_index_can_be_written_one_warning_says_so(odd_tree, tmp_path):
    (tmp_path / "file").touch()
    age(odd_tree)
    index = ImageIndex(tmp_path / "file" / "index")
    with log_lines() as lines:
        assert len(index.images(odd_tree).paths) == len(index.images(odd_tree).paths) > 0
    warned = [line for line in lines if "DATA.INDEX_DIR" in line]
    assert len(warned) == 1 and str(tmp_path / "file" / "index") in warned[0]
    assert scans(ImageIndex(""), odd_tree)
