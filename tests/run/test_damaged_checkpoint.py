"""Files that cannot be read are refused by name, and never run code."""

import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoint_helpers import Payload, baseline, classifier, refusal, save

from randwire_det.errors import UserError
from randwire_det.run.checkpoint import KINDS, Preprocessing, load_checkpoint


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.pth"
    save(path)
    return path


def test_a_truncated_file_is_refused(saved):
    whole = saved.read_bytes()
    lengths = {0, 1, 2, 3, 4, 10, len(whole) - 1, len(whole) - 22, *range(64, len(whole), 1009)}
    for length in sorted(lengths):
        saved.write_bytes(whole[:length])
        assert "refused" in refusal(saved) or "damaged" in refusal(saved)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, on pickles it does not know
def test_overwritten_bytes_raise_nothing_but_a_refusal(saved):
    rng, whole = random.Random(0), saved.read_bytes()
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        saved.write_bytes(damaged)
        try:
            load_checkpoint(saved)
        except UserError as error:
            refused += 1
            assert str(saved) in str(error)
            assert "\n" not in str(error)
    assert refused > 20


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_flipped_bit_is_refused_or_changes_nothing(saved):
    """Wherever it lies in what the archive holds: tensors, pickle, names, padding."""
    rng, whole, before = random.Random(0), saved.read_bytes(), load_checkpoint(saved).model
    with zipfile.ZipFile(saved) as archive:
        length = archive.start_dir
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.randrange(length)] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged)
        try:
            after = load_checkpoint(saved).model
        except UserError:
            refused += 1
        else:
            assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert refused > 20


def headers(path):
    """The places in an archive that hold no content, of two records and of the archive's end."""
    whole = path.read_bytes()
    places = list(range(whole.rindex(b"PK\x06\x06"), len(whole)))
    with zipfile.ZipFile(path) as archive:
        for name in (b"archive/data.pkl", b"archive/data/0"):
            record = archive.getinfo(name.decode())
            start, entry = record.header_offset, whole.index(name, archive.start_dir) - 46
            name_and_extra = sum(struct.unpack("<HH", whole[start + 26 : start + 30]))
            places += range(start, start + 30 + name_and_extra)
            places += range(entry, entry + 46 + len(name))
    return places


def plain(content):
    """With lists in place of tensors, to be compared by ==."""
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    return content.tolist() if isinstance(content, torch.Tensor) else content


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_any_bit_of_a_header_is_refused_or_changes_nothing(tmp_path, kind):
    """One of them makes a folder of a record for torch, which then hands out other numbers."""
    path = tmp_path / "x.pth"
    detector = {"ema": {"w": torch.rand(3)}, "optimizer": {"state": {0: {"m": torch.rand(2)}}}}
    model = {"w": torch.rand(3, 2), "n": torch.arange(4)}
    save(path, kind=kind, model=model, **(detector if kind == "detector" else {}))
    whole, before = path.read_bytes(), plain(vars(load_checkpoint(path)))
    refused = 0
    with open(path, "r+b", buffering=0) as file:
        for place in headers(path):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([whole[place] ^ 1 << bit]), place)
                try:
                    assert plain(vars(load_checkpoint(path))) == before, (place, bit)
                except UserError as error:
                    refused += 1
                    assert "\n" not in str(error)
            os.pwrite(file.fileno(), whole[place : place + 1], place)
    assert refused > 1000


def test_a_compressed_archive_is_refused_before_it_is_inflated(saved):
    """torch would inflate it, to a thousand times its size."""
    with zipfile.ZipFile(saved) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
        with archive.open("archive/bomb", "w") as bomb:
            for _ in range(64):
                bomb.write(bytes(2**20))
    assert torch.load(saved, weights_only=True)["kind"] == "classifier"
    tracemalloc.start()
    assert "is compressed" in refusal(saved)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_record_that_is_there_twice_is_refused(saved):
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr(archive.namelist()[-1], b"")
    assert "two records have one name" in refusal(saved)


def test_records_that_share_their_bytes_are_refused(saved):
    """A small file may so hold any amount: its directory names one record again and again."""
    whole = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        first, start = archive.infolist()[0], archive.start_dir
    entry = bytearray(whole[start : start + 46 + len(first.filename)])
    copies = b""
    for number in range(99):
        entry[-8:] = b"%08d" % number
        copies += entry
    size = len(whole) - whole.index(b"PK\x06\x06", start)
    directory = whole[start:-size] + copies
    end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, *[99 + 7] * 2, len(directory), start, 0)
    saved.write_bytes(whole[:start] + directory + end)
    with zipfile.ZipFile(saved) as archive:
        assert len(archive.infolist()) >= 99
    assert "overlap" in refusal(saved)


