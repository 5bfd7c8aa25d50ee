"""Graph damage: what is drawn at random, what the record holds, and that it is continued."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_spec

from randwire_det.errors import UserError
from randwire_det.network.damage import removals
from randwire_det.tables import damage
from randwire_det.tables.damage_figure import draw_damage

SPEC = tiny_spec("ws", nodes=12)


def subject(calls, **changes):
    """A network whose every removal costs as many points as its degree."""

    def evaluate(removed):
        calls.append(list(removed))
        return [60.0, *(60.0 - each.degree for each in removed)]

    arguments = {"spec": SPEC, "metric": "top-1", "images": 7, "identity": {"weights": "abc"}}
    return damage.Subject(evaluate=evaluate, **arguments | changes)


def test_every_removal_is_measured_once_and_recorded(tmp_path):
    calls, everything = [], damage.choose(SPEC)
    assert sorted(map(repr, everything)) == sorted(map(repr, removals(SPEC)))
    record = damage.measure(subject(calls), everything, tmp_path)
    assert [each for group in calls for each in group] == everything
    assert max(map(len, calls)) == damage.GROUP < len(everything)
    assert json.loads((tmp_path / damage.RECORD).read_text()) == record
    assert record["intact"] == 60.0
    assert all(row["loss"] == row["degree"] for row in record["removals"])
    lines = (tmp_path / damage.TABLE).read_text().splitlines()
    assert len(lines) == 1 + len(everything) and lines[0] == "kind,stage,part,degree,value,loss"


def test_a_measurement_that_was_cut_off_goes_on(tmp_path):
    calls, everything = [], damage.choose(SPEC)
    first = everything[: damage.GROUP + 3]
    damage.measure(subject(calls), first, tmp_path)
    calls.clear()
    record = damage.measure(subject(calls), everything, tmp_path)
    assert [each for group in calls for each in group] == everything[len(first) :]
    assert record == damage.measure(subject([]), everything, tmp_path / "at once")
    damage.measure(subject(calls := []), everything, tmp_path)
    assert not calls


@pytest.mark.parametrize(
    "change", [{"identity": {"weights": "def"}}, {"images": 8}, {"spec": tiny_spec("er")}]
)
def test_a_record_of_another_network_or_test_is_refused(tmp_path, change):
    damage.measure(subject([]), damage.choose(SPEC)[:2], tmp_path)
    with pytest.raises(UserError, match="choose another --output"):
        damage.measure(subject([], **change), damage.choose(SPEC)[:2], tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1, "removals": [{"stage": "conv3"}]}'])
def test_a_broken_record_is_one_line(tmp_path, text):
    (tmp_path / damage.RECORD).write_text(text)
    with pytest.raises(UserError, match=r"damage\.json"):
        damage.read_record(tmp_path / damage.RECORD)


def test_a_sample_is_of_each_kind_and_repeats(tmp_path):
    drawn = damage.choose(SPEC, sample=5, seed=3)
    assert [each.kind for each in drawn].count("node") == 5 and len(drawn) == 10
    assert drawn == damage.choose(SPEC, sample=5, seed=3) != damage.choose(SPEC, sample=5, seed=4)
    assert {each.stage for each in damage.choose(SPEC, stages=["conv4"])} == {"conv4"}
    with pytest.raises(UserError, match=r"conv1.*conv3"):
        damage.choose(SPEC, stages=["conv1"])


def test_statistics_are_numpys():
    losses = np.random.default_rng(1).normal(size=11).tolist()
    found = damage.statistics(losses)
    assert found["count"] == 11
    quartiles = np.percentile(losses, [25, 50, 75])
    assert [found[name] for name in ("q1", "median", "q3")] == pytest.approx(quartiles.tolist())
    assert found["mean"] == pytest.approx(np.mean(losses))
    assert (found["min"], found["max"]) == (min(losses), max(losses))
    assert damage.statistics([2.0])["q1"] == damage.statistics([2.0])["q3"] == 2.0


def test_losses_are_grouped_by_kind_and_degree(tmp_path):
    record = damage.measure(subject([]), damage.choose(SPEC), tmp_path)
    for kind in damage.KINDS:
        degrees = [each.degree for each in removals(SPEC) if each.kind == kind]
        groups = record["summary"][kind]
        assert groups.keys() == {"all", *map(str, degrees)}
        for degree in set(degrees):
            row = groups[str(degree)]
            assert (row["count"], row["mean"]) == (degrees.count(degree), degree)


def test_a_figure_has_a_column_for_each_generator(tmp_path):
    ws = damage.measure(subject([]), damage.choose(SPEC), tmp_path / "ws")
    er = subject([], spec=tiny_spec("er", nodes=7, p=0.5))
    other = damage.measure(er, damage.choose(er.spec, kinds=["node"]), tmp_path / "er")
    sizes = []
    for records in ([ws], [ws, ws], [ws, other]):
        path = tmp_path / "figure.png"
        draw_damage(records, path)
        sizes.append(image_size(path))
    assert sizes[0] == sizes[1] and sizes[2][0] > sizes[1][0]
    with pytest.raises(UserError, match="one metric"):
        draw_damage([ws, ws | {"metric": "AP"}], tmp_path / "figure.png")


def image_size(path: Path):
    from PIL import Image

    with Image.open(path) as image:
        return image.size
