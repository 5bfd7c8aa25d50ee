#!/usr/bin/env python3
"""Write Fashion-MNIST as class folders, OUTPUT/{train,val}/<class>/<number>.png, to pretrain on.

The ten classes hold 6,000 training and 1,000 test images each (here "val"), 28 x 28, greyscale; the
number is the image's place in its source file, from 0. The four source files, as they are or with
.gz, are {train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte. Debian's package
dataset-fashion-mnist installs them into the default --source; elsewhere take them from the folder
data/fashion of https://github.com/zalandoresearch/fashion-mnist. OUTPUT is whole or absent: a run
that was killed leaves only a .<OUTPUT>.partial-* beside it, which may be deleted.
"""

import gzip
import math
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.run import cli

with cli.quiet_imports():
    import numpy as np
    from PIL import Image

    from randwire_det.errors import UsageError, UserError
    from randwire_det.run.files import new_folder
    from randwire_det.run.progress import bar

SPLITS = {"train": "train", "val": "t10k"}  # our folder: the files' prefix
CLASSES = (  # in the order of the labels
    "t-shirt_top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle_boot",
)
SIDE = 28  # pixels


def read_idx(source: Path, name: str, dimensions: int) -> np.ndarray:
    """The uint8 array in the idx file `name` of a folder, or in `name`.gz.

    Raises:
        UserError: no such file, or one that is not an idx file of bytes with so many dimensions.
    """
    found = [path for path in (source / name, source / f"{name}.gz") if path.is_file()]
    if not found:
        raise UserError(
            f"{source / name}: no such file, nor with .gz; --source must hold the four files of"
            " Fashion-MNIST, see --help for where to get them"
        )
    path = found[0]
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: truncated or damaged ({error}); fetch it anew") from None
    # Big-endian words: 00 00 08 (unsigned bytes) <dimensions>, then the length of each dimension.
    start = 4 + 4 * dimensions
    magic, *shape = (int.from_bytes(data[at : at + 4], "big") for at in range(0, start, 4))
    wanted = 0x0800 + dimensions
    if magic != wanted:
        raise UserError(
            f"{path}: magic number 0x{magic:08x}, expected 0x{wanted:08x}; fetch it anew"
        )
    if len(data) != start + math.prod(shape):
        raise UserError(
            f"{path}: holds {len(data)} bytes, expected {start + math.prod(shape)} by its header;"
            " fetch it anew"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_split(source: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (count, 28, 28), and labels, uint8 (count,), of "train" or "t10k".

    Raises:
        UserError: a bad file, or two that do not belong together.
    """
    images = read_idx(source, f"{prefix}-images-idx3-ubyte", 3)
    labels = read_idx(source, f"{prefix}-labels-idx1-ubyte", 1)
    files = f"{source}, {prefix} files"
    if images.shape[1:] != (SIDE, SIDE):
        size = " x ".join(map(str, images.shape[1:]))
        raise UserError(f"{files}: images of {size} pixels, expected {SIDE} x {SIDE}")
    if len(images) != len(labels):
        raise UserError(
            f"{files}: {len(images)} images but {len(labels)} labels, expected as many; fetch both"
            " from one place"
        )
    if (unknown := labels[labels >= len(CLASSES)]).size:
        raise UserError(f"{files}: label {unknown[0]}, expected 0 to {len(CLASSES) - 1}")
    return images, labels


def write_split(
    folder: Path, images: np.ndarray, labels: np.ndarray, per_class: int | None
) -> None:
    """Write PNGs into `folder`/<class>, of each class the first `per_class`, or all for None."""
    chosen = [np.flatnonzero(labels == label)[:per_class] for label in range(len(CLASSES))]
    total = sum(map(len, chosen))
    with bar(total=total, desc=folder.name, unit=" images") as shown:
        for name, indices in zip(CLASSES, chosen, strict=True):
            (folder / name).mkdir(parents=True)
            for index in indices:
                Image.fromarray(images[index]).save(folder / name / f"{index:05d}.png")
                shown.update()


def make_fashion_mnist(source: Path, output: Path, per_class: dict[str, int | None]) -> None:
    """Write the folder `output`, or nothing.

    Args:
        per_class: for "train" and "val", how many images of each class, or None for all.

    Raises:
        UsageError: `output` exists, or a number below 1.
        UserError: a source file is missing or bad.
    """
    for split, count in per_class.items():
        if count is not None and count < 1:
            raise UsageError(f"--{split}-per-class {count}: expected a whole number >= 1")
    data = {split: read_split(source, prefix) for split, prefix in SPLITS.items()}
    with new_folder(output) as folder:
        for split, (images, labels) in data.items():
            write_split(folder / split, images, labels, per_class[split])


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/make_fashion_mnist.py --output datasets/fashion_mnist --train-per-class 600",
    )
    parser.add_argument(
        "--source",
        type=Path,
        metavar="DIR",
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder of the four idx files",
    )
    cli.add_class_folder_arguments(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    per_class = {"train": args.train_per_class, "val": args.val_per_class}
    make_fashion_mnist(args.source, args.output.absolute(), per_class)
    counts = {split: len(list((args.output / split).glob("*/*.png"))) for split in SPLITS}
    listed = ", ".join(f"{count} {split} images" for split, count in counts.items())
    print(f"{args.output}: {listed} of {len(CLASSES)} classes")


if __name__ == "__main__":
    cli.run(main)
