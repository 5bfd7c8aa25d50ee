"""What the tests of several processes and of interrupted runs share."""

import socket
import time
from pathlib import Path

import torch


def assert_same(one, other, where=""):
    """Two nests of dicts and lists with equal tensors and values."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{number}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def wait_until(process, condition):
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()


def half_written(output, name=""):
    return list(output.glob(f".{name}*.tmp")) if output.exists() else []


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def child_of(pid):
    """The last process that `pid` has started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1])
