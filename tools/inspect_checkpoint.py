#!/usr/bin/env python3
"""Say what is in a file of ours: network, preprocessing, classes, training, tensors.

Takes checkpoints of pretrain_imagenet.py and train_net.py, whose tensors are counted by module;
what export.py wrote (.onnx, .ts, .pt2, .safetensors); and specs (.json).
"""

import argparse
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
    parser.add_argument(
        "files", metavar="FILE", nargs="+", default=argparse.SUPPRESS, help="what to look into"
    )
    parser.add_argument("--config", action="store_true", help="print its config alone, as YAML")
    parser.add_argument(
        "--json", action="store_true", help="print a JSON object instead; of several files a list"
    )
    return parser.parse_args()


def main():
    args = parse_args()
    if args.config:
        if len(args.files) > 1:
            raise UsageError(f"--config: expected one file, got {len(args.files)}")
        print(printable(_config(args.files[0]).rstrip()))
        return
    described = [_describe(file) for file in args.files]
    if args.json:
        found = [each for each, _ in described]
        print(json.dumps(found if len(found) > 1 else found[0], indent=1))
    else:
        print("\n\n".join(printable(text) for _, text in described))


def _config(file: str) -> str:
    with cli.quiet_imports():
        from randwire_det.run.checkpoint import KINDS, load_checkpoint

    config = load_checkpoint(file, kinds=KINDS).config
    if config is None:
        raise UsageError(f"{file} holds no config: leave out --config")
    return config


def _describe(file: str) -> tuple[dict, str]:
    """What a file holds, as plain values and as lines."""
    with cli.quiet_imports():
        from randwire_det.config.network_keys import read_spec
        from randwire_det.export.formats import ENDINGS, read_metadata
        from randwire_det.run.checkpoint import KINDS, load_checkpoint
        from randwire_det.run.contents import as_text, contents

    ending = Path(file).suffix
    if ending == ".json":
        spec = read_spec(file)
        found = {"file": file, "network": spec.describe(), "spec_digest": spec.digest}
    elif ending in ENDINGS.values():
        found = {"file": file, **read_metadata(file)}
    else:
        found = contents(load_checkpoint(file, kinds=KINDS))
        return found, as_text(found)
    width = max(map(len, found))
    lines = (f"{key.replace('_', ' '):{width}s}  {value}" for key, value in found.items())
    return found, "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
