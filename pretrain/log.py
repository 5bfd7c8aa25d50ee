"""What a run tells: lines on the screen and in log.txt, numbers in metrics.jsonl, TensorBoard."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

from randwire_det.run.folder import cut_lines
from randwire_det.run.progress import bar

logger = logging.getLogger("pretrain")


class Screen(logging.Handler):
    """Lines on stdout, above the progress bar where there is one."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


@contextmanager
def logging_to(folder: Path | None, *, enabled: bool = True) -> Iterator[None]:
    """While it lasts, `logger` writes to the folder's log.txt, or without a folder to the screen.

    DEBUG goes to the file alone: the lines that the progress bar stands for on a terminal.

    Args:
        enabled: not so in all processes but the first, which then say nothing.
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


def progress_bar(total: int, done: int, hidden: bool) -> tqdm:
    """One line over all iterations of the run, with its ETA; none where stdout is no terminal."""
    return bar(
        total=total,
        initial=done,
        bar_format="{n_fmt}/{total_fmt} |{bar}| ETA {remaining}{postfix}",  # 80 columns suffice
        file=sys.stdout,
        disable=hidden or None,
    )


class Metrics:
    """A file of one JSON object a line, each with "iteration"; the same numbers for TensorBoard.

    Args:
        folder: gets metrics.jsonl and TensorBoard's files.
        iteration: where the run (re)starts. Lines past it come from a run that was stopped after
            its last checkpoint, and are dropped, as is the test of that very iteration, which comes
            again: the file reads as if the run had never stopped.
        enabled: not so in all processes but the first, which write nothing.
    """

    def __init__(self, folder: Path, iteration: int, *, enabled: bool = True):
        self.path, self.enabled = folder / "metrics.jsonl", enabled
        if not enabled:
            return
        self.path.touch()
        cut_lines(self.path, lambda row: row["iteration"] < iteration + ("loss" in row))
        # Its import takes seconds.
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(folder, purge_step=iteration + 1)

    def write(self, *, iteration: int, **values: float) -> None:
        if not self.enabled:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"iteration": iteration} | values) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, iteration)

    def flush(self) -> None:
        if self.enabled:
            self.board.flush()

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *exception) -> None:
        if self.enabled:
            self.board.close()


def accuracy(percent: dict[str, float]) -> str:
    return f"top-1 {percent['top1']:.2f} %, top-5 {percent['top5']:.2f} %"


def duration(seconds: float) -> str:
    """ "1 day, 2:03:04", in whole seconds."""
    return str(timedelta(seconds=round(seconds)))
