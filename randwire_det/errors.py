"""Errors that a user can fix. The tools print each as one line, without a traceback."""

import reprlib

EXIT_STOPPED = 75  # "temporary failure": a checkpoint was written, --resume continues
LONGEST = 200  # characters


def brief(value: object) -> str:
    """A value on one short line, for messages; works for recursive lists as well."""
    try:
        text = reprlib.repr(value)
    except Exception:  # a meta tensor, a number of 5,000 digits
        text = f"of the type {type(value).__name__}"
    return " ".join(text.split())[:LONGEST]


class UserError(ValueError):
    """Bad input. The message names the value, what was expected and how to fix it."""

    exit_status = 1
    shared = False  # whether all ranks know of it and are exiting (`World.together`)


class UsageError(UserError):
    """The command line or the config is wrong, rather than the data."""

    exit_status = 2
