"""Checks that weights fit into memory before they are allocated."""

import os

from ..errors import UsageError


def require_memory(parameters: int, what: str) -> None:
    """Refuse a model that is larger than this machine's memory.

    Args:
        parameters: of 4 bytes each.
        what: the model and the config keys that determine its size, for the message.

    Raises:
        UsageError: the weights exceed the machine's memory.
    """
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on every system
        return
    if 4 * parameters > memory:
        raise UsageError(
            f"{what}: the weights alone would take {4 * parameters / 1e9:.3g} GB, and this machine"
            f" has {memory / 1e9:.3g} GB of memory"
        )
