#!/usr/bin/env python3
"""Take the first few suitable images of a COCO-format set as a set of its own.

For instance to see a detector learn eight images by heart before it is given a day for all of them.
An image is suitable where it has two objects or more, none of them tiny and none a crowd region.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det import UsageError, UserError
from randwire_det.coco.coco_json import area_of, is_crowd, read_coco
from randwire_det.run import cli
from randwire_det.run.files import refuse_input, replace_file


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/make_subset.py --json datasets/coco/annotations/instances_train2017.json"
        " --output datasets/eight.json",
    )
    required = {"required": True, "default": argparse.SUPPRESS, "metavar": "FILE"}
    parser.add_argument("--json", help="annotations in COCO format", **required)
    parser.add_argument("--output", type=Path, help="the new annotations", **required)
    parser.add_argument("--images", type=int, default=8, help="how many of them")
    parser.add_argument(
        "--min-size",
        type=float,
        default=0.08,
        help="of an object: root of its area, as a share of the image's shorter side",
    )
    return parser.parse_args()


def choose(content: dict, count: int, min_size: float) -> dict:
    """The set cut down to `count` images; the classes stay.

    Raises:
        UserError: there are not so many suitable ones.
    """
    objects = defaultdict(list)
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)

    def suits(image: dict) -> bool:
        mine, side = objects[image["id"]], min(image["width"], image["height"])
        return len(mine) > 1 and all(
            not is_crowd(each) and math.sqrt(area_of(each)) >= min_size * side for each in mine
        )

    images = [image for image in content["images"] if suits(image)]
    if len(images) < count:
        raise UserError(f"{len(images)} images suit, not {count}: lower --images or --min-size")
    images = images[:count]
    annotations = [each for image in images for each in objects[image["id"]]]
    return content | {"images": images, "annotations": annotations}


def main():
    args = parse_args()
    if args.images < 1:
        raise UsageError(f"--images {args.images}: expected 1 or more")
    refuse_input("--output", args.output, [args.json])
    content = read_coco(args.json)
    try:
        subset = choose(content, args.images, args.min_size)
    except UserError as error:
        raise UserError(f"{args.json}: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{args.json}: no COCO instances JSON ({error!r})") from None
    replace_file(args.output, lambda file: file.write(json.dumps(subset).encode()))
    print(
        f"{args.output}: {len(subset['images'])} images, {len(subset['annotations'])} objects of"
        f" {len({each['category_id'] for each in subset['annotations']})} classes"
    )


if __name__ == "__main__":
    cli.run(main)
