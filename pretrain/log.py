"""What a run tells: lines on the screen and in log.txt, numbers in metrics.jsonl."""

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger("pretrain")


class Screen(logging.Handler):
    """Lines on stdout, above the progress bar where there is one."""

    def emit(self, record):
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


@contextmanager
def logging_to(folder: Path | None) -> Iterator[None]:
    """Let `logger` write to the screen and, with a folder, to its log.txt, while the block lasts.

    DEBUG goes to the file alone: the lines that the progress bar stands for on a terminal.
    """
    screen = Screen(logging.INFO)
    handlers = [screen]
    if folder is not None:
        handlers.append(logging.FileHandler(folder / "log.txt", encoding="utf-8"))
        handlers[1].setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def progress_bar(total: int, done: int) -> tqdm:
    """One line over all iterations of the run, with its ETA; none where stdout is no terminal."""
    columns, rows = shutil.get_terminal_size()  # tqdm shows nothing in a terminal of unknown size
    hidden = not sys.stdout.isatty()
    return tqdm(
        total=total,
        initial=done,
        bar_format="{n_fmt}/{total_fmt} |{bar}| ETA {remaining}{postfix}",  # 80 columns suffice
        ncols=columns,
        nrows=rows,
        file=sys.stdout,
        disable=hidden,
    )


class Metrics:
    """A file of one JSON object a line, each with "iteration"; a half-written line is no line.

    Args:
        iteration: where the run (re)starts. Lines past it come from a run that was killed after its
            last checkpoint, and are dropped: the file reads as if the run had never stopped.
    """

    def __init__(self, path: Path, iteration: int):
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if 0 < _iteration(line) <= iteration]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, **values) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def _iteration(line: str) -> int:
    try:
        return json.loads(line)["iteration"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return 0


def accuracy(percent: dict[str, float]) -> str:
    return f"top-1 {percent['top1']:.2f} %, top-5 {percent['top5']:.2f} %"


def duration(seconds: float) -> str:
    """ "1 day, 2:03:04", in whole seconds."""
    return str(timedelta(seconds=round(seconds)))
