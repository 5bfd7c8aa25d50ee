"""Lists the images in class folders, and keeps the lists in an index.

On a network file system, listing a million files takes minutes. The index stores their names with
the modification time of every folder, which changes whenever a file is added or removed.
"""

import hashlib
import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from randwire_det.errors import UserError
from randwire_det.run.files import replace_file

logger = logging.getLogger("pretrain")

# Two changes within one tick of the file system's clock have the same modification time.
SETTLED_NS = 2 * 10**9
KINDS_NAMED = 10  # kinds of passed-over files that are counted separately
LAYOUT = "2"  # version of the index file's layout


class ImageList(NamedTuple):
    """The images of `root`/<class>/, in the order of torchvision's ImageFolder.

    Unlike in ImageFolder, hidden files and folders are left out: macOS adds a "._x.jpg" that is no
    image to every x.jpg that it copies, and Jupyter a folder that is no class.

    Attributes:
        root: the folder of the class folders.
        classes: their names, sorted; a label is an index into this list.
        paths: of the images, relative to `root`: one array of bytes (n,), because reference counts
            make every worker process copy a list of strings.
        labels: int64 (n,).
    """

    root: str
    classes: list[str]
    paths: np.ndarray
    labels: np.ndarray


class ImageIndex:
    """Image lists, stored as one file each in `folder`; "" stores none."""

    def __init__(self, folder: str | Path):
        self.folder = None
        if str(folder):
            try:
                self.folder = Path(folder).expanduser()
            except RuntimeError:  # there is no home directory
                self._go_without(folder)

    def images(self, root: str | Path) -> ImageList:
        """The images of `scan`, read from the index if no folder has changed since.

        Raises:
            UserError: a folder cannot be read.
        """
        known = self._read(str(root))
        if known is not None:
            return known
        logger.info(f"scanning {root}")
        start = time.time_ns()
        passed_over = {}
        images, times = scan(root, passed_over)
        logger.info(f"scanned  {root}: {len(images.paths)} images, {len(images.classes)} classes")
        if passed_over:
            parts = (f"{n} {kind} (first: {path})" for kind, (n, path) in passed_over.items())
            logger.warning(f"passed over in {root}: {'; '.join(parts)}")
        if max(times.values()) <= start - SETTLED_NS:
            self._write(images, times)
        return images

    def _file(self, root: str) -> Path:
        key = "\n".join([LAYOUT, *IMG_EXTENSIONS, os.path.abspath(root)])
        return self.folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.npz"

    def _read(self, root: str) -> ImageList | None:
        if self.folder is None:
            return None
        try:
            with np.load(self._file(root), allow_pickle=False) as file:
                kept = dict(file)
            for folder, time_ns in zip(kept["folders"], kept["times"].tolist(), strict=True):
                if os.stat(os.path.join(os.fsencode(root), folder)).st_mtime_ns != time_ns:
                    return None
            classes = [os.fsdecode(name) for name in kept["classes"]]
            return ImageList(root, classes, kept["paths"], kept["labels"])
        except Exception:  # a missing file or folder, or whatever numpy raises for damaged files
            return None

    def _write(self, images: ImageList, times: dict[str, int]) -> None:
        if self.folder is None:
            return
        arrays = {
            "classes": _bytes(images.classes),
            "paths": images.paths,
            "labels": images.labels,
            "folders": _bytes(list(times)),
            "times": np.array(list(times.values()), np.int64),
        }
        try:
            replace_file(self._file(images.root), lambda file: np.savez(file, **arrays))
        except UserError:
            self._go_without(self.folder)

    def _go_without(self, folder: str | Path) -> None:
        self.folder = None
        logger.warning(
            f"DATA.INDEX_DIR {folder} cannot be written to: every start will list all images"
        )


def scan(
    root: str | Path, passed_over: dict[str, tuple[int, str]]
) -> tuple[ImageList, dict[str, int]]:
    """The images of `root`, and the modification time (ns) of every folder, relative to `root`.

    Links are followed, except to a folder that contains them. Classes without images are included.

    Args:
        passed_over: is filled with {kind: (number, path of the first)} of the files passed over.

    Raises:
        UserError: a folder cannot be read.
    """
    root, times = str(root), {}
    try:
        classes, loose = _enter(root, "", times, passed_over)
        classes.sort()
        for name in sorted(loose):
            _count(passed_over, "outside the class folders", name)
        paths, counts, logged = [_bytes([])], [], time.monotonic()
        for name in classes:
            found, pending = {}, [(name, {_identity(root)})]
            while pending:
                folder, parents = pending.pop()
                identity = _identity(os.path.join(root, folder))
                if identity in parents:  # following the link would never end
                    _count(passed_over, "links to a folder that they are in", folder)
                    continue
                inner, files = _enter(root, folder, times, passed_over)
                found[folder] = sorted(files)
                pending += [(f"{folder}/{each}", parents | {identity}) for each in inner]
            here = [f"{folder}/{file}" for folder in sorted(found) for file in found[folder]]
            paths.append(_bytes(here))
            counts.append(len(here))
            if time.monotonic() > logged + 10:
                logger.info(f"scanning {root}: {sum(counts)} images so far")
                logged = time.monotonic()
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    labels = np.repeat(np.arange(len(classes)), np.array(counts, np.int64))
    return ImageList(root, classes, np.concatenate(paths), labels), times


def loose_images(root: str | Path) -> int:
    """The number of images in `root` itself, outside any class folder."""
    return len(_enter(str(root), "", {}, {})[1])


def _enter(
    root: str, folder: str, times: dict[str, int], passed_over: dict[str, tuple[int, str]]
) -> tuple[list[str], list[str]]:
    """The names of folders and images in `folder`; adds its modification time to `times`."""
    path = os.path.join(root, folder)
    # Before listing, so that the index notices a change made meanwhile.
    times[folder] = os.stat(path).st_mtime_ns
    folders, images = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                _count(passed_over, "hidden", os.path.join(folder, entry.name))
            elif _is_folder(entry):
                folders.append(entry.name)
            elif has_file_allowed_extension(entry.name, IMG_EXTENSIONS):
                images.append(entry.name)
            else:
                ending = os.path.splitext(entry.name)[1].lower()
                kind = f"with the ending {ending}" if ending else "without an ending"
                _count(passed_over, kind, os.path.join(folder, entry.name))
    return folders, images


def _count(passed_over: dict[str, tuple[int, str]], kind: str, path: str) -> None:
    if kind not in passed_over and len(passed_over) >= KINDS_NAMED:
        kind = "of other kinds"
    number, first = passed_over.get(kind, (0, path))
    passed_over[kind] = number + 1, first


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _bytes(names: list[str]) -> np.ndarray:
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
