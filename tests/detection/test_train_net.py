"""tools/train_net.py as its user runs it: train, resume, evaluate, and every refusal."""

import json
import os
import pickle
import runpy

import pytest
import torch
from conftest import run_tool
from detection_helpers import CLASSES, CONFIG, TINY, TOOL, as_overrides, refused, train_net
from detectron2.engine import default_argument_parser

from randwire_det.detection import commands
from randwire_det.detection.config import read_config
from randwire_det.run.checkpoint import load_checkpoint
from randwire_det.strict import load_yaml

pytestmark = pytest.mark.slow_suite


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """A run of four iterations."""
    output = tmp_path_factory.mktemp("run")
    done = train_net(shapes, changes={"OUTPUT_DIR": output, "SOLVER.MAX_ITER": 4})
    assert done.returncode == 0, done.stderr
    return output, done


def test_training_writes_a_checkpoint_that_carries_everything(trained):
    output, done = trained
    content = load_checkpoint(output / "model_final.pth")
    assert content.classes == CLASSES
    assert content.rest["iteration"] == 3
    assert content.spec.provenance["channels"] == TINY["MODEL.RANDWIRE.CHANNELS"]
    momenta = content.rest["trainer"]["_trainer"]["optimizer"]["state"]
    assert len(momenta) > 100
    assert "MODEL.WEIGHTS is empty" in done.stdout + done.stderr
    results = [json.loads(line) for line in (output / "metrics.json").open()]
    assert "bbox/AP" in results[-1]
    evaluation = json.loads((output / "inference/results.json").read_text())
    assert evaluation["iteration"] == evaluation["schedule"]["iterations"] == 4
    assert "<html" in (output / "report/report.html").read_text()
    card = (output / "model_card.md").read_text(encoding="utf-8")
    (task,) = next(iter(evaluation["datasets"].values()))["tasks"].values()
    measured = ["" if each is None else f"{each:.2f}" for each in task["metrics"].values()]
    for expected in ("4 of 4 iterations", *CLASSES, content.spec.digest[:12], " | ".join(measured)):
        assert expected in card


@pytest.mark.parametrize(
    ("norm", "freeze_at", "named", "absent"),
    [
        ("BN", 0, [], ["NORM", "FREEZE_AT"]),
        ("FrozenBN", 0, ["MODEL.RANDWIRE.NORM FrozenBN"], ["BACKBONE.FREEZE_AT"]),
        ("GN", 2, ["MODEL.BACKBONE.FREEZE_AT 2"], ["RANDWIRE.NORM"]),
    ],
)
def test_random_weights_name_only_the_keys_that_freeze_them(caplog, norm, freeze_at, named, absent):
    changes = {"MODEL.RANDWIRE.NORM": norm, "MODEL.BACKBONE.FREEZE_AT": freeze_at}
    commands.warn_of_random_weights(read_config(CONFIG, as_overrides(TINY | changes)))
    (warning,) = caplog.messages
    assert all(words in warning for words in ["MODEL.WEIGHTS is empty", *named])
    assert not any(words in warning for words in absent)


@pytest.mark.parametrize(("iterations", "said"), [(5, True), (6, False)])
def test_a_training_of_warm_up_alone_is_reported(iterations, said, caplog):
    changes = {"SOLVER.WARMUP_ITERS": 5, "SOLVER.MAX_ITER": iterations}
    commands.warn_of_warm_up(read_config(CONFIG, as_overrides(TINY | changes)))
    assert ("never reaches BASE_LR" in caplog.text) == said


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_without_cuda_it_takes_the_cpu_and_says_so(trained):
    assert "running on the CPU" in trained[1].stdout + trained[1].stderr


