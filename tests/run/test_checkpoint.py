"""The checkpoint file: what is written comes back, and is whole or absent."""

import os
import resource

import numpy as np
import pytest
import torch
from checkpoint_helpers import SPEC, Interrupted, baseline, classifier, save
from conftest import run_python

from randwire_det.errors import UserError
from randwire_det.run.checkpoint import KINDS, Preprocessing, load_checkpoint


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.pth"
    save(path)
    return path


# --- what is written comes back


def test_round_trip(tmp_path):
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    preprocessing = Preprocessing("BGR", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 96, "bicubic")
    progress = {"epoch": 3, "best": 0.5, "seen": [1, 2], "done": False, "note": None}
    save(
        tmp_path / "x.pth",
        model=model.state_dict(),
        preprocessing=preprocessing,
        classes=["cat", "dog", "é"],
        progress=progress,
        optimizer=optimizer.state_dict(),
    )
    data = load_checkpoint(tmp_path / "x.pth")
    assert data.kind == "classifier"
    assert data.spec == SPEC
    assert data.spec.digest == SPEC.digest
    assert data.spec.provenance == SPEC.provenance
    assert data.preprocessing == preprocessing
    assert data.classes == ["cat", "dog", "é"]
    assert data.progress == progress

    twin, image = classifier().eval(), torch.randn(2, 3, 32, 32)
    twin.load_state_dict(data.model)
    assert torch.equal(twin(image), model.eval()(image))
    torch.optim.AdamW(twin.parameters()).load_state_dict(data.rest["optimizer"])


def test_a_baseline_comes_back_with_its_architecture(tmp_path):
    save(tmp_path / "x.pth", **baseline())
    data = load_checkpoint(tmp_path / "x.pth", kinds=KINDS)
    assert data.kind == "baseline"
    assert data.spec is None
    assert data.architecture == {"name": "resnet50", "width": 0.25}
    # Its names are torchvision's: detectron2 must not match a part of them.
    assert torch.load(tmp_path / "x.pth", weights_only=True)["matching_heuristics"] is False


def test_a_classifier_from_before_there_were_baselines_loads(saved):
    data = torch.load(saved, weights_only=True)
    del data["architecture"]
    torch.save(data, saved)
    assert load_checkpoint(saved).spec == SPEC


@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_any_torch_reads_the_file_as_plain_data(tmp_path, kind):
    save(tmp_path / "x.pth", kind=kind)
    data = torch.load(tmp_path / "x.pth", weights_only=True)
    assert set(data["model"]) == set(classifier().state_dict())
    assert type(data["spec"]) is type(data["preprocessing"]) is dict
    # detectron2's checkpointer guesses names only if asked to: a classifier's trunk, not its own.
    assert data["matching_heuristics"] is (kind == "classifier")


def test_folders_are_made_and_bare_names_written_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("model.pth", "a/b/model.pth"):
        save(path)
        assert load_checkpoint(tmp_path / path).spec == SPEC


@pytest.mark.parametrize(
    ("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)], ids=oct
)
def test_the_mode_of_the_file_follows_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        save(tmp_path / "x.pth")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "x.pth").stat().st_mode & 0o777 == mode


# --- what is written is whole or absent


@pytest.mark.parametrize(
    "bad",
    [lambda: 0, (i for i in ()), Interrupted(), np.float64(1)],
    ids=["lambda", "generator", "Ctrl-C", "what weights_only refuses to load"],
)
@pytest.mark.parametrize("exists", [True, False], ids=["old file", "no file"])
def test_a_failing_write_changes_nothing(tmp_path, bad, exists):
    path = tmp_path / "model.pth"
    if exists:
        save(path)
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    with pytest.raises((Exception, KeyboardInterrupt)):
        save(path, progress={"bad": bad})
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_a_full_disk_changes_nothing(saved):
    before = saved.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(UserError, match=f"{saved} could not be written: File too large"):
            save(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {each: each.read_bytes() for each in saved.parent.iterdir()} == {saved: before}


KILL_WRITERS = """
import os, random, select, signal, sys, time
import torch
from randwire_det import generate
from randwire_det.run.checkpoint import Preprocessing, load_checkpoint, save_checkpoint

path, rng = sys.argv[1], random.Random(0)
spec = generate("er", seed=1, regime="small", channels=1, nodes=1, p=0)

def write(step):
    model = {"weight": torch.full((1_000_000,), step)}
    save_checkpoint(path, kind="classifier", model=model, spec=spec, preprocessing=Preprocessing(),
                    progress={"step": step})

start = time.monotonic()
write(0)
duration, step = time.monotonic() - start, 0
for _ in range(12):
    announced, announce = os.pipe()
    writer = os.fork()
    if writer == 0:
        while True:
            step += 1
            os.write(announce, b".")
            write(step)
    os.close(announce)
    started = len(os.read(announced, 1))
    select.select([], [], [], rng.uniform(0, 2 * duration))  # a random moment of some write
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    while more := os.read(announced, 4096):
        started += len(more)
    data = load_checkpoint(path)
    found = data.progress["step"]
    assert found in (step + started - 1, step + started), (step, started, found)
    assert (data.model["weight"] == found).all()
    step = found
print("whole every time")
"""


@pytest.mark.slow_suite
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_file(tmp_path):
    done = run_python("-c", KILL_WRITERS, tmp_path / "model.pth")
    assert (done.stdout, done.returncode) == ("whole every time\n", 0), done.stderr
