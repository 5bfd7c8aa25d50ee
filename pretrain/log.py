"""The output of a run: lines on the screen and in log.txt, metrics.jsonl, TensorBoard, a bar."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
from tqdm import tqdm

from randwire_det.run.folder import cut_lines
from randwire_det.run.progress import bar
from randwire_det.run.trackers import Trackers

logger = logging.getLogger("pretrain")


class Screen(logging.Handler):
    """Writes log lines to stdout, above the progress bar if there is one."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


@contextmanager
def logging_to(folder: Path | None, *, enabled: bool = True) -> Iterator[None]:
    """In the block, `logger` writes to `folder`/log.txt, or to the screen if `folder` is None.

    DEBUG lines go to the file only: on a terminal the progress bar shows the same.

    Args:
        enabled: False on every rank but 0, which then logs nothing.
    """
    if not enabled:
        handler = logging.NullHandler()
    elif folder is None:
        handler = Screen(logging.INFO)
    else:
        handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


class RunLog:
    """Metrics, log lines and progress bar of a run, from where it starts or resumes.

    metrics.jsonl has one JSON object a line, each with "iteration". TensorBoard gets the same
    numbers.

    Args:
        folder: for metrics.jsonl and TensorBoard's files.
        iteration: where the run starts or resumes. Later lines of metrics.jsonl, written by a run
            that was stopped after its last checkpoint, are removed, and so is the evaluation at
            this very iteration, which is repeated: the file reads as if the run had never stopped.
        epochs, epoch_length: of the whole run, the latter in iterations.
        batch_size: images per iteration, over all processes.
        enabled: False on every rank but 0, which then writes and shows nothing.
        trackers: that get the same numbers; closed with the log.
    """

    def __init__(
        self,
        folder: Path,
        iteration: int,
        *,
        epochs: int,
        epoch_length: int,
        batch_size: int,
        enabled: bool,
        trackers: Trackers | None = None,
    ):
        self.trackers = trackers
        self.path = folder / "metrics.jsonl"
        self.epochs, self.epoch_length, self.batch_size = epochs, epoch_length, batch_size
        self.first, self.total = iteration, epochs * epoch_length
        self.board = None
        if enabled:
            self.path.touch()
            cut_lines(self.path, lambda row: row["iteration"] < iteration + ("loss" in row))
            from torch.utils.tensorboard import SummaryWriter  # importing it takes seconds

            self.board = SummaryWriter(folder, purge_step=iteration + 1)
        self.started = self.interval_start = time.perf_counter()
        self.bar = bar(
            total=self.total,
            initial=iteration,
            bar_format="{n_fmt}/{total_fmt} |{bar}| ETA {remaining}{postfix}",  # fits 80 columns
            file=sys.stdout,
            disable=None if enabled else True,
        )

    def write(self, *, iteration: int, **values: float) -> None:
        if self.board is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration} | values) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, iteration)
        if self.trackers is not None:
            self.trackers.log(values, iteration)

    def write_training(self, iteration: int, losses: list[float], lr: float) -> None:
        """Log the mean of the losses since the last call, learning rate, speed and ETA."""
        loss, epoch = float(np.mean(losses)), -(-iteration // self.epoch_length)
        now = time.perf_counter()
        # Some losses may be from before the run was resumed; how long they took is unknown.
        done = min(len(losses), iteration - self.first)
        speed = done * self.batch_size / (now - self.interval_start)
        self.interval_start = now
        self.write(epoch=epoch, iteration=iteration, loss=loss, lr=lr, images_per_second=speed)
        seconds_per_iteration = (now - self.started) / (iteration - self.first)
        eta = timedelta(seconds=round(seconds_per_iteration * (self.total - iteration)))
        self.bar.set_postfix_str(
            f"epoch {epoch}, loss {loss:.3f}, lr {lr:.3g}, {speed:.0f} images/s"
        )
        logger.log(
            logging.INFO if self.bar.disable else logging.DEBUG,  # the bar shows the same
            f"epoch {epoch}/{self.epochs}, iteration {iteration}/{self.total},"
            f" loss {loss:.4f}, lr {lr:.5f}, {speed:.0f} images/s, ETA {eta}",
        )

    def flush(self) -> None:
        if self.board is not None:
            self.board.flush()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exception) -> None:
        if self.board is not None:
            self.board.close()
        if self.trackers is not None:
            self.trackers.close()
        self.bar.close()


def accuracy(percent: dict[str, float]) -> str:
    return f"top-1 {percent['top1']:.2f} %, top-5 {percent['top5']:.2f} %"
