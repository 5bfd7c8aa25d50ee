#!/usr/bin/env python3
"""Make COCO annotations from a data set in Pascal VOC, YOLO, labelme, Roboflow's formats or COCO.

Writes OUTPUT/<split>.json for every split of the data set; the pictures stay where they are. Of
several --source it makes one data set, with the classes merged by name. Prints the config keys to
train with.

Needs supervision for all but COCO: pip install 'randwire_det[import]'
"""

import argparse
import json
import logging
import os
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det import UsageError, UserError
from randwire_det.coco.importing import merged, read_part, with_validation
from randwire_det.coco.layouts import KINDS, parts
from randwire_det.printing import printable
from randwire_det.run import cli
from randwire_det.run.files import replace_file

CHECK = "python tools/check_dataset.py --decode --config-file faster_rcnn_randwire_c109.yaml"


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/import_dataset.py --source datasets/bccd/BCCD --output datasets/bccd_coco",
    )
    required = {"required": True, "default": argparse.SUPPRESS, "type": Path, "metavar": "PATH"}
    parser.add_argument(
        "--source", action="append", help="a data set, or a COCO JSON; may be repeated", **required
    )
    parser.add_argument("--output", help="where the annotations go", **required)
    parser.add_argument("--format", choices=KINDS, help="of the sources; None: find out")
    parser.add_argument("--val-share", type=float, metavar="X", help="of train, drawn for val")
    parser.add_argument("--seed", type=int, default=1, help="of --val-share")
    args = parser.parse_args()
    if args.val_share is not None and not 0 < args.val_share < 1:
        parser.error(f"--val-share {args.val_share}: expected a number between 0 and 1")
    return args


def import_dataset(sources: list[Path], kind: str | None, val_share: float | None, seed: int):
    """The COCO JSONs by split, and the folder that their file names start at.

    Raises:
        UserError: a data set cannot be read.
    """
    contents = {}
    real = [source.resolve() for source in sources]
    for number, source in enumerate(sources):
        if source.resolve() in real[:number]:
            raise UsageError(f"--source {source}: given twice; its pictures would count twice")
        for part in parts(source.absolute(), kind):
            contents.setdefault(part.split, []).append(read_part(part))
    if val_share is not None:
        contents = with_validation(contents, val_share, seed)
    folders = {
        str(Path(image["file_name"]).parent)
        for several in contents.values()
        for content in several
        for image in content["images"]
    }
    if not folders:
        raise UserError(f"{sources[0]}: no picture found")
    root = Path(os.path.commonpath(folders))
    return merged(contents, root), root


def describe(path: Path, content: dict) -> str:
    names = {each["id"]: each["name"] for each in content["categories"]}
    counts = Counter(names[each["category_id"]] for each in content["annotations"])
    listed = ", ".join(f"{name} {counts[name]}" for name in names.values())
    total = len(content["annotations"])
    return f"{path}: {len(content['images'])} pictures, {total} objects: {listed}"


def config_keys(output: Path, splits: dict[str, dict], images: Path) -> str:
    """KEY VALUE pairs for train_net."""
    base = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).absolute()

    def shown(path: Path) -> str:  # relative paths of a config start at `base`
        return str(path.relative_to(base) if path.is_relative_to(base) else path)

    name = output.name
    rows = [[f"{name}_{each}", shown(output / f"{each}.json"), shown(images)] for each in splits]
    train = next(each for each in ("train", "all", *splits) if each in splits)
    test = next(each for each in ("val", "test", *splits) if each in splits)
    keys = {
        "DATASETS.COCO": str(rows),
        "DATASETS.TRAIN": f"('{name}_{train}',)",
        "DATASETS.TEST": f"('{name}_{test}',)",
        "MODEL.ROI_HEADS.NUM_CLASSES": str(len(splits[train]["categories"])),
    }
    return " ".join(f'{key} "{value}"' for key, value in keys.items())


def main():
    args = parse_args()
    logging.basicConfig(format="%(message)s")
    output = args.output.absolute()
    splits, images = import_dataset(args.source, args.format, args.val_share, args.seed)
    for split in splits:
        if (output / f"{split}.json").exists():
            raise UsageError(f"{args.output / split}.json exists: remove it, or change --output")
    for split, content in splits.items():
        replace_file(
            output / f"{split}.json",
            lambda file, content=content: file.write(json.dumps(content).encode()),
        )
        print(printable(describe(args.output / f"{split}.json", content)))
    filled = {split: content for split, content in splits.items() if content["annotations"]}
    empty = sorted(splits.keys() - filled.keys())
    if empty:
        print(printable(f"without an object, so of no use for a training: {', '.join(empty)}"))
    if filled:
        print(printable(f"to train on it: {config_keys(output, filled, images)}"))
        print(f"to look for damaged pictures before: {CHECK} and these keys")
    if len(filled) == 1:
        print("to test on other pictures than those of the training: --val-share 0.2")


if __name__ == "__main__":
    cli.run(main)
