"""Errors that a user can fix. The tools print each as one line, without a traceback."""

import reprlib

EXIT_STOPPED = 75  # "temporary failure": a checkpoint was written, --resume goes on
LONGEST = 200  # characters


def brief(value: object) -> str:
    """A value from a file, on one short line; lists that hold each other would have no end."""
    try:
        text = reprlib.repr(value)
    except Exception:  # of a tensor without content, a number of 5,000 digits
        text = f"of the type {type(value).__name__}"
    return " ".join(text.split())[:LONGEST]


class UserError(ValueError):
    """Bad input. The message names the value, what was expected and how to fix it."""

    exit_status = 1
    shared = False  # whether all ranks already know of it and are leaving (`World.together`)


class UsageError(UserError):
    """The command line or the config is wrong, rather than the data."""

    exit_status = 2
