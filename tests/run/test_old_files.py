"""Files that commit 9379022 wrote, one of each kind, load, are evaluated, and trained on.

Those of pretraining come from the end of the first of two epochs on `make_folders`, and hold the
keys of the network directly under MODEL; the detector's comes from the first iteration on `shapes`.
"""

import gzip
from pathlib import Path

import pytest
import torch
from detection_helpers import CLASSES, train_net
from pretrain_helpers import message_of, tiny

from pretrain import commands
from randwire_det.config.network_keys import stored_values
from randwire_det.detection.stored import load_detector

DATA = Path(__file__).parents[1] / "data"
NETWORK = {"MODEL.RANDWIRE.CHANNELS": 2, "MODEL.RANDWIRE.K": 2}
RECIPE = {"MODEL.RANDWIRE.NODES": 3, "MODEL.HEAD_CHANNELS": 4, "MODEL.DROPOUT": 0.0}
RECIPE |= NETWORK | {"SOLVER.EPOCHS": 2, "SOLVER.WARMUP_EPOCHS": 1}
KINDS = {
    "classifier": RECIPE,
    "baseline": RECIPE | {"MODEL.NAME": "resnet18", "MODEL.WIDTH": 1 / 64},
}
RIGHT = {"classifier": 8, "baseline": 11}  # images of 24, as that commit tested them
DETECTOR = NETWORK | {
    "MODEL.RANDWIRE.NODES": 4,
    "MODEL.FPN.OUT_CHANNELS": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 4,
    "TEST.REPORT": False,
}


def unpacked(kind, path):
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.decompress((DATA / f"{kind}.pth.gz").read_bytes()))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_pretraining_is_evaluated_and_goes_on(colours, tmp_path, kind):
    path = unpacked(kind, tmp_path / "run" / "checkpoint_00000009.pth")

    def config(output, **changes):
        keys = KINDS[kind] | changes
        return tiny(colours, output, *(item for pair in keys.items() for item in pair))

    result = commands.evaluate_only(config(tmp_path / "test", **{"MODEL.WEIGHTS": path}))
    content = torch.load(path, weights_only=True)
    assert result["top1"] == pytest.approx(100 * RIGHT[kind] / 24)
    assert "MODEL.K" not in stored_values(content["config"])
    assert stored_values(content["config"])["MODEL.RANDWIRE.K"] == 2
    other = config(path.parent, **{"SOLVER.EPOCHS": 3})
    assert "SOLVER.EPOCHS 2" in message_of(commands.train, other, resuming=True)
    assert commands.train(config(path.parent), resuming=True) == 0
    assert (path.parent / "checkpoint_00000018.pth").exists()


def test_a_detector_loads_and_is_evaluated(shapes, tmp_path):
    path = unpacked("detector", tmp_path / "run" / "model_0000000.pth")
    _, cfg, classes = load_detector(path, "cpu")
    assert (cfg.MODEL.RANDWIRE.NODES, classes) == (4, CLASSES)
    keys = {"OUTPUT_DIR": tmp_path / "test", "MODEL.WEIGHTS": path}
    done = train_net(shapes, "--eval-only", changes=DETECTOR | keys)
    assert done.returncode == 0, done.stderr


def test_a_detector_starts_from_a_classifier(shapes, tmp_path):
    path = unpacked("classifier", tmp_path / "run" / "checkpoint_00000009.pth")
    keys = {"MODEL.RANDWIRE.NODES": 3, "MODEL.RANDWIRE.P": 0.5}
    keys |= {"MODEL.PIXEL_MEAN": [90.0, 100.5, 110.0], "MODEL.PIXEL_STD": [60.0, 65.0, 70.0]}
    keys |= {"MODEL.WEIGHTS": path, "OUTPUT_DIR": tmp_path / "detector", "SOLVER.MAX_ITER": 1}
    done = train_net(shapes, changes=DETECTOR | keys)
    assert done.returncode == 0, done.stderr