def test_resume_goes_on_as_if_never_stopped(shapes, trained, tmp_path):
    """With the very same weights in the end, and another number of workers."""
    long = {"SOLVER.MAX_ITER": 6, "SOLVER.STEPS": "(5,)", "SOLVER.MOMENTUM": 0.9}
    stops = {"SOLVER.CHECKPOINT_PERIOD": 3, "OUTPUT_DIR": tmp_path}
    assert train_net(shapes, changes=long | stops).returncode == 0
    whole = load_checkpoint(tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    workers = {"DATALOADER.NUM_WORKERS": 2}
    done = train_net(shapes, "--resume", changes=long | stops | workers)
    assert done.returncode == 0, done.stderr
    resumed = load_checkpoint(tmp_path / "model_final.pth")
    assert "Starting training from iteration 3" in done.stdout
    assert resumed.rest["iteration"] == whole.rest["iteration"] == 5
    ours, theirs = (c.rest["trainer"]["_trainer"]["optimizer"] for c in (resumed, whole))
    assert ours["param_groups"][0]["lr"] == theirs["param_groups"][0]["lr"]
    start = load_checkpoint(tmp_path / "model_0000002.pth").rest["trainer"]["_trainer"]["optimizer"]
    assert start["state"][0]["momentum_buffer"].abs().sum() > 0
    for name, value in whole.model.items():
        assert torch.equal(resumed.model[name], value), name


def test_eval_only_gives_the_ap_of_the_training(shapes, trained, tmp_path):
    output, _ = trained
    before = (output / "config.yaml").read_text()
    for options, changes in (
        ((), {"MODEL.WEIGHTS": output / "model_final.pth", "OUTPUT_DIR": tmp_path}),
        (("--resume",), {"OUTPUT_DIR": output}),
    ):
        done = train_net(shapes, "--eval-only", *options, changes=changes)
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if "copypaste: " in line]
        assert lines[-2].endswith("AP,AP50,AP75,APs,APm,APl")
        assert len(lines[-1].split(",")) == 6
    # The training's config is still there; the report is one of the evaluation's.
    other = {"OUTPUT_DIR": output, "INPUT.MIN_SIZE_TEST": 80, "SOLVER.MAX_ITER": 9}
    done = train_net(shapes, "--eval-only", "--resume", changes=other)
    assert done.returncode == 0, done.stderr
    assert (output / "config.yaml").read_text() == before
    tested = load_yaml((output / "inference" / "config.yaml").read_text())
    assert tested["INPUT"]["MIN_SIZE_TEST"] == 80
    assert not (tmp_path / "inference" / "config.yaml").exists()
    assert load_yaml((tmp_path / "config.yaml").read_text())["OUTPUT_DIR"] == str(tmp_path)


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_damaged_and_foreign_weights_are_refused(shapes, trained, tmp_path):
    whole = (trained[0] / "model_final.pth").read_bytes()
    (tmp_path / "short.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "foreign.pth")
    for name, fragment in {
        "short.pth": "truncated",
        "bomb.pth": "refused",
        "foreign.pth": "no randwire_det checkpoint",
        "missing.pth": "no such checkpoint",
    }.items():
        path = tmp_path / name
        changes = {"MODEL.WEIGHTS": path, "OUTPUT_DIR": tmp_path / "out"}
        refused(train_net(shapes, changes=changes), 1, path, fragment)
    assert not (tmp_path / "boom").exists()


def test_weights_of_another_seed_are_refused(shapes, trained, tmp_path):
    changes = {
        "MODEL.WEIGHTS": trained[0] / "model_final.pth",
        "MODEL.RANDWIRE.SEED": 2,
        "OUTPUT_DIR": tmp_path,
    }
    done = train_net(shapes, "--eval-only", changes=changes)
    refused(done, 1, "seed 1", "seed 2", "MODEL.RANDWIRE.SEED 1")


@pytest.mark.parametrize(
    ("options", "changes", "status", "fragments"),
    [
        ((), {"MODEL.RANDWIRE.SEEED": 2}, 2, ["SEEED", "MODEL.RANDWIRE.SEED"]),
        ((), {"SOLVER.MAX_ITER": "many"}, 2, ["SOLVER.MAX_ITER"]),
        ((), {"MODEL.RANDWIRE.K": 3}, 2, ["K=3", "even"]),
        (("--eval-only",), {}, 2, ["--eval-only", "MODEL.WEIGHTS"]),
        (("--num-gpus", "4096"), {}, 2, ["--num-gpus 4096"]),
        ((), {"MODEL.DEVICE": "gpu"}, 2, ["device 'gpu'", "cuda"]),
        ((), {"DATASETS.TRAIN": "('coco_2018_train',)"}, 2, ["coco_2018_train"]),
        ((), {"DATASETS.TRAIN": "('coco_2017_train',)"}, 1, ["DETECTRON2_DATASETS"]),
        ((), {"DATASETS.COCO": "[['shapes', 'gone.json', 'images']]"}, 1, ["gone.json"]),
        ((), {"DATASETS.COCO": "[['shapes', 'shapes.json']]"}, 2, ["DATASETS.COCO"]),
    ],
)
def test_bad_usage_is_one_line(shapes, tmp_path, options, changes, status, fragments):
    done = train_net(shapes, *options, changes={"OUTPUT_DIR": tmp_path} | changes)
    refused(done, status, *fragments)


def test_a_data_set_with_faults_is_reported_before_the_run(shapes, tmp_path):
    """What would stop it later, stops it now; the run in OUTPUT_DIR stays as it was."""
    content = json.loads((shapes / "shapes.json").read_text())
    content["images"][0]["file_name"] = "gone.png"
    content["images"][1]["width"] += 1
    content["annotations"][7]["bbox"] = [-50, 0, 20, 20]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(content))
    (tmp_path / "config.yaml").write_text("mine")
    rows = f"[['broken', '{broken}', '{shapes / 'images'}']]"
    changes = {"DATASETS.COCO": rows, "OUTPUT_DIR": tmp_path}
    names = {"DATASETS.TRAIN": "('broken',)", "DATASETS.TEST": "('broken',)"}
    done = train_net(shapes, changes=changes | names)
    refused(done, 1, "broken.json", "image-absent 1 (first: 'gone.png'", "image-size 1")
    assert "warning box-outside: 1" in done.stdout
    assert (tmp_path / "config.yaml").read_text() == "mine"
    assert "box-outside" in (tmp_path / "log.txt").read_text()


def test_an_option_among_the_overrides_is_not_taken_for_a_key(shapes, tmp_path):
    done = train_net(shapes, changes={"OUTPUT_DIR": tmp_path}, overrides=["--resume"])
    refused(done, 2, "--resume", "before")


def test_unsafe_yaml_is_refused_and_not_run(tmp_path):
    config = tmp_path / "evil.yaml"
    config.write_text(f'OUTPUT_DIR: !!python/object/apply:os.mkdir ["{tmp_path / "boom"}"]\n')
    done = run_tool("train_net.py", "--config-file", config)
    refused(done, 2, config)
    assert not (tmp_path / "boom").exists()


def test_the_options_are_those_of_detectron2():
    """Written again in the tool, as detectron2's import takes seconds."""
    theirs = {action.dest: action for action in default_argument_parser()._actions}
    ours = {action.dest: action for action in runpy.run_path(str(TOOL))["make_parser"]()._actions}
    assert ours.keys() == theirs.keys() | {"slurm"}
    for name, action in theirs.items():
        for field in ("option_strings", "default", "type", "nargs", "const"):
            if (name, field) != ("opts", "default"):  # [] either way, once parsed
                assert getattr(ours[name], field) == getattr(action, field), name
