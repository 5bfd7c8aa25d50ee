"""What all commands share: user errors as one line, help with defaults, choice of device."""

import argparse
import atexit
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import UsageError, UserError
from ..printing import escape_log, one_line
from ..spec.generator import GRAPH_MODELS, REGIMES, generate
from ..spec.spec import NetworkSpec

INTERRUPTED = 130  # the exit status, as of a shell


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Wrap slow imports so that Ctrl-C ends the process quietly, as it does in `run`.

    KeyboardInterrupt would surface inside torch's modules instead.
    """

    def leave(number, frame):
        if int(os.environ.get("RANK", 0)) == 0:
            os.write(sys.stderr.fileno(), b"interrupted\n")
        os._exit(INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # a background process of a shell
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(main: Callable[[], int | None]) -> None:
    """Run a command; a user error becomes one line on stderr and an exit status.

    The same holds for errors of the system, such as a full disk or a read-only folder. The return
    value of `main` is the exit status; None means 0.
    """
    escape_log()
    try:
        status = main()
        sys.stdout.flush()
    except SystemExit as leaving:
        status = leaving.code
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        status = error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {one_line(f'{where}{error.strerror or error}')}", file=sys.stderr)
        status = 1
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and isinstance(status, int | None):
        # A gloo thread that frees a tensor while the interpreter shuts down aborts the process, and
        # torchrun would report a finished run as failed. So leave without a shutdown.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    sys.exit(status)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows every default and keeps the line breaks of the example."""


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """An argument parser whose help shows every default and ends with an example."""
    return argparse.ArgumentParser(
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a network, read by `network_from_arguments`."""
    models = sorted(GRAPH_MODELS)
    parser.add_argument("--generator", choices=models, default="ws", help="random graph model")
    parser.add_argument("--k", type=int, help="K of WS: neighbours in the ring, even")
    parser.add_argument("--p", type=float, help="P of ER or WS: a probability")
    parser.add_argument("--m", type=int, help="M of BA: edges of a new node")
    parser.add_argument("--regime", choices=REGIMES, default="regular", help="column of Table 1")
    parser.add_argument("--channels", type=int, default=109, help="C of Table 1")
    parser.add_argument("--nodes", type=int, default=32, help="N of Table 1")
    parser.add_argument("--seed-per-stage", action="store_true", help="another graph each stage")
    parser.add_argument("--input-size", type=int, default=224, help="height and width, pixels")


def network_from_arguments(args: argparse.Namespace, seed: int) -> NetworkSpec:
    """The network that the options of `add_network_arguments` choose."""
    return generate(
        args.generator,
        seed=seed,
        regime=args.regime,
        channels=args.channels,
        nodes=args.nodes,
        k=args.k,
        p=args.p,
        m=args.m,
        seed_per_stage=args.seed_per_stage,
    )


def choose_device(wanted: str, logger: logging.Logger) -> str:
    """`wanted`, or with a warning the CPU if no CUDA device is visible.

    Args:
        wanted: "cuda", "cuda:1", "cpu", or "auto": cuda if available, without a warning.

    Raises:
        UsageError: another kind of device, or an index beyond the visible CUDA devices.
    """
    import torch  # here, as tools without torch use this module, too

    count = torch.cuda.device_count()  # does not initialize CUDA, which would break forking
    if wanted == "auto":
        return "cuda" if count else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = None
    if device and device.type == "cuda" and not count:
        logger.warning("No CUDA device is visible: running on the CPU.")
        return "cpu"
    if not device or device.type not in ("cuda", "cpu") or (device.index or 0) >= max(count, 1):
        raise UsageError(f"device {wanted!r}: not usable here; expected cuda, cuda:1 or cpu")
    return wanted
