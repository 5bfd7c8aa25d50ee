"""What all commands share: user errors as one line, help with defaults, choice of device."""

import argparse
import atexit
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UsageError, UserError
from ..printing import escape_log, one_line
from ..spec.generator import GENERATORS, REGIMES, generate
from ..spec.spec import NODE_OPS, SEP_CONV3X3, NetworkSpec

INTERRUPTED = 130  # the exit status, as of a shell
# What setup cannot require, as no index has it: how to install it.
NOT_REQUIRED = {
    "detectron2": "python tools/install_detectron2.py, or from source (README, In your own project)"
}


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Wrap slow imports so that Ctrl-C ends the process quietly, as it does in `run`.

    KeyboardInterrupt would surface inside torch's modules instead. torchvision's use of
    torch.jit.script, of which torch warns, is nothing that a user could mend.
    """
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

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


def show_log(*packages: str) -> None:
    """Log these packages to stderr from INFO on, and ignore warnings unless -W is given.

    torch and detectron2 warn about each other's versions, which a user cannot fix.
    """
    logging.basicConfig(format="%(message)s")
    for name in packages:
        logging.getLogger(name).setLevel(logging.INFO)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


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
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in NOT_REQUIRED:
            raise
        print(f"error: {package} is not installed: {NOT_REQUIRED[package]}", file=sys.stderr)
        status = 1
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


def several(kind: Callable[[str], object] = str, choices: tuple = ()) -> Callable[[str], list]:
    """The `type` of an option that takes values separated by commas: "1,2,3".

    Such an option can stand before KEY VALUE pairs or other arguments, unlike one with `nargs`.
    """

    def values(text: str) -> list:
        try:
            found = [kind(part.strip()) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: expected values such as 1,2") from None
        for each in found:
            if choices and each not in choices:
                expected = ", ".join(map(str, choices))
                raise argparse.ArgumentTypeError(f"{each!r}: expected some of {expected}")
        return found

    return values


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a network, read by `network_from_arguments`."""
    parser.add_argument("--generator", choices=GENERATORS, default="ws", help="graph model")
    for name, (kind, text) in _PARAMETERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    parser.add_argument("--graph", metavar="JSON", help="of graph: a file with your own graph")
    regimes = "a column of Table 1, or cifar for 32 x 32 pictures"
    parser.add_argument("--regime", choices=REGIMES, default="regular", help=regimes)
    parser.add_argument("--channels", type=float, default=109, help="C of Table 1")
    parser.add_argument("--nodes", type=int, default=32, help="N of Table 1")
    parser.add_argument("--op", choices=NODE_OPS, default=SEP_CONV3X3, help="operation of a node")
    parser.add_argument("--seed-per-stage", action="store_true", help="another graph each stage")
    parser.add_argument("--input-size", type=int, default=224, help="height and width, pixels")


# Parameters of graph models: type and help of their options.
_PARAMETERS = {
    "k": (int, "K of ws (even), ring, chain or nago: neighbours"),
    "p": (float, "P of er, ws, ws_flex or nago: a probability"),
    "m": (int, "M of ba: edges of a new node"),
    "degree": (float, "of ws_flex: average degree"),
    "mid_nodes": (int, "of nago: nodes of a middle graph"),
    "mid_p": (float, "of nago: P of a middle graph, ER"),
    "bottom_nodes": (int, "of nago: nodes of a bottom graph"),
    "bottom_k": (int, "of nago: K of a bottom graph, WS"),
    "bottom_p": (float, "of nago: P of a bottom graph, WS"),
}


def network_from_arguments(args: argparse.Namespace, seed: int, **changes) -> NetworkSpec:
    """The network that the options of `add_network_arguments` choose.

    Args:
        changes: arguments of `generate` in place of those of the command line.
    """
    names = ("regime", "channels", "nodes", "op", "graph", "seed_per_stage", *_PARAMETERS)
    arguments = {name: getattr(args, name) for name in names}
    return generate(args.generator, seed=seed, **arguments | changes)


def add_class_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a tool that writes OUTPUT/{train,val}/<class>/<image>."""
    parser.add_argument(
        "--output", type=Path, metavar="DIR", required=True, help="a folder that does not exist yet"
    )
    for split in ("train", "val"):
        parser.add_argument(
            f"--{split}-per-class",
            type=int,
            metavar="N",
            help=f"take the first N {split} images of each class; None: all of them",
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
