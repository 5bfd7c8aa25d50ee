"""Graceful stops: by SIGTERM, by SIGINT, or because the launcher has died."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import EXIT_STOPPED


class AskedToStop(SystemExit):
    """Raised instead of waiting, for example for a batch, once the run was asked to stop.

    Attributes:
        shared: whether all ranks raise it (`World.together`).
    """

    shared = False

    def __init__(self):
        super().__init__(EXIT_STOPPED)


class Stopping:
    """Whether this process was asked to stop.

    The current step is then finished, a wait (`stoppable`) ends immediately, and a second SIGINT
    interrupts anywhere.
    """

    def __init__(self):
        self.reason = ""
        self._parent = os.getppid()
        self._waiting, self._before = False, {}

    def __bool__(self) -> bool:
        # A launcher that died of SIGKILL cannot signal its processes.
        if not self.reason and "LOCAL_RANK" in os.environ and os.getppid() != self._parent:
            self.reason = "the end of its launcher"
        return bool(self.reason)

    def __enter__(self) -> "Stopping":
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed_reason(self, world) -> str:
        """Why the run stops, the same in all ranks of `world`; only some were signalled."""
        return next(filter(None, world.gather([self.reason])))

    def _ask(self, number, frame):
        self.reason = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._waiting:
            self._waiting = False
            raise AskedToStop


@contextmanager
def ends_at_ctrl_c() -> Iterator[None]:
    """Wrap a blocking call of torch, during which Python runs no signal handler: Ctrl-C ends it."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stoppable() -> Iterator[None]:
    """Wrap a wait that does not change the run's state, and might not end.

    Raises:
        AskedToStop: the run was asked to stop before or during the wait.
    """
    stopping = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    in_main = threading.current_thread() is threading.main_thread()  # handlers run there
    if not in_main or not isinstance(stopping, Stopping):
        yield
        return
    stopping._waiting = True
    try:
        if stopping:
            raise AskedToStop
        yield
    finally:
        stopping._waiting = False
