#!/usr/bin/env python3
"""Detect objects in pictures and videos with nothing but a checkpoint of tools/train_net.py.

Writes to --output a copy of each picture with its detections drawn, under the picture's name (of
pictures that share one, the later get a number; .png is put behind any but .jpg, .jpeg and .png),
and predictions.json with all detections in COCO results format. There:

  image_id       the number in the name where all names have one as COCO's (000000000139.jpg);
                 else the picture's position, from 1, where a folder's files are sorted by name
  category_id    the data set's own id where detectron2 knows the set by name, as coco_2017_train;
                 else the position among the classes, from 1
  category, file_name    besides COCO's keys: the name of the class, the path of the picture

Of a folder it takes the files with an ending that Pillow reads, but no hidden ones, and names the
others. A picture is its first frame, upright as EXIF says; 16-bit grey and float pixels are
refused. HEIC is read where pillow-heif is installed. The exit status is 0 even if some pictures
were skipped as unreadable, 1 if all were.

A video (.mp4, .mov, .avi, .mkv, .m4v, .webm) is given as a file or by a pattern. Its copy is an
MPEG-4 without sound, NAME.mp4; its detections are in NAME.json, where image_id is the frame, from
1.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.run import cli

EXAMPLE = """python tools/predict.py --weights output/faster_rcnn/model_final.pth \\
      --input photos holiday.jpg --output output/predict"""


def parse_args():
    parser = cli.parser(__doc__, EXAMPLE)
    required = {"required": True, "default": argparse.SUPPRESS}
    parser.add_argument("--weights", metavar="FILE", help="a detector's checkpoint", **required)
    parser.add_argument(
        "--input",
        nargs="+",
        metavar="PATH",
        help="pictures, videos, folders of pictures, and patterns of these, as 'photos/**/*.jpg'",
        **required,
    )
    parser.add_argument("--recursive", action="store_true", help="also folders in a folder")
    parser.add_argument("--output", default="output/predict", metavar="DIR", help="where to write")
    parser.add_argument("--score", type=float, default=0.5, help="draw detections from here up")
    parser.add_argument("--batch", type=int, default=1, help="pictures at once, if of one size")
    parser.add_argument("--device", default="auto", help="auto is cuda, or cpu where there is none")
    return parser.parse_args()


def main():
    args = parse_args()
    cli.show_log("randwire_det")

    with cli.quiet_imports():
        import torch

        from randwire_det.detection.picture_files import expand, find_pictures, unique_names
        from randwire_det.detection.predict import (
            RESULTS,
            Classes,
            Predictor,
            check_options,
            predict,
        )
        from randwire_det.detection.stored import load_detector
        from randwire_det.detection.video import ENDINGS, copy_name, predict_video

    options = {"score": args.score, "batch": args.batch}
    check_options(**options)
    given = expand(args.input)
    videos = [path for path in given if path.suffix.lower() in ENDINGS and not path.is_dir()]
    others = [path for path in given if path not in videos]
    pictures = find_pictures(others, args.recursive, args.output) if others else {}
    device = cli.choose_device(args.device, logging.getLogger("randwire_det.predict"))
    torch.set_flush_denormal(True)  # as in evaluations
    model, cfg, names = load_detector(args.weights, device)
    predictor, classes = Predictor(model, cfg), Classes(cfg, names)
    if pictures:
        began = time.monotonic()
        read, found = predict(predictor, classes, pictures, args.output, **options)
        rate = read / (time.monotonic() - began)
        results = Path(args.output, RESULTS)
        print(
            f"detections: {found}, pictures: {read}; written to {results} and beside it; {rate:.2f}"
            " pictures/s"
        )
    for name, video in unique_names(dict.fromkeys(videos), copy_name).items():
        began = time.monotonic()
        read, found = predict_video(predictor, classes, name, video, args.output, **options)
        rate = read / (time.monotonic() - began)
        print(
            f"detections: {found}, frames of {video}: {read}; written to {args.output}; {rate:.2f}"
            " frames/s"
        )


if __name__ == "__main__":
    cli.run(main)