ODD_TENSORS = {  # made where they are needed: torch warns of some
    "meta": (lambda: torch.zeros(3, device="meta"), "meta"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "sparse"),
    "quantized": (
        lambda: torch._empty_affine_quantized(3, scale=1, dtype=torch.qint8),
        "quantized",
    ),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "complex"),
    "expanded": (lambda: torch.ones(1).expand(10**12), "1000000000000"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("odd", ODD_TENSORS)
def test_a_tensor_that_no_weight_can_be_is_refused_by_name(saved, odd):
    """And is not written, which would be the end of a training that cannot be resumed."""
    make, reason = ODD_TENSORS[odd]
    data, before = torch.load(saved, weights_only=True), saved.read_bytes()
    for key in ("model", "ema"):
        if odd != "complex":  # in a detector, which may have such buffers, it has its place
            with pytest.raises(UserError, match=f"{saved}: its tensor 'fc.odd' .*{reason}"):
                save(saved, **{"model": classifier().state_dict(), key: {"fc.odd": make()}})
            assert saved.read_bytes() == before
        torch.save(data | {key: {"fc.odd": make()}}, saved)
        message = refusal(saved)
        assert "fc.odd" in message and reason in message
        saved.write_bytes(before)


def test_a_flipped_bit_in_a_weight_is_refused(saved):
    whole = bytearray(saved.read_bytes())
    model = torch.load(saved, weights_only=True)["model"]
    weight = max(model.values(), key=torch.Tensor.numel).numpy().tobytes()
    whole[whole.index(weight) + len(weight) // 2] ^= 1
    saved.write_bytes(whole)
    torch.load(saved, weights_only=True)  # without a word
    assert "damaged" in refusal(saved)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_bytes_and_text_are_refused(tmp_path):
    path, rng = tmp_path / "x.pth", random.Random(0)
    texts = [
        b"hello\n",
        b"\n\n",
        b"{}",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    ]
    for content in texts + [rng.randbytes(rng.randrange(1, 300)) for _ in range(150)]:
        path.write_bytes(content)
        refusal(path)


@pytest.mark.parametrize("name", [".", "missing.pth", "no/such/folder.pth"])
def test_a_path_that_is_no_file_is_refused(tmp_path, name):
    refusal(tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a checkpoint"])
@pytest.mark.parametrize(
    "write",
    [
        lambda data, path: path.write_bytes(pickle.dumps(data)),
        lambda data, path: path.write_bytes(pickle.dumps(data, protocol=2)),
        lambda data, path: torch.save(data, path),
        lambda data, path: torch.save(data, path, _use_new_zipfile_serialization=False),
    ],
    ids=["pickle", "pickle protocol 2", "torch.save", "torch.save legacy"],
)
def test_a_pickle_bomb_does_not_go_off(saved, write, inside):
    marker = saved.parent / "went off"
    bomb = Payload(marker)
    pickle.loads(pickle.dumps(bomb)).close()
    assert marker.exists()  # so it would
    marker.unlink()
    write(torch.load(saved, weights_only=True) | {"progress": bomb} if inside else bomb, saved)
    assert "refused" in refusal(saved)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        OrderedDict({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(3)}),
        {"model": {"backbone.stem.conv1.weight": torch.zeros(3)}, "iteration": 5},
        {"format": "another"},
        {"format": torch.zeros(3)},
        torch.zeros(3),
        [1, 2],
        None,
    ],
    ids=lambda content: str(content)[:30],
)
def test_a_file_of_another_project_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    assert "no randwire_det checkpoint" in refusal(tmp_path / "x.pth")


def test_an_archive_of_another_kind_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    refusal(tmp_path / "x.npz")


@pytest.mark.parametrize("version", [0, 2, "1", None, True, torch.zeros(2)], ids=str)
def test_another_version_is_refused_by_name(saved, version):
    torch.save(torch.load(saved, weights_only=True) | {"version": version}, saved)
    assert repr(version) in refusal(saved)


@pytest.mark.parametrize("classes", ["missing", "cat", 3, {"cat": 1}, ["cat", 3], torch.ones(2)])
def test_classes_that_are_no_names_are_refused(saved, classes):
    data = torch.load(saved, weights_only=True) | {"classes": classes}
    if isinstance(classes, str) and classes == "missing":
        del data["classes"]
    torch.save(data, saved)
    assert "classes" in refusal(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, bad)
            for key in ("model", "spec", "preprocessing")
            for bad in ("missing", None, 3, [])
        ),
        *((key, bad) for key in ("spec", "preprocessing") for bad in ({}, {"mean": 3, "std": 4})),
    ],
)
def test_a_file_without_what_it_must_hold_is_refused(saved, key, value):
    data = torch.load(saved, weights_only=True)
    if value == "missing":
        del data[key]
    else:
        data[key] = value
    torch.save(data, saved)
    assert key in refusal(saved)


