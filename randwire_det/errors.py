"""What a user did and can mend: the tools print it as one line, without a traceback."""

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
    """Bad input. The message names the value, what was expected and how to mend it."""

    exit_status = 1
    told = False  # whether the other processes of a training have left because of it


class UsageError(UserError):
    """A command or its config was given wrongly, as against the data it was pointed at."""

    exit_status = 2
