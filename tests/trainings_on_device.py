"""Trainings on a device, by the commands: tools/gpu_check.py.

A GPU need not repeat a training bit for bit. So an unbroken run is made twice, and a resumed one
may be as far from it as the second one is, with a margin.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from conftest import REPO
from network_helpers import build
from pretrain_helpers import make_folders, tiny_file
from specs import tiny_spec
from torch.nn.parallel import DistributedDataParallel

from randwire_det.run.checkpoint import load_checkpoint

MARGIN = 3.0
FLOOR = 1e-6
PRETRAINING = {
    "all that has a state": [
        *[
            "SOLVER.EMA_DECAY",
            0.9,
            "SOLVER.AMP",
            "fp16",
            "SOLVER.MIXUP",
            0.2,
            "MODEL.EDGE_DROP",
            0.5,
        ],
    ],
    "fp32": [],
}


class Row(NamedTuple):
    """What a training ended with.

    Attributes:
        difference: of its weights to those that it should have, as a share of their norm.
        allowed: the most.
    """

    name: str
    difference: float
    allowed: float

    @property
    def is_right(self) -> bool:
        return self.difference <= self.allowed


def check(device: str, folder: Path) -> Iterator[Row]:
    """Pretraining and detection resumed, and one process in DistributedDataParallel."""
    make_folders(folder / "colours")
    with ThreadPoolExecutor() as pool:  # each of them starts processes, whose start is most of it
        rows = [pool.submit(_pretraining, device, folder, *each) for each in PRETRAINING.items()]
        try:
            from detection_helpers import make_shapes
        except ImportError as error:
            print(f"detection is not checked: {error}", flush=True)
        else:
            (folder / "shapes").mkdir()
            rows.append(pool.submit(_detection, device, make_shapes(folder / "shapes"), folder))
        for row in as_completed(rows):
            yield row.result()
    yield _in_parallel(device, folder)


def _pretraining(device, folder, name, keys) -> Row:
    def run(output, *options):
        config = tiny_file(folder / "colours", output)
        keep = ["SOLVER.EPOCHS", 4, "CHECKPOINTS_KEPT", 9, "DEVICE", device, *keys]
        _tool("pretrain_imagenet.py", "--config-file", config, *options, *keep)

    return _resumed(f"pretraining, {name}, resumed", folder / f"pretraining {name}", run)


def _detection(device, shapes, folder) -> Row:
    from detection_helpers import CONFIG, RUN, as_overrides

    changes = {"SOLVER.MAX_ITER": 8, "SOLVER.CHECKPOINT_PERIOD": 4, "SOLVER.AMP.ENABLED": True}
    changes |= {"MODEL.DEVICE": device, "TEST.REPORT": False}

    def run(output, *options):
        keys = as_overrides(RUN | changes | {"OUTPUT_DIR": output})
        env = {"DETECTRON2_DATASETS": str(shapes)}
        _tool("train_net.py", "--config-file", CONFIG, *options, *keys, env=env)

    row = _resumed("detection, fp16, resumed", folder / "detection", run)
    weights = folder / "detection" / "unbroken" / "model_final.pth"
    found = ["--output", folder / "found", "--device", device]
    _tool("predict.py", "--weights", weights, "--input", shapes / "images", *found)
    return row


def _resumed(name, folder, run) -> Row:
    """Run twice, then once more from the middle of the first."""
    folder.mkdir()
    unbroken, again, resumed = (folder / each for each in ("unbroken", "again", "resumed"))
    with ThreadPoolExecutor() as pool:
        list(pool.map(run, (unbroken, again)))
    resumed.mkdir()
    states = sorted(each for each in unbroken.glob("*.pth") if any(map(str.isdigit, each.name)))
    for path in unbroken.iterdir():
        late = path.suffix == ".pth" and path not in states[: len(states) // 2]
        if not late and path.is_file():
            shutil.copy(path, resumed)
    if (resumed / "last_checkpoint").exists():
        (resumed / "last_checkpoint").write_text(states[len(states) // 2 - 1].name)
    run(resumed, "--resume")
    final = [_weights(each / "model_final.pth") for each in (unbroken, again, resumed)]
    spread = _difference(final[1], final[0])
    return Row(name, _difference(final[2], final[0]), max(MARGIN * spread, FLOOR))


def _weights(path: Path) -> torch.Tensor:
    model = load_checkpoint(path).model
    return torch.cat([model[name].double().flatten() for name in sorted(model)])


def _difference(one, other) -> float:
    return float((one - other).norm() / other.norm())


def _in_parallel(device, folder) -> Row:
    """The gradients of a trunk in DistributedDataParallel, one process, by NCCL on a GPU."""
    kind = torch.device(device).type
    backend = "nccl" if kind == "cuda" else "gloo"
    store = dist.FileStore(str(folder / "store"), 1)
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        trunk = build(tiny_spec(channels=16), torch.float32).to(device)
        image = torch.randn(2, 3, 64, 64, device=device)
        ids = [0] if kind == "cuda" else None
        gradients = []
        for model in (trunk, trunk, DistributedDataParallel(trunk, device_ids=ids)):
            trunk.zero_grad(set_to_none=True)
            sum(each.square().mean() for each in model(image).values()).backward()
            grads = [each.grad.double().flatten() for each in trunk.parameters()]
            gradients.append(torch.cat(grads).cpu())
    finally:
        dist.destroy_process_group()
    alone, again, wrapped = gradients
    allowed = max(MARGIN * _difference(again, alone), FLOOR)
    return Row(f"gradients of one process by {backend}", _difference(wrapped, alone), allowed)


def _tool(name, *args, env=None) -> None:
    command = [sys.executable, str(REPO / "tools" / name), *map(str, args)]
    done = subprocess.run(command, env=os.environ | (env or {}), capture_output=True, text=True)
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise RuntimeError(f"{' '.join(command)}\n{end}")
