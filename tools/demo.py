#!/usr/bin/env python3
"""The whole product in minutes on a CPU: wiring, pretraining, detection, COCO AP, a report.

MNIST digits on photographs stand in for ImageNet and COCO. Each step runs one of the tools as
a user would, with the same kind of config; the same detector is fine-tuned from the pretrained
RandWire and trained from scratch. Run again, it goes on where it stopped.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det import UserError
from randwire_det.run import cli
from randwire_det.run.stopping import AskedToStop, Stopping, stoppable

TOOLS = Path(__file__).resolve().parent
# For --quick, by tool: enough to see that every step works, and for nothing else.
QUICK = {
    "make_digits.py": ["--train-scenes=8", "--val-scenes=4", "--train-patches=64"],
    "pretrain_imagenet.py": ["SOLVER.EPOCHS", "1", "SOLVER.WARMUP_EPOCHS", "0"],
    "train_net.py": ["SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "2"],
}


def steps(output: Path) -> list[tuple[str, dict[str, list[str]]]]:
    """What is done, in order, and the commands that do it, side by side where there are several."""
    digits, pretrained = output / "digits", output / "pretrain"
    weights = pretrained / "model_final.pth"
    detector = ["train_net.py", "--config-file", "faster_rcnn_randwire_digits.yaml", "--resume"]
    return [
        ("make digits in the wild", {"digits": ["make_digits.py", "--output", str(digits)]}),
        (
            "pretrain a small RandWire on single digits",
            {
                "pretrain": [
                    *["pretrain_imagenet.py", "--config-file", "pretrain/randwire_digits.yaml"],
                    *["--resume", "DATA.ROOT", str(digits / "imagenet")],
                    *["OUTPUT_DIR", str(pretrained)],
                ]
            },
        ),
        (
            "draw its wiring",
            {
                "wiring": [
                    *["draw_wiring.py", "--spec", str(weights), "--input-size", "192"],
                    *["--output", str(output / "wiring.png")],
                ]
            },
        ),
        (
            "train Faster R-CNN FPN from it, and the same from scratch",
            {
                "pretrained": [
                    *[*detector, "MODEL.WEIGHTS", str(weights)],
                    *["OUTPUT_DIR", str(output / "pretrained")],
                ],
                "scratch": [*detector, "OUTPUT_DIR", str(output / "scratch")],
            },
        ),
    ]


def run_step(commands: dict[str, list[str]], output: Path) -> None:
    """Run tools side by side; all they say goes to their logs, progress to the terminal as well.

    Raises:
        UserError: one of them failed; the end of its log has been printed.
        AskedToStop: by SIGTERM or Ctrl-C; so were they, and have ended.
    """
    progress, readers = Progress(), []
    for name, command in commands.items():
        reader = Tool(name, command, output, progress)
        reader.start()
        readers.append(reader)
    try:
        with Stopping(), stoppable():
            for reader in readers:
                reader.join()
    except AskedToStop:
        for reader in readers:
            reader.process.terminate()
        for reader in readers:
            reader.process.wait()  # a join that was interrupted may take the thread for ended
        print("\nstopped; run again, it goes on from here")
        raise
    progress.end()
    for reader in readers:
        if reader.process.returncode:
            print("".join(reader.log.read_text().splitlines(True)[-15:]), file=sys.stderr)
            raise UserError(
                f"{reader.command[0]} ended with status {reader.process.returncode}; its log is"
                f" {reader.log}"
            )


class Tool(threading.Thread):
    """One of the tools as a process, its output read line by line."""

    def __init__(self, name: str, command: list[str], output: Path, progress: "Progress"):
        super().__init__(daemon=True)
        self.name, self.command, self.progress = name, command, progress
        self.log = output / "logs" / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "DETECTRON2_DATASETS": str(output / "digits"),
            "PYTHONUNBUFFERED": "1",
            # Maps of this size leave a second thread little to do but wait, and one thread a
            # process keeps its pace on a busy machine.
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(TOOLS / command[0]), *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        )

    def run(self) -> None:
        with self.log.open("w") as file, self.process:
            for line in self.process.stdout:
                file.write(line)
                file.flush()
                if " eta: " in line or ", ETA " in line:
                    # Without the time and the logger's name in front.
                    self.progress(f"{self.name}: {line.rpartition(']: ')[2].strip()}")


class Progress:
    """The latest line of progress: in place on a terminal, otherwise every fifteen seconds."""

    def __init__(self):
        self.in_place = sys.stdout.isatty()
        self.shown = 0.0

    def __call__(self, line: str) -> None:
        if self.in_place:
            width = shutil.get_terminal_size().columns - 3
            print(f"\r  {line[:width]:<{width}}", end="", flush=True)
        elif time.monotonic() - self.shown > 15:
            print(f"  {line[:150]}", flush=True)
            self.shown = time.monotonic()

    def end(self) -> None:
        if self.in_place:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{'':<{width}}\r", end="", flush=True)


def main():
    parser = cli.parser(__doc__, "python tools/demo.py --output output/demo")
    parser.add_argument(
        "--output", type=Path, help="where it goes (default: output/demo, quick: output/demo_quick)"
    )
    parser.add_argument("--quick", action="store_true", help="a minute's check that all steps run")
    args = parser.parse_args()
    output = args.output or Path("output/demo_quick" if args.quick else "output/demo")
    began = time.monotonic()
    todo = steps(output)
    count = len(todo) + 1
    print(f"Digits in the wild, in {count} steps: minutes on two CPU cores. All of it goes to")
    print(f"{output}/, and what the tools say to {output}/logs/.")
    for number, (what, commands) in enumerate(todo, start=1):
        print(f"[{number}/{count}] {what}", flush=True)
        for command in commands.values():
            command += QUICK.get(command[0], []) if args.quick else []
            print(f"  $ python tools/{' '.join(command)}", flush=True)
        start = time.monotonic()
        run_step(commands, output)
        print(f"  done in {time.monotonic() - start:.0f} s", flush=True)
    print(f"[{count}/{count}] write the report", flush=True)
    from demo_report import ARMS, write_report  # imports what takes seconds

    results, report = write_report(output)
    print(f"\n{'digits_val, after the same schedule':<44}{'AP':>8}{'AP50':>8}{'AP75':>8}")
    for arm, title in ARMS.items():
        row = [results[arm][metric] for metric in ("AP", "AP50", "AP75")]
        print(f"{title:<44}" + "".join(f"{value:>8.1f}" for value in row))
    print(f"\n{time.monotonic() - began:.0f} s; report: {report}")


if __name__ == "__main__":
    cli.run(main)
