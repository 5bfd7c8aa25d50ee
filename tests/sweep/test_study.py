"""A study's file: the runs that it describes, and what is refused."""

import pytest
import yaml

from randwire_det.errors import UsageError
from randwire_det.spec.wirings import FIGURE_3
from randwire_det.sweep.study import arguments, read_study

LEAST = {"COMMAND": "pretrain_imagenet", "CONFIG": "pretrain/base.yaml", "OUTPUT_DIR": "out"}


@pytest.fixture
def read(tmp_path):
    def read(*overrides, **content):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(LEAST | content, sort_keys=False))
        return read_study(str(path), list(overrides))

    return read


def test_runs_are_arms_by_grid_by_seeds(read):
    study = read(
        SET={"DEVICE": "cpu", "SOLVER.BASE_LR": 0.1},
        ARMS=["WS(4, 0.75)", {"ResNet": {"MODEL.NAME": "resnet18", "SOLVER.BASE_LR": 0.2}}],
        GRID={"SOLVER.EPOCHS": [1, 2], "MODEL.EDGE_DROP": [0.0, 0.1]},
        SEEDS=[3, 5],
    )
    runs = study.runs()
    assert len({run.folder for run in runs}) == len(runs) == 2 * 2 * 2 * 2
    assert [run.seed for run in runs] == [3] * 8 + [5] * 8
    wiring = {
        "MODEL.RANDWIRE.GENERATOR": "ws",
        "MODEL.RANDWIRE.K": 4,
        "MODEL.RANDWIRE.P": 0.75,
    }
    grid = {"SOLVER.EPOCHS": 1, "MODEL.EDGE_DROP": 0.1}
    seeds = {"SEED": 3, "MODEL.RANDWIRE.SEED": 3}
    first, last = runs[1], runs[-1]
    assert first.keys == {"DEVICE": "cpu", "SOLVER.BASE_LR": 0.1} | wiring | grid | seeds
    assert first.name == "WS-4-0.75_EPOCHS=1_EDGE_DROP=0.1_seed3"
    assert first.point == {"SOLVER.EPOCHS": "1", "MODEL.EDGE_DROP": "0.1"}
    assert last.keys["SOLVER.BASE_LR"] == 0.2 and last.arm == "ResNet"
    assert arguments({"A.B": 1, "C": True, "D": [0.5]}) == ["A.B", "1", "C", "True", "D", "[0.5]"]


def test_folders_stay_when_a_grid_grows(read):
    small = {"GRID": {"SOLVER.EPOCHS": [1]}, "ARMS": ["BA(3)"], "SEEDS": [1]}
    large = {"GRID": {"SOLVER.EPOCHS": [2, 1]}, "ARMS": ["ER(0.2)", "BA(3)"], "SEEDS": [2, 1]}
    of_small, of_large = ({run.folder for run in read(**each).runs()} for each in (small, large))
    assert of_small < of_large


def test_wirings_by_name_with_keys_of_their_own(read):
    study = read(ARMS=["figure3", {"narrow": {"WIRING": "BA(5)", "MODEL.RANDWIRE.CHANNELS": 21}}])
    assert list(study.arms) == [*FIGURE_3, "narrow"]
    assert study.arms["narrow"] == {
        "MODEL.RANDWIRE.GENERATOR": "ba",
        "MODEL.RANDWIRE.M": 5,
        "MODEL.RANDWIRE.CHANNELS": 21,
    }


def test_a_value_of_the_grid_may_set_several_keys(read):
    values = [
        {"MODEL.RANDWIRE.OP": "sep_conv3x3"},
        {"MODEL.RANDWIRE.OP": "conv3x3", "MODEL.RANDWIRE.CHANNELS": 29.5625},
    ]
    _, run = read(GRID={"OP": values}).runs()
    assert run.point == {"OP": "conv3x3"} and run.name == "run_OP=conv3x3_seed1"
    assert run.keys["MODEL.RANDWIRE.CHANNELS"] == 29.5625 and "OP" not in run.keys