def test_of_a_value_that_repeats_itself_without_end_a_line_is_shown(saved):
    laughs = ["ha"]
    for _ in range(30):
        laughs = [laughs] * 30
    for change in ({"version": laughs}, {"kind": laughs}, {"preprocessing": laughs}):
        torch.save(torch.load(saved, weights_only=True) | change, saved)
        assert len(refusal(saved)) < 500
        save(saved)


@pytest.mark.parametrize("architecture", [None, [], {}, {"name": "resnet50"}, "resnet50"])
def test_a_baseline_of_unknown_architecture_is_refused(tmp_path, architecture):
    refused_both_ways(tmp_path / "x.pth", baseline(), {"architecture": architecture})


@pytest.mark.parametrize(
    "change", [{"name": 50}, {"width": "1"}, {"width": 0}, {"width": True}, {"depth": 50}], ids=str
)
def test_a_malformed_architecture_is_refused(tmp_path, change):
    bad = baseline()["architecture"] | change
    refused_both_ways(tmp_path / "x.pth", baseline(), {"architecture": bad})


def test_spec_and_architecture_must_suit_the_kind(tmp_path):
    path = tmp_path / "x.pth"
    refused_both_ways(path, {}, {"spec": None})
    refused_both_ways(path, {}, {"architecture": baseline()["architecture"]})
    save(path)
    spec = torch.load(path, weights_only=True)["spec"]
    refused_both_ways(path, baseline(), {"spec": spec})


def refused_both_ways(path, good, change):
    """Neither written nor, from a hand that did, read; the message names what was changed."""
    with pytest.raises(UserError, match=next(iter(change))):
        save(path, **good | change)
    save(path, **good)
    torch.save(torch.load(path, weights_only=True) | change, path)
    assert next(iter(change)) in refusal(path, kinds=KINDS)


def test_averaged_weights_that_are_none_are_refused(saved):
    torch.save(torch.load(saved, weights_only=True) | {"ema": [1, 2]}, saved)
    assert "its ema is no state dict" in refusal(saved)


def test_weights_that_are_nan_are_refused(saved):
    """An evaluation of them would give a number, and no error."""
    weights = classifier().state_dict()
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][1] = float("nan")
    for change in ({"model": weights}, {"ema": weights}):
        save(saved, **change)
        message = refusal(saved)
        assert "holds NaN or infinity in 1 of" in message and name in message


def test_a_caller_gets_only_the_kinds_it_takes(saved):
    assert "is a classifier, expected a baseline" in refusal(saved, kinds=("baseline",))
    save(saved, **baseline())
    message = refusal(saved)
    assert f"{saved} is a resnet50 classifier" in message
    assert "tools/convert_baseline.py" in message


@pytest.mark.parametrize(
    "change",
    [
        {"surplus": 1},
        {"channel_order": "XYZ"},
        {"channel_order": 3},
        {"mean": [1.0]},
        {"mean": ["a", "b", "c"]},
        {"mean": [1.0, 2.0, float("nan")]},
        {"mean": [float("inf")] * 3},
        {"mean": [True] * 3},
        {"std": [1.0, 0.0, 1.0]},
        {"std": [1.0, 1.0, float("nan")]},
        {"std": [10**400] * 3},
        {"interpolation": None},
        {"input_size": "224"},
    ],
    ids=lambda change: str(change)[:40],
)
def test_preprocessing_that_cannot_be_applied_is_refused(saved, change):
    """Used as it stands, it would cost accuracy without an error or fail far from its cause."""
    data = torch.load(saved, weights_only=True)
    data["preprocessing"] |= change
    torch.save(data, saved)
    assert next(iter(change)) in refusal(saved)


def test_preprocessing_round_trip():
    ours = Preprocessing()
    assert Preprocessing.from_dict(ours.to_dict()) == ours
    other = replace(ours, channel_order="BGR", std=(1.0, 1.0, 1.0), input_size=32)
    assert Preprocessing.from_dict(other.to_dict()) == other != ours
