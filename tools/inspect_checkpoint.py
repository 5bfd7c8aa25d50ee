#!/usr/bin/env python3
"""Say what is in a checkpoint: network, preprocessing, classes, training, tensors.

Takes a checkpoint of pretrain_imagenet.py or train_net.py. The tensors are counted by module.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.errors import UsageError
from randwire_det.printing import printable
from randwire_det.run import cli


def parse_args():
    parser = cli.parser(
        __doc__, "python tools/inspect_checkpoint.py output/faster_rcnn/model_final.pth"
    )
    parser.add_argument("file", metavar="FILE", help="a checkpoint")
    parser.add_argument("--config", action="store_true", help="print its config alone, as YAML")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser.parse_args()


def main():
    args = parse_args()
    with cli.quiet_imports():
        from randwire_det.run.checkpoint import KINDS, load_checkpoint
        from randwire_det.run.contents import as_text, contents

    checkpoint = load_checkpoint(args.file, kinds=KINDS)
    if args.config:
        if checkpoint.config is None:
            raise UsageError(f"{args.file} holds no config: leave out --config")
        print(printable(checkpoint.config.rstrip()))
        return
    found = contents(checkpoint)
    print(json.dumps(found, indent=1) if args.json else printable(as_text(found)))


if __name__ == "__main__":
    cli.run(main)
