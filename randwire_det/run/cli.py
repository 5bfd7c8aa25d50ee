"""What all commands share: one clear line for a user's mistake, help with defaults, the device."""

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
    """Around imports that take seconds: Ctrl-C ends the process in them as it does in `run`.

    Not by an exception, which would come out of the midst of torch's own modules.
    """

    def leave(number, frame):
        if int(os.environ.get("RANK", 0)) == 0:
            os.write(sys.stderr.fileno(), b"interrupted\n")
        os._exit(INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # as a shell starts what it puts in the background
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run(main: Callable[[], int | None]) -> None:
    """Run a command; a user's mistake becomes one line on stderr and an exit status.

    So does what the system refuses: a full disk, a folder that may not be written to. What `main`
    returns is the exit status, None is 0.
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
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {one_line(f'{where}{error.strerror or error}')}", file=sys.stderr)
        status = 1
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and isinstance(status, int | None):
        # One of gloo's threads may be about to let go of a tensor. Once the interpreter is being
        # taken down that aborts the process, and torchrun takes a run that is done for a failure.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)
    sys.exit(status)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """States every default and keeps the line breaks of the example."""


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """An argument parser whose help states every default and ends with an example."""
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
    """`wanted`; the CPU where there is no CUDA device, and say so.

    Args:
        wanted: "cuda", "cuda:1", "cpu", or "auto", which is cuda or the CPU without a word.

    Raises:
        UsageError: a device of another kind, or a CUDA device that there is not among others.
    """
    import torch  # the torch-free tools use this module, too

    count = torch.cuda.device_count()  # does not start CUDA, which processes to be forked must not
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
