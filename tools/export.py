#!/usr/bin/env python3
"""Export a trained classifier or detector to a file that runs without this package.

--to
  onnx          classifier or whole detector, by onnxruntime for example
  torchscript   the same, by libtorch or Python with torchvision's operations
  torch_export  a classifier, as torch.export writes it
  safetensors   the trunk's weights alone, with spec and preprocessing, for this package:
                MODEL.WEIGHTS of a detector, or randwire_det.run.trunk_file.load_trunk

BN is folded, preprocessing but for resizing is part of the network, and the file holds
metadata.json with classes, channel order and sizes. Batch (of a classifier), height and width are
free. The file is run beside the checkpoint on --pictures and must agree with it before it takes
its name: one that does not is not kept, and replaces none. Of a classifier, a folder of class
folders, as DATA.ROOT/val, stands for their pictures, and both accuracies are printed.

--int8 writes a second ONNX file, FILE.int8.onnx, with convolutions in 8 bits, calibrated with
pictures of --pictures, and says how far that is from the checkpoint.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.errors import UsageError, UserError
from randwire_det.run import cli

logger = logging.getLogger("randwire_det.export")
EXAMPLE = """python tools/export.py output/faster_rcnn/model_final.pth --to onnx \\
      --output faster_rcnn.onnx --pictures photos
  python tools/export.py output/pretrain/c78/model_final.pth --to onnx --int8 \\
      --output c78.onnx --pictures datasets/imagenet/val"""
CALIBRATION = 128  # pictures
OTHER_ENDINGS = {"torchscript": (".pt",)}  # besides the usual one


def parse_args():
    parser = cli.parser(__doc__, EXAMPLE)
    parser.add_argument("checkpoint", help="of pretrain_imagenet.py or train_net.py")
    parser.add_argument(
        "--to",
        choices=("onnx", "torchscript", "torch_export", "safetensors"),
        required=True,
        default=argparse.SUPPRESS,
        help="the format",
    )
    parser.add_argument("--output", metavar="FILE", help="by default beside the checkpoint")
    parser.add_argument(
        "--pictures",
        nargs="+",
        metavar="PATH",
        help="pictures and folders to compare on; by default matplotlib's sample photograph",
    )
    parser.add_argument("--int8", action="store_true", help="also write an int8 file (onnx)")
    return parser.parse_intermixed_args()


def main():
    args = parse_args()
    cli.show_log("randwire_det")
    if args.int8 and (args.to != "onnx" or not args.pictures):
        raise UsageError("--int8: needs --to onnx, and --pictures to calibrate with")
    with cli.quiet_imports():
        import torch

        from randwire_det.export import formats
        from randwire_det.export.int8 import quantize
        from randwire_det.run.checkpoint import KINDS, load_checkpoint
        from randwire_det.run.files import refuse_input
        from randwire_det.run.progress import progress
        from randwire_det.run.trunk_file import ENDING, save_trunk

    torch.set_flush_denormal(True)  # as in evaluations
    checkpoint = load_checkpoint(args.checkpoint, kinds=KINDS)
    ending = ENDING if args.to == "safetensors" else formats.ENDINGS[args.to]
    output = Path(args.output or Path(args.checkpoint).with_suffix(ending))
    refuse_input("--output", output, [args.checkpoint])
    fitting = ending, *OTHER_ENDINGS.get(args.to, ())
    if output.suffix not in fitting or output.is_dir():  # it might replace a checkpoint
        raise UsageError(f"--output {output}: expected a file that ends in {' or '.join(fitting)}")
    if args.to == "safetensors":
        save_trunk(output, checkpoint)
        print(f"written: {output}, {output.stat().st_size / 1e6:.1f} MB; the trunk's weights")
        return
    formats.check(args.to, checkpoint.kind)
    network = _network(checkpoint)
    pictures = _pictures(args.pictures, network)
    logger.info(f"exporting {args.checkpoint}; output goes to {output}")

    def check(temporary: str) -> None:
        if not _compare(network, args.to, temporary, pictures).agrees:
            raise UserError(
                f"{output} is not written, as it would not compute what {args.checkpoint} does (the"
                " lines above): try more --pictures of what it is to see; if they disagree as well,"
                " this is a defect of the export, and worth a report"
            )

    formats.write(network, args.to, output, check)
    _report(output, network)
    if args.int8:
        small = output.with_suffix(f".int8{ending}")
        step = max(1, len(pictures) // CALIBRATION)
        chosen = pictures[::step][:CALIBRATION]
        ranges = progress(chosen, len(chosen), "calibration", logger)
        quantize(output, small, (network.read(path).numpy() for path in ranges), len(chosen))
        _report(small, network)
        _compare(network, args.to, small, pictures)


def _network(checkpoint):
    if checkpoint.kind in ("baseline", "trunk"):
        name = "a trunk alone"
        if checkpoint.kind == "baseline":
            name = f"torchvision's {checkpoint.architecture['name']}"
        raise UserError(
            f"{checkpoint.path} holds {name}: expected the checkpoint of a RandWire"
            " classifier or of a detector"
        )
    if checkpoint.kind == "detector":
        from randwire_det.detection.export import exportable_detector as exportable
    else:
        from pretrain.export import exportable_classifier as exportable
    return exportable(checkpoint)


def _pictures(given: list[str] | None, network) -> list[Path]:
    from randwire_det.detection.picture_files import find_pictures
    from randwire_det.run.pictures import why_unusable

    if not given:
        import matplotlib

        return [Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")]
    inputs = []
    for each in map(Path, given):
        names = [] if network.is_detector or not each.is_dir() else network.metadata["classes"]
        folders = [each / name for name in names if (each / name).is_dir()]
        inputs += folders or [each]
    paths = list(find_pictures(inputs).values())
    for path in paths:
        problem = why_unusable(path)
        if problem:
            raise UserError(f"picture {path}: cannot be read: {problem}")
    return paths


def _report(path: Path, network) -> None:
    shape = [str(size) for size in network.example.shape]
    for axis, name in network.axes.items():
        shape[axis] = name
    outputs = ", ".join(network.outputs)
    print(
        f"written: {path}, {path.stat().st_size / 1e6:.1f} MB; image ({', '.join(shape)}) to"
        f" {outputs}"
    )


def _compare(network, to: str, path: str | Path, pictures: list[Path]):
    from randwire_det.export import formats, parity
    from randwire_det.run.progress import progress

    compared = progress(pictures, len(pictures), "pictures", logger)
    result = parity.compare(network, formats.open_file(to, path), compared)
    for line in result.lines:
        print(f"parity: {line}")
    return result


if __name__ == "__main__":
    cli.run(main)