def test_an_arm_may_have_a_config_of_its_own(read):
    one, other = read(ARMS=[{"a": {}}, {"b": {"CONFIG": "pretrain/resnet50.yaml"}}]).runs()
    assert (one.config, other.config) == ("pretrain/base.yaml", "pretrain/resnet50.yaml")
    assert "CONFIG" not in other.keys


def test_a_seed_in_a_text(read):
    weights = {"MODEL.WEIGHTS": "pretrained_seed{seed}/model_final.pth"}
    runs = read(SET=weights, SEEDS=[3, 4]).runs()
    found = [run.keys["MODEL.WEIGHTS"] for run in runs]
    assert found == ["pretrained_seed3/model_final.pth", "pretrained_seed4/model_final.pth"]


def test_the_wiring_of_a_detector_is_that_of_its_weights(read):
    (run,) = read(COMMAND="train_net", CONFIG="base_faster_rcnn_fpn.yaml").runs()
    assert run.keys == {"SEED": 1}


def test_overrides(read):
    study = read(
        *("OUTPUT_DIR", "elsewhere", "SEEDS", "[7, 8]", "SET.DATA.ROOT", "data"),
        *("GRID", "{SOLVER.EPOCHS: [4]}"),
        SET={"DEVICE": "cpu"},
    )
    assert str(study.output) == "elsewhere" and study.seeds == [7, 8]
    assert study.common == {"DEVICE": "cpu", "DATA.ROOT": "data"}
    assert study.grid == {"SOLVER.EPOCHS": [4]}


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ({"COMAND": "x"}, ["COMAND", "did you mean COMMAND"]),
        ({"COMMAND": "train"}, ["COMMAND 'train'", "pretrain_imagenet or train_net"]),
        ({"OUTPUT_DIR": 3}, ["OUTPUT_DIR 3", "a folder"]),
        ({"SEEDS": [1, -1]}, ["SEEDS", ">= 0"]),
        ({"SEEDS": []}, ["SEEDS"]),
        ({"SEEDS": 5}, ["SEEDS 5", "whole numbers"]),
        ({"SEEDS": [1, 1]}, ["two runs", "seed1"]),
        ({"NUM_GPUS": 0}, ["NUM_GPUS 0"]),
        ({"SET": ["A"]}, ["SET", "{KEY: value}"]),
        ({"SET": {"OUTPUT_DIR": "x"}}, ["SET", "OUTPUT_DIR"]),
        ({"ARMS": ["WS(4)"]}, ["WS(4)"]),
        ({"ARMS": ["XY(4)"]}, ["XY(4)", "ER"]),
        ({"ARMS": ["BA(3)", "BA(3)"]}, ["ARMS BA(3)", "once"]),
        ({"ARMS": [{"a": {}, "b": {}}]}, ["ARMS", "{name: {KEY: value}}"]),
        ({"ARMS": []}, ["ARMS"]),
        ({"ARMS": ["BA(3)", {"BA-3": {}}]}, ["two runs", "BA-3"]),
        ({"ARMS": ["BA(3)"], "DAMAGE_ARMS": ["BA(4)"]}, ["DAMAGE_ARMS 'BA(4)'", "BA(3)"]),
        ({"GRID": {"SOLVER.EPOCHS": 3}}, ["GRID 'SOLVER.EPOCHS'", "[values]"]),
        ({"GRID": {"SOLVER.EPOCHS": []}}, ["GRID 'SOLVER.EPOCHS'"]),
    ],
)
def test_what_is_wrong_is_one_line(read, content, fragments):
    with pytest.raises(UsageError) as error:
        read(**content).runs()
    message = str(error.value)
    assert "study.yaml" in message and "\n" not in message
    for fragment in fragments:
        assert fragment.lower() in message.lower()


@pytest.mark.parametrize(
    ("text", "fragment"),
    [("- a", "KEY: VALUE"), ("A: [", "line"), ("COMMAND: pretrain_imagenet", "CONFIG is missing")],
)
def test_a_file_that_is_no_study(tmp_path, text, fragment):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=fragment):
        read_study(str(path))
    with pytest.raises(UsageError, match=r"no_such\.yaml"):
        read_study("no_such.yaml")
