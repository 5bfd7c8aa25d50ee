"""A detection training that is killed at any moment ends as the one that was not."""

import random
import shutil
import signal
import subprocess
import time

import pytest
import torch
from conftest import start_python
from detection_helpers import CONFIG, RETINANET, RUN, TOOL, as_overrides, in_two, train_net
from process_helpers import assert_same, half_written, wait_until

from randwire_det.detection.checkpointer import CHECKPOINTS, newest_checkpoint
from randwire_det.run.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow_suite

EVERYTHING = {  # that has a state or draws lots
    "SOLVER.EMA_DECAY": 0.9,
    "SOLVER.AMP.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.MAX_ITER": 32,
    "SOLVER.STEPS": "(16,)",
    "SOLVER.WARMUP_ITERS": 10,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "INPUT.MIN_SIZE_TRAIN": "(80, 96, 112)",
    "INPUT.CROP.ENABLED": True,
    "TEST.EVAL_PERIOD": 20,
    "TEST.REPORT": False,
}


def test_a_run_killed_at_any_moment_ends_as_the_one_that_was_not(shapes, tmp_path):
    """Half of the kills at a random moment, half while a checkpoint is being written."""
    unbroken, output = tmp_path / "unbroken", tmp_path / "killed"
    done = train_net(shapes, changes=EVERYTHING | {"OUTPUT_DIR": unbroken})
    assert done.returncode == 0, done.stderr
    rng = random.Random(1)
    reached = [_reached(output)]
    for number in range(4):
        process = _start(shapes, output, workers=number % 3)
        if number % 2:
            old, size = set(half_written(output)), rng.randrange(300_000)
            _read_until_it_saves(process, times=rng.randrange(2, 4))
            wait_until(process, lambda old=old, size=size: _any_longer(output, old, size))
        else:
            _read_until_it_saves(process, times=rng.randrange(2, 4))
            moment = time.monotonic() + rng.uniform(0, 0.1)
            wait_until(process, lambda moment=moment: time.monotonic() > moment)
        process.send_signal(signal.SIGKILL)
        process.stdout.close()  # not read to its end, which its workers keep open for seconds
        process.wait()
        assert process.returncode == -signal.SIGKILL
        reached.append(_reached(output))
    assert reached == sorted(set(reached))  # each went on from where the one before it was
    done = train_net(shapes, "--resume", changes=EVERYTHING | {"OUTPUT_DIR": output})
    assert done.returncode == 0, done.stderr
    assert f"Starting training from iteration {reached[-1] + 1}" in done.stdout
    _assert_same_run(output, unbroken)


def _start(root, output, *, workers):
    # The number of workers is nothing that a result depends on.
    changes = {"OUTPUT_DIR": output, "DATALOADER.NUM_WORKERS": workers}
    return start_python(
        *[TOOL, "--config-file", CONFIG, "--resume", *as_overrides(RUN | EVERYTHING | changes)],
        stderr=subprocess.STDOUT,
        env={"DETECTRON2_DATASETS": str(root)},
    )


def _read_until_it_saves(process, *, times):
    lines = []
    for line in process.stdout:
        lines.append(line)
        times -= "Saving checkpoint to" in line
        if not times:
            return
    raise AssertionError("".join(lines))


def _any_longer(output, old, size):
    """Whether a checkpoint that is being written has more bytes than `size`."""
    for path in set(half_written(output, "model")) - old:
        try:
            if path.stat().st_size > size:
                return True
        except FileNotFoundError:  # it is whole by now, and has its name
            pass
    return False


def _reached(output):
    """The iteration of the newest checkpoint, from 0; -1 where there is none."""
    newest = newest_checkpoint(output)
    return newest.rest["iteration"] if newest else -1


def _assert_same_run(folder, reference):
    """All checkpoints, with weights, average, optimizer and progress, and the last detections."""
    names = sorted(path.name for path in reference.glob(CHECKPOINTS))
    assert sorted(path.name for path in folder.glob(CHECKPOINTS)) == names
    for name in names:
        one, other = (vars(load_checkpoint(each / name)) for each in (folder, reference))
        assert other["ema"]
        folders = {"path": None, "config": None}  # the config names another OUTPUT_DIR
        assert_same(one | folders, other | folders, name)
    found = [each / "inference" / "coco_instances_results.json" for each in (folder, reference)]
    assert found[0].read_bytes() == found[1].read_bytes()


@pytest.mark.parametrize("processes", [1, 2])
def test_retinanet_goes_on_with_the_anchors_that_it_has_counted(shapes, tmp_path, processes):
    """It divides its loss by an average of them, of each process, which no tensor holds."""
    changes = RETINANET | {
        "SOLVER.MAX_ITER": 4,
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "DATASETS.TEST": "()",
        "TEST.REPORT": False,
    }

    def run(*options, output):
        if processes == 1:
            return train_net(shapes, *options, changes=changes | {"OUTPUT_DIR": output})
        return in_two("--num-gpus", shapes, *options, **changes, OUTPUT_DIR=output)

    done = run(output=tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    (tmp_path / "part").mkdir()
    shutil.copy(tmp_path / "whole/model_0000001.pth", tmp_path / "part")
    done = run("--resume", output=tmp_path / "part")
    assert done.returncode == 0, done.stderr
    whole, part = (
        load_checkpoint(tmp_path / f"{each}/model_final.pth") for each in ("whole", "part")
    )
    assert all(torch.equal(each, part.model[name]) for name, each in whole.model.items())
