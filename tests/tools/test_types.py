"""What a user's type checker sees of the public face."""

import re
import subprocess
import sys

import pytest
from conftest import REPO

pytestmark = pytest.mark.slow_suite

PROGRAM = """
import torch
from torch import Tensor

from randwire_det import NetworkSpec, generate
from randwire_det.config import config_path
from randwire_det.detection import RandWireBackbone
from randwire_det.network import RandWire, RandWireClassifier, fuse, graphed

spec: NetworkSpec = generate("ws", seed=1, regime="small", channels=78, k=4, p=0.75)
digest: str = spec.digest
trunk = RandWire(spec, out_features=["conv3"], memory="lean", output_stride=16)
maps: dict[str, Tensor] = trunk.forward(torch.randn(1, 3, 64, 64))
fused: RandWire = trunk.fuse(torch.bfloat16)
classifier: RandWireClassifier = fuse(RandWireClassifier(spec, num_classes=5))
path: str = config_path("faster_rcnn_randwire_c109.yaml")
backbone = RandWireBackbone(spec=spec, out_features=("res2", "res3"), freeze_at=2)
features: dict[str, Tensor] = backbone.forward(torch.randn(1, 3, 64, 64))
"""
WRONG = {
    "seed": 'generate("ws", seed="one", regime="small", channels=78)',
    "memory": "RandWire(spec, memory=3)",
    "NetworkSpec": "RandWire(spec.digest)",
    "freeze_at": 'RandWireBackbone(spec=spec, freeze_at="2")',
    "Unexpected keyword": "RandWireClassifier(spec, classes=5)",
}


def test_a_strict_program_passes_and_mistakes_are_found(tmp_path):
    lines = PROGRAM.splitlines()
    program = tmp_path / "program.py"
    program.write_text("\n".join([*lines, *WRONG.values(), ""]))
    # torch's own types are Any here: reading them takes 20 seconds.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\nignore_missing_imports = True\nfollow_imports = silent\n"
        "disallow_subclassing_any = False\n[mypy-torch.*,torchvision.*]\nfollow_imports = skip\n"
    )
    options = ["--cache-dir", tmp_path / "cache", "--config-file", tmp_path / "mypy.ini"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *map(str, options), str(program)],
        env={"MYPYPATH": str(REPO)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"program.py:(\d+): error: (.*)", done.stdout)
    assert [int(line) for line, _ in found] == [
        len(lines) + number for number in range(1, len(WRONG) + 1)
    ], done.stdout + done.stderr
    for (_, message), expected in zip(found, WRONG, strict=True):
        assert expected in message
