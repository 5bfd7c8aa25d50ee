"""Checkpoints to write and to spoil: of a tiny classifier, and of a baseline."""

import pytest
from conftest import tiny_spec

from randwire_det.errors import UserError
from randwire_det.network import RandWireClassifier
from randwire_det.run.checkpoint import Preprocessing, load_checkpoint, save_checkpoint

SPEC = tiny_spec("ba", nodes=4)


class Payload:
    """Pickled, it creates a file as soon as it is unpickled without care."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


class Interrupted:
    """A Ctrl-C while this object is written."""

    def __reduce__(self):
        raise KeyboardInterrupt


def classifier():
    return RandWireClassifier(SPEC, 3, head_channels=8)


def save(path, **changes):
    content = {
        "kind": "classifier",
        "model": classifier().state_dict(),
        "spec": SPEC,
        "preprocessing": Preprocessing(),
    }
    save_checkpoint(path, **content | changes)


def refusal(path, **kwargs):
    """The message with which a file is refused: it names the file, in one line."""
    with pytest.raises(UserError) as caught:
        load_checkpoint(path, **kwargs)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def baseline(**changes):
    """What `save` takes to write a baseline's file."""
    architecture = {"name": "resnet50", "width": 0.25}
    return {"kind": "baseline", "spec": None, "architecture": architecture} | changes
