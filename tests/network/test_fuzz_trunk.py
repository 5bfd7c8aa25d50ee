"""Random networks, ways of running and changed modules, each against the reference evaluators."""

import contextlib
import copy

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from module_changes import CHANGES, STAGE_CHANGES
from network_helpers import EVERY_STAGE, assert_close, build, gradients, random_image
from reference import by_modules, evaluate

from randwire_det.network import RandWire
from randwire_det.spec import NetworkSpec, StageSpec
from randwire_det.spec.generator import generate

pytestmark = pytest.mark.slow_suite

# The same examples each time: a failure is of the change that is tested, and not of the day.
# It is not made smaller, which takes minutes.
fuzz = settings(
    max_examples=60, derandomize=True, deadline=None, database=None, phases=[Phase.generate]
)
SAME_EACH_CALL = sorted(CHANGES.keys() - {"spectrally_normed"})


@st.composite
def specs(draw):
    """Any generator, width and regime, with conv3 a single convolution now and then."""
    nodes = draw(st.integers(2, 9))
    generator = draw(st.sampled_from(["er", "ba", "ws"]))
    # Other tests of a process may have set torch to flush subnormal numbers.
    chance = st.floats(0, 1, allow_subnormal=False)
    theta = {
        "er": lambda: {"p": draw(chance)},
        "ba": lambda: {"m": 1},
        "ws": lambda: {"k": 2, "p": draw(chance)},
    }[generator]()
    if generator != "er":
        nodes = max(nodes, 6)  # conv2 of the regular regime has half as many
    spec = generate(
        generator,
        seed=draw(st.integers(0, 99)),
        regime=draw(st.sampled_from(["small", "regular"])),
        channels=draw(st.sampled_from([1, 2, 5, 15, 31])),
        nodes=nodes,
        seed_per_stage=draw(st.booleans()),
        **theta,
    )
    if draw(st.integers(0, 3)) == 0:
        stages = [*spec.stages[:2], StageSpec("conv3", spec.stages[2].channels), *spec.stages[3:]]
        spec = NetworkSpec(tuple(stages))
    return spec


def some_image(draw):
    sizes = st.integers(33, 70)
    return random_image(draw(st.integers(2, 3)), draw(sizes), draw(sizes))


def from_meta(trunk):
    with torch.device("meta"):
        keys = {"memory": trunk.memory, "output_stride": trunk.output_stride}
        other = RandWire(trunk.spec, out_features=EVERY_STAGE, **keys)
    other.to(torch.float64).to_empty(device="cpu")
    other.load_state_dict(copy.deepcopy(trunk.state_dict()))
    return other.train(trunk.training)


def averaged(trunk):
    state = trunk.state_dict()
    other = copy.deepcopy(trunk)
    other.load_state_dict({name: (each + each) / 2 for name, each in state.items()})
    return other


ORIGINS = {"as built": lambda trunk: trunk, "a copy": copy.deepcopy, "meta": from_meta}
ORIGINS["an average"] = averaged


@fuzz
@given(st.data())
def test_any_network_run_in_any_way_is_the_reference(data):
    spec, seed = data.draw(specs()), data.draw(st.integers(0, 2**31))
    training = data.draw(st.booleans())
    torch.manual_seed(seed)
    memory = data.draw(st.sampled_from(["standard", "lean"]))
    output_stride = data.draw(st.sampled_from([32, 16, 8]))
    keys = {"memory": memory, "output_stride": output_stride}
    trunk = build(spec, training=training, out_features=EVERY_STAGE, **keys)
    trunk = ORIGINS[data.draw(st.sampled_from(sorted(ORIGINS)))](trunk)
    image = some_image(data.draw)
    frozen = data.draw(st.sets(st.sampled_from(EVERY_STAGE), max_size=3))
    for name in frozen:
        getattr(trunk, name).requires_grad_(False)
    edges = [None, *trunk.droppable_edges()]
    edge = data.draw(st.sampled_from(edges))
    trunk.drop_edge(edge)
    way = data.draw(st.sampled_from(["gradients", "no_grad", "inference", "functional", "fused"]))
    if way == "fused":
        training = False  # what the copy computes, whatever the mode of the trunk
    parameters = dict(trunk.named_parameters())
    statistics = {name: each.clone() for name, each in trunk.named_buffers()}
    tensors = parameters | {name: each.clone() for name, each in statistics.items()}
    expected = evaluate(
        *(spec, tensors, image, training, edge if training else None), output_stride=output_stride
    )
    of = {name: each for name, each in trunk.named_parameters() if each.requires_grad}
    of["image"] = image
    if way == "fused":
        assert_close(trunk.fuse()(image), expected)
    elif way in ("no_grad", "inference"):
        context = torch.no_grad() if way == "no_grad" else torch.inference_mode()
        with context:
            assert_close(trunk(image.detach()), {k: v.detach() for k, v in expected.items()})
    else:
        if way == "functional":
            ours = torch.func.functional_call(trunk, parameters | statistics, (image,))
        else:
            ours = trunk(image)
        assert_close(ours, expected)
        assert_close(gradients(ours, of, True), gradients(expected, of, True))


@fuzz
@given(st.data())
def test_any_change_of_the_modules_counts_everywhere(data):
    spec, seed = data.draw(specs()), data.draw(st.integers(0, 2**31))
    torch.manual_seed(seed)
    trunk = build(spec, training=False, out_features=EVERY_STAGE)
    wired = [stage.name for stage in spec.stages if stage.dag is not None]
    for _ in range(data.draw(st.integers(1, 3))):
        stage = getattr(trunk, data.draw(st.sampled_from(wired)))
        if data.draw(st.integers(0, 5)) == 0:
            STAGE_CHANGES["patched_weights"](stage)
        else:
            change = CHANGES[data.draw(st.sampled_from(SAME_EACH_CALL))]
            node = stage.nodes[data.draw(st.integers(0, len(stage.nodes) - 1))]
            # One change may leave no room for another.
            with contextlib.suppress(AttributeError, KeyError, ValueError):
                change(node)
    trunk.train(training := data.draw(st.booleans()))
    image = some_image(data.draw)
    ours, expected = trunk(image), by_modules(trunk, image)
    assert_close(ours, expected)
    of = {name: each for name, each in trunk.named_parameters() if each.requires_grad}
    of["image"] = image
    assert_close(gradients(ours, of, True), gradients(expected, of, True))
    if not training or data.draw(st.booleans()):
        with torch.no_grad():
            expected = by_modules(trunk.eval(), image)
            assert_close(trunk.fuse()(image), expected)
