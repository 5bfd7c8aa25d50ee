"""Processes that read images: what ends the run, and how it is said; signals while it waits."""

import ctypes
import json
import os
import signal
import threading
import time

import pytest
import torch
from detection_helpers import RUN, tiny_config
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from pretrain_helpers import message_of, tiny
from torch.utils.data import DataLoader, Dataset

from pretrain import data
from randwire_det.coco.datasets import register_coco_datasets
from randwire_det.detection.loader import TestLoader, TrainLoader
from randwire_det.errors import EXIT_STOPPED
from randwire_det.run.parallel import World
from randwire_det.run.stopping import AskedToStop, Stopping
from randwire_det.run.workers import Workers, batches_of

pytestmark = pytest.mark.slow_suite

ALONE = World()
NEW_MOUNTS, RECURSIVE_PRIVATE = 0x20000, 0x4000 | 0x40000  # CLONE_NEWNS, MS_REC | MS_PRIVATE


def mount_small_shared_memory(size):
    """A /dev/shm of this process and its children alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = ctypes.c_char_p(f"size={size}".encode())
    if (
        libc.unshare(NEW_MOUNTS)
        or libc.mount(None, b"/", None, RECURSIVE_PRIVATE, None)
        or libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, options)
    ):
        raise PermissionError(ctypes.get_errno(), "mount")


def in_small_shared_memory(size, calls, path):
    """Write the error of each call to a file; one process a call, since each waits for seconds."""
    processes = []
    for number, call in enumerate(calls):
        if (pid := os.fork()) == 0:
            try:
                mount_small_shared_memory(size)
                message = message_of(call)
            except PermissionError:
                message = None
            except BaseException as error:
                message = f"not as it should be: {error!r}"
            (path / str(number)).write_text(json.dumps(message))
            os._exit(0)
        processes.append(pid)
    deadline = time.monotonic() + 100
    for pid in processes:
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                raise AssertionError("it waits without an end")
    return [json.loads((path / str(number)).read_text()) for number in range(len(calls))]


def test_shared_memory_that_is_too_small_ends_the_run_in_one_line(
    colours,
    shapes,
    tmp_path,
    capfd,
):
    """In training and test, on both sides; and where not even the workers can be started."""
    train_data, _ = data.open_data(tiny(colours, tmp_path / "run"))
    cfg = tiny_config(**RUN | {"MODEL.DEVICE": "cpu", "DATALOADER.NUM_WORKERS": 2})
    register_coco_datasets(cfg, str(shapes))

    def pretraining(workers):
        loader = data.Loader(train_data, workers=workers, prefetch=2)
        list(loader([data.in_order(8)] * 20))

    def detection():
        dicts, mapper = DatasetCatalog.get("shapes"), DatasetMapper(cfg, True)
        options = {"batch_size": 4, "seed": 1, "by_aspect": False, "world": ALONE}
        for _ in TrainLoader(dicts, mapper, workers=2, **options):
            pass

    def detection_test():
        list(TestLoader(cfg, "shapes", ALONE))

    calls = [lambda: pretraining(2), lambda: pretraining(8), detection, detection_test]
    capfd.readouterr()
    try:
        messages = in_small_shared_memory("64k", calls, tmp_path)
    finally:
        DatasetCatalog.pop("shapes")
        MetadataCatalog.pop("shapes")
    if None in messages:
        pytest.skip("mounting is not permitted here")
    for message in messages:
        assert "No space left on device" in message, message
        assert "/dev/shm holds 64 KiB" in message and "--shm-size" in message
    assert "cannot be started" in messages[1] and "DATA.NUM_WORKERS" in messages[1]
    assert "DATALOADER.NUM_WORKERS" in messages[2]
    assert "Traceback" not in capfd.readouterr().err


# --- signals while it waits


class Stuck(Dataset):
    """Nothing is ever read, as from a disk that is gone."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        time.sleep(1000)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_ends_a_wait_that_has_no_end(workers):
    loader = DataLoader(Stuck(), num_workers=workers, worker_init_fn=Workers())
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
    begun = time.monotonic()
    with Stopping() as stopping, pytest.raises(AskedToStop) as caught:
        next(batches_of(loader, "WORKERS"))
    assert (stopping.reason, caught.value.code) == ("SIGTERM", EXIT_STOPPED)
    assert time.monotonic() - begun < 100  # and not Stuck's


class Reads(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        return index


def test_a_signal_outside_a_wait_interrupts_nothing():
    """A step is finished; the next wait is not begun."""
    batches = batches_of(DataLoader(Reads(), num_workers=0), "WORKERS")
    with Stopping() as stopping:
        next(batches)
        os.kill(os.getpid(), signal.SIGTERM)
        step = torch.ones(3).sum()
        assert step == 3 and stopping
        with pytest.raises(AskedToStop):
            next(batches)
