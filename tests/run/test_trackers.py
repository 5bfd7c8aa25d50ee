"""Weights & Biases and MLflow, offline: the numbers of both sides arrive there, once each."""

import json

import pytest
from detection_helpers import train_net
from mlflow import MlflowClient
from pretrain_helpers import tiny
from wandb.proto import wandb_internal_pb2

from pretrain.commands import train
from randwire_det.errors import UsageError, UserError
from randwire_det.run import trackers
from randwire_det.run.trackers import Trackers, check_trackers

pytestmark = pytest.mark.slow_suite


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")


def records(content):
    """Of an offline run's file: LevelDB's log format, behind a header of seven bytes."""
    at, data, block = 7, b"", 32768
    while at + 7 <= len(content):
        left = block - at % block
        if left < 7:  # too little for a header: zeros
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        data += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of its parts
            yield data
            data = b""


def in_wandb(output):
    """{iteration: {name: value}} of all runs below an OUTPUT_DIR, and their ids."""
    rows, ids = {}, set()
    for path in sorted((output / "wandb").glob("offline-run-*/*.wandb")):
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            items = record.history.item if record.HasField("history") else ()
            row = {each.key or each.nested_key[0]: json.loads(each.value_json) for each in items}
            if row:
                rows.setdefault(row["_step"], {}).update(row)
    return rows, ids


def in_mlflow(output, name):
    """{iteration: value} of a metric of the run."""
    run = (output / "mlflow_id").read_text()
    return {each.step: each.value for each in MlflowClient().get_metric_history(run, name)}


def test_pretraining(colours, tmp_path):
    output = tmp_path / "run"
    keys = ["TRACK.WANDB", "colours", "TRACK.MLFLOW", "colours"]
    train(tiny(colours, output, *keys))
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = {row["iteration"]: row["loss"] for row in rows if "loss" in row}
    tops = {row["iteration"]: row["top1"] for row in rows if "top1" in row}
    there, ids = in_wandb(output)
    assert {step: row["loss"] for step, row in there.items() if "loss" in row} == losses
    assert {step: row["top1"] for step, row in there.items() if "top1" in row} == tops
    assert ids == {(output / "wandb_id").read_text()}
    assert in_mlflow(output, "loss") == losses and in_mlflow(output, "top1") == tops
    run = MlflowClient().get_run((output / "mlflow_id").read_text())
    assert run.info.status == "FINISHED" and run.data.params["MODEL.RANDWIRE.CHANNELS"] == "8"


def test_detection_and_its_resumed_run(shapes, tmp_path):
    changes = {
        "TRACK.WANDB": "shapes",
        "TRACK.MLFLOW": "shapes",
        "SOLVER.MAX_ITER": 4,
        "SOLVER.CHECKPOINT_PERIOD": 2,
        "TEST.EVAL_PERIOD": 2,
        "TEST.REPORT": False,
        "OUTPUT_DIR": tmp_path / "run",
    }
    done = train_net(shapes, changes=changes)
    assert done.returncode == 0, done.stderr
    (tmp_path / "run/model_final.pth").unlink()
    (tmp_path / "run/model_0000003.pth").unlink()
    (tmp_path / "run/last_checkpoint").write_text("model_0000001.pth")
    done = train_net(shapes, "--resume", changes=changes)
    assert done.returncode == 0, done.stderr
    there, ids = in_wandb(tmp_path / "run")
    assert len(ids) == 1 and len(list((tmp_path / "run/wandb").glob("offline-run-*"))) == 2
    metrics = [
        json.loads(line) for line in (tmp_path / "run/metrics.json").read_text().splitlines()
    ]
    for name in ("total_loss", "bbox/AP"):
        expected = {row["iteration"]: row[name] for row in metrics if name in row}
        found = in_mlflow(tmp_path / "run", name)
        assert expected and expected.items() <= found.items()
        assert all(there[step][name] == value for step, value in expected.items())


def test_a_tracker_that_fails_does_not_end_a_training(tmp_path, monkeypatch, caplog):
    def broken(*arguments):
        def send(values, iteration):
            raise ConnectionError("the server is gone")

        return send, send

    node = tiny(tmp_path, tmp_path, "TRACK.MLFLOW", "x", "TRACK.WANDB", "y").TRACK
    seen = []
    monkeypatch.setattr(trackers, "_mlflow", broken)
    monkeypatch.setattr(trackers, "_wandb", lambda *a: (lambda *row: seen.append(row), list))
    both = Trackers(node, {}, tmp_path)
    for iteration in range(3):
        both.log({"loss": 1.0}, iteration)
    both.close()
    assert len(seen) == 3
    assert caplog.text.count("TRACK.MLFLOW is left out from here on: the server is gone") == 1


def test_what_cannot_be_started_is_said_in_one_line(shapes, tmp_path, monkeypatch):
    node = tiny(tmp_path, tmp_path, "TRACK.MLFLOW", "x").TRACK
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://")
    with pytest.raises(UserError, match=r"TRACK\.MLFLOW x: cannot be started"):
        Trackers(node, {}, tmp_path)
    monkeypatch.setitem(trackers.MODULES, "WANDB", "no_such_module")
    cfg = tiny(tmp_path, tmp_path, "TRACK.WANDB", "y")
    with pytest.raises(UsageError, match=r"TRACK\.WANDB y: no_such_module is not installed"):
        check_trackers(cfg)
