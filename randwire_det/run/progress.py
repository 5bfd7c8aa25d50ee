"""Progress: a bar in a terminal, otherwise periodic log lines."""

import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from typing import TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

Item = TypeVar("Item")
PERIOD = 10  # seconds between two lines of the log


def bar(*args, **options) -> tqdm:
    """A tqdm that is shown in terminals only, also in those of unknown size."""
    columns, rows = shutil.get_terminal_size()  # tqdm shows nothing if the size is unknown
    return tqdm(*args, **{"ncols": columns, "nrows": rows, "disable": None} | options)


def progress(
    items: Iterable[Item], total: int | None, what: str, logger: logging.Logger
) -> Iterator[Item]:
    """Iterate over `items` with a bar in a terminal, otherwise a log line every PERIOD seconds.

    Args:
        total: how many there are; None if that is not known.
        what: what the items are, such as "pictures".
    """
    began = logged = time.monotonic()
    shown = bar(items, total=total, desc=what)
    with shown, nullcontext() if shown.disable else logging_redirect_tqdm():
        for done, item in enumerate(shown, start=1):
            yield item
            if shown.disable and (now := time.monotonic()) > logged + PERIOD:
                if total is None:
                    logger.info(f"{done} {what} done")
                else:
                    left = timedelta(seconds=round((now - began) / done * max(0, total - done)))
                    logger.info(f"{done} of {total} {what} done, {left} to go")
                logged = now
