"""Late stages that keep the resolution and are dilated instead, as for segmentation."""

import pytest
import torch
from conftest import tiny_spec
from network_helpers import assert_close, build, gradients, random_image, run_both
from reference import evaluate

from randwire_det.errors import UsageError
from randwire_det.network import RandWire
from randwire_det.network.damage import damaged, removals

SPECS = {
    "small": tiny_spec("ws", nodes=7, k=4, p=0.5, channels=5),
    "regular": tiny_spec("er", nodes=9, p=0.2, channels=5, regime="regular", seed=2),
}
SHAPES = {
    16: {"conv2": 4, "conv3": 8, "conv4": 16, "conv5": 16},
    8: {"conv2": 4, "conv3": 8, "conv4": 8, "conv5": 8},
}


@pytest.mark.parametrize("output_stride", SHAPES)
@pytest.mark.parametrize("memory", ["standard", "lean"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", SPECS)
def test_it_equals_the_reference(name, training, memory, output_stride):
    keys = {"memory": memory, "output_stride": output_stride}
    trunk, image = build(SPECS[name], training=training, **keys), random_image()
    maps, expected, statistics = run_both(trunk, image)
    expected = {stage: expected[stage] for stage in maps}
    assert_close(maps, expected)
    of = {"image": image, **dict(trunk.named_parameters())}
    assert_close(gradients(maps, of), gradients(expected, of))
    floats = {name: each for name, each in trunk.named_buffers() if each.is_floating_point()}
    assert_close(floats, {name: statistics[name] for name in floats})
    assert trunk.out_strides == SHAPES[output_stride]
    with torch.no_grad():
        expected = trunk.eval()(image)
        assert_close(trunk.fuse()(image), expected)


def test_damage_equals_the_reference():
    trunk, image = build(SPECS["small"], training=False, output_stride=16), random_image()
    removed = [each for each in removals(trunk.spec) if each.stage == "conv5"]
    tensors = trunk.state_dict()
    _, *outputs = damaged(trunk, image, removed)
    for removal, output in zip(removed, outputs, strict=True):
        part = (removal.part,) if removal.kind == "node" else removal.part
        without = (removal.stage, *part)
        theirs = evaluate(trunk.spec, tensors, image, False, without, output_stride=16)
        assert_close(output, {stage: theirs[stage] for stage in output})


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("output_stride", SHAPES)
def test_the_pixels_of_the_strides_are_what_they_were(name, output_stride):
    """With the same weights: what a classifier has learned stays true."""
    plain = build(SPECS[name], training=False)
    finer = RandWire(SPECS[name], output_stride=output_stride).double().eval()
    finer.load_state_dict(plain.state_dict())
    with torch.no_grad():
        image = random_image(height=64, width=96)
        expected, found = plain(image), finer(image)
    for stage, each in expected.items():
        step = plain.out_strides[stage] // finer.out_strides[stage]
        assert_close({stage: found[stage][..., ::step, ::step]}, {stage: each})
        assert found[stage].shape[2] == 64 // finer.out_strides[stage]


def test_a_plain_convolution_is_dilated_too():
    trunk, image = build(tiny_spec(op="conv3x3"), output_stride=8), random_image()
    maps, expected, _ = run_both(trunk, image)
    assert_close(maps, {stage: expected[stage] for stage in maps})


@pytest.mark.parametrize("op", ["max_pool3x3", "avg_pool3x3"])
def test_a_pooling_has_no_dilated_form(op):
    with pytest.raises(UsageError, match=f"{op}.*expected 32, or a convolution"):
        RandWire(tiny_spec(op=op), output_stride=16)


def test_a_map_that_shrinks_less_is_left_alone():
    spec = tiny_spec(regime="cifar")
    assert RandWire(spec, output_stride=8).out_strides == RandWire(spec).out_strides


@pytest.mark.parametrize("value", [0, 4, 64, 16.0, "16", True, None])
def test_other_strides_are_refused(value):
    with pytest.raises(UsageError, match="expected one of 32, 16, 8"):
        RandWire(tiny_spec(), output_stride=value)
