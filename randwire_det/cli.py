"""What all commands share: one clear line for a user's mistake, help with defaults, the device."""

import argparse
import logging
import os
import sys
from collections.abc import Callable

from .errors import UserError


def run(main: Callable[[], None]) -> None:
    """Run a command; a UserError becomes one line on stderr and its exit status."""
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """An argument parser whose help states every default and ends with an example."""

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    return argparse.ArgumentParser(
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=Formatter,
        allow_abbrev=False,
    )


def choose_device(wanted: str, logger: logging.Logger) -> str:
    """`wanted` ("cuda" or "cpu"), or the CPU where there is no CUDA device, and say so."""
    import torch  # the torch-free tools use this module, too

    if wanted.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("No CUDA device is visible: running on the CPU.")
        return "cpu"
    return wanted
