#!/usr/bin/env python3
"""Look through COCO-format data sets before a long run does: a report, and what would stop it.

The exit status is 0 where a run can start, with or without warnings, and 1 where it would stop or
learn nonsense.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det import UsageError
from randwire_det.printing import printable
from randwire_det.run import cli

EXAMPLE = """python tools/check_dataset.py --json mine/train.json --images mine/images --decode
  python tools/check_dataset.py --config-file faster_rcnn_randwire_c109.yaml"""


def parse_args():
    parser = cli.parser(__doc__, EXAMPLE)
    parser.add_argument("--json", metavar="FILE", help="a COCO-format annotation file")
    parser.add_argument("--images", metavar="DIR", help="where its file names start")
    parser.add_argument(
        "--for",
        dest="use",
        choices=("train", "test"),
        default=argparse.SUPPRESS,
        help="what --json is for (default: train)",
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="of the model, with --json")
    parser.add_argument("--masks", action="store_true", help="masks are learned, too; with --json")
    parser.add_argument(
        "--max-size",
        type=int,
        metavar="N",
        help="longest side of a resized image, 0 for none; with --json (default: 1333)",
    )
    parser.add_argument(
        "--config-file",
        metavar="YAML",
        help="instead: the DATASETS of a detection config, a file or the name of a shipped one",
    )
    parser.add_argument(
        "--fix",
        metavar="OUT.json",
        help="write a repaired copy of --json there, say what was changed, and report on the copy",
    )
    parser.add_argument("--decode", action="store_true", help="read every pixel, not just headers")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of the report")
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="config keys and values, with --config-file"
    )
    args = parser.parse_intermixed_args()
    single = [
        args.json,
        args.images,
        args.num_classes,
        getattr(args, "use", None),
        args.masks or None,
        args.max_size,
        args.fix,
    ]
    if args.config_file is None:
        if args.json is None or args.images is None or args.opts:
            parser.error("expected --json FILE and --images DIR, or --config-file YAML [KEY VALUE]")
    elif any(value is not None for value in single):
        parser.error("--config-file says which data sets and what for: leave out other options")
    return args


def fix(source: str, images: str, output: str, *, decode: bool) -> str:
    """Write a repaired copy of an annotation file, and print what was changed."""
    from randwire_det.coco.coco_json import read_coco
    from randwire_det.coco.fixing import fixed
    from randwire_det.run.files import replace_file

    if Path(output).exists():
        raise UsageError(f"--fix {output} exists already: name a new file, or remove it")
    if Path(output).suffix != ".json" or not Path(output).absolute().parent.is_dir():
        raise UsageError(f"--fix {output}: expected a name that ends in .json, in a folder")
    content, changes = fixed(read_coco(source, may_lack=("annotations",)), images, decode=decode)
    data = json.dumps(content).encode()
    replace_file(output, lambda file: file.write(data))
    print(printable(f"{output} is written; {changes.to_text()}\n"), file=sys.stderr)
    return output


def main():
    args = parse_args()
    with cli.quiet_imports():
        from randwire_det.coco.classes import check_classes
        from randwire_det.coco.datasets import register_coco_datasets
        from randwire_det.coco.lint import check_configured_datasets, check_dataset
        from randwire_det.coco.resizing import MAX_SIZE
        from randwire_det.detection.config import read_config

    logging.basicConfig(format="%(message)s")
    logging.getLogger("randwire_det").setLevel(logging.INFO)
    depth = "decode" if args.decode else "headers"
    if args.fix is not None:
        args.json = fix(args.json, args.images, args.fix, decode=args.decode)
    if args.config_file is None:
        training = getattr(args, "use", "train") == "train"
        reports = [
            check_dataset(
                args.json,
                args.images,
                training=training,
                num_classes=args.num_classes,
                masks=args.masks,
                images=depth,
                longest=MAX_SIZE if args.max_size is None else args.max_size,
            )
        ]
    else:
        cfg = read_config(args.config_file, args.opts)
        register_coco_datasets(cfg, os.environ.get("DETECTRON2_DATASETS", "datasets"))
        reports = check_configured_datasets(cfg, images=depth)
        if not reports:
            raise UsageError(f"{args.config_file}: DATASETS names no set in COCO format")
    if args.format == "json":
        print(json.dumps([report.to_dict() for report in reports], indent=1))
    else:
        print(printable("\n\n".join(report.to_text() for report in reports)))
    sys.stdout.flush()  # before the line on stderr
    for report in reports:
        report.raise_if_fatal()
    if args.config_file is not None:
        check_classes(cfg)


if __name__ == "__main__":
    cli.run(main)
