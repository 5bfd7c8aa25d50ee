#!/usr/bin/env python3
"""Graph damage (Figure 5): what removing each node or edge costs a trained network.

Takes a checkpoint of tools/pretrain_imagenet.py (the loss of top-1 accuracy) or of
tools/train_net.py (the loss of box AP), removes every node, then every edge, one at a time and
without further training, and writes to --output:

  damage.json   the intact network's result, each removal's, and for each degree the mean, median
                and quartiles of the losses; the same command continues from it
  damage.csv    a line for each removal
  damage.png    Figure 5: losses against the output degree of a node, and against the input degree
                of an edge's target

--gather draws the records of several networks as one figure, a column for each generator.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.errors import UsageError, UserError
from randwire_det.run import cli

logger = logging.getLogger("randwire_det.damage")
EXAMPLE = """python tools/damage.py output/pretrain/c78/model_final.pth \\
      --output output/damage/c78 DATA.ROOT datasets/imagenet
  python tools/damage.py --gather output/damage/*/damage.json --output output/figure5"""


def parse_args():
    parser = cli.parser(__doc__, EXAMPLE)
    parser.add_argument("checkpoint", nargs="?", default=argparse.SUPPRESS, help="of a RandWire")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="changes to the checkpoint's config, such as DATA.ROOT or DATASETS.TEST",
    )
    parser.add_argument("--output", default="output/damage", metavar="DIR", help="where to write")
    parser.add_argument(
        "--kinds",
        type=cli.several(str, ("node", "edge")),
        default="node,edge",
        help="of removals: node, edge, or both",
    )
    parser.add_argument(
        "--stages", type=cli.several(), default=[], help="such as conv3,conv4; all by default"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="draw N removals of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of --sample")
    parser.add_argument("--images", type=int, metavar="N", help="test on N images, evenly spaced")
    parser.add_argument("--device", default="auto", help="auto is cuda, or cpu where there is none")
    parser.add_argument("--gather", nargs="+", metavar="JSON", help="draw these records instead")
    return parser.parse_intermixed_args()


def main():
    args = parse_args()
    cli.show_log("randwire_det", "pretrain")
    checkpoint = getattr(args, "checkpoint", None)
    if bool(args.gather) == bool(checkpoint):
        raise UsageError("expected either a checkpoint or --gather with records of earlier runs")
    with cli.quiet_imports():
        from randwire_det.tables import damage
        from randwire_det.tables.damage_figure import draw_damage
    output = Path(args.output)
    if args.gather:
        records = [damage.read_record(Path(each)) for each in args.gather]
        output.mkdir(parents=True, exist_ok=True)
    else:
        records = [_measure(checkpoint, args, output)]
    draw_damage(records, output / damage.FIGURE)
    print(f"written to {output}")


def _measure(path: str, args: argparse.Namespace, output: Path) -> dict:
    with cli.quiet_imports():
        import torch

        from randwire_det.run.checkpoint import KINDS, load_checkpoint
        from randwire_det.run.folder import locked
        from randwire_det.tables import damage

    torch.set_flush_denormal(True)  # as in evaluations
    checkpoint = load_checkpoint(path, kinds=KINDS)
    if checkpoint.spec is None:
        raise UserError(f"{path}: expected the checkpoint of a RandWire, found another network's")
    removed = damage.choose(checkpoint.spec, args.kinds, args.stages, args.sample, args.seed)
    device = cli.choose_device(args.device, logger)
    if checkpoint.kind == "detector":
        from randwire_det.detection.damage import detector_subject as subject_of
    else:
        from pretrain.damage import classifier_subject as subject_of
    subject = subject_of(checkpoint, args.overrides, device, args.images)
    logger.info(f"{subject.spec.describe()}")
    logger.info(f"{len(removed)} removals on {subject.images} images; output goes to {output}")
    with locked(output):
        record = damage.measure(subject, removed, output)
    print(f"{subject.metric} of the intact network: {record['intact']:.2f}")
    for kind, groups in record["summary"].items():
        for degree, row in groups.items():
            where = f"{kind}, all degrees" if degree == "all" else f"{kind}, degree {degree}"
            print(
                f"{where}: loss {row['mean']:.2f} on average, median {row['median']:.2f}, quartiles"
                f" {row['q1']:.2f} to {row['q3']:.2f}, {row['count']} removals"
            )
    return record


if __name__ == "__main__":
    cli.run(main)
