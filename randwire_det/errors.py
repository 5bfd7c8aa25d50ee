"""What a user did and can mend: the tools print it as one line, without a traceback."""

EXIT_STOPPED = 75  # "temporary failure": a checkpoint was written, --resume goes on


class UserError(ValueError):
    """Bad input. The message names the value, what was expected and how to mend it."""

    exit_status = 1
    told = False  # whether the other processes of a training have left because of it


class UsageError(UserError):
    """A command or its config was given wrongly, as against the data it was pointed at."""

    exit_status = 2
