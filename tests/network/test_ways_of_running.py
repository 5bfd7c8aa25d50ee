"""The ways in which torch runs a module: each equals a plain call of the trunk, or says no."""

import copy

import pytest
import torch
from conftest import run_python, tiny_spec
from network_helpers import assert_close, build, gradients, random_image
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor

from randwire_det.errors import UserError
from randwire_det.network import RandWire, RandWireClassifier, wiring
from randwire_det.network.stages import RandomStage
from randwire_det.spec import NetworkSpec, StageSpec
from randwire_det.spec.generator import generate
from randwire_det.spec.graphs import Dag

# The least network with a weighted sum and a padded map, since tracing takes seconds a node.
SPEC = generate("er", seed=1, regime="small", channels=31, nodes=3, p=1.0)


def image_of(batch=2, height=64, width=48):
    return random_image(batch, height, width, torch.float32).detach()


def trunk_of(fused=False, training=False):
    trunk = build(SPEC, torch.float32, training=training)
    return trunk.fuse() if fused else trunk


fused_too = pytest.mark.parametrize("fused", [False, True], ids=["trunk", "fused"])


# --- tracing


@fused_too
@pytest.mark.slow_suite
def test_export_takes_other_batches_and_sizes(fused):
    """In grad mode, as it is by default; torch.onnx.export(dynamo=True) begins with it."""
    trunk = trunk_of(fused)
    sizes = {0: torch.export.Dim("batch", max=64)}
    sizes |= {axis: torch.export.Dim(f"size{axis}", min=40, max=512) for axis in (2, 3)}
    exported = torch.export.export(trunk, (image_of(),), dynamic_shapes=(sizes,)).module()
    for shape in ((3, 101, 71), (1, 128, 256)):
        image = image_of(*shape)
        assert_close(exported(image), trunk(image))


def test_export_of_a_training_trunk():
    trunk, image = trunk_of(training=True), image_of()
    exported = torch.export.export(copy.deepcopy(trunk), (image,)).module()
    assert_close(exported(image), trunk(image))


@fused_too
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_jit_trace_with_its_default_check(fused):
    trunk = trunk_of(fused)
    traced = torch.jit.trace(trunk, image_of(), strict=False)  # for a dict of maps
    other = image_of(3, 72, 40)
    assert_close(traced(other), trunk(other))


@fused_too
@torch.no_grad()
@pytest.mark.slow_suite
def test_compile_as_one_graph_for_every_batch(fused, monkeypatch):
    monkeypatch.setattr(wiring, "PART_BYTES", 1)
    torch.compiler.reset()
    trunk = trunk_of(fused)
    compiled = torch.compile(trunk, fullgraph=True, backend="aot_eager")
    for batch in (2, 3):
        image = image_of(batch)
        assert_close(compiled(image), trunk(image))


@pytest.mark.slow_suite
def test_the_first_compile_of_a_process_is_one_graph():
    """What is derived on first use takes a lock on Python 3.11 and older, which is no graph."""
    program = """
import torch
from randwire_det import generate
from randwire_det.network import RandWire
spec = generate("er", seed=1, regime="small", channels=4, nodes=2, p=1.0)
trunk = RandWire(spec, out_features=["conv3"]).eval()
with torch.no_grad():
    image = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(trunk, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(image)["conv3"], trunk(image)["conv3"])
"""
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow_suite
def test_an_edge_is_dropped_in_a_compiled_step():
    torch.compiler.reset()
    trunk, image = trunk_of(training=True), image_of()
    compiled = torch.compile(copy.deepcopy(trunk), backend="eager")
    for edge in (*trunk.droppable_edges()[::3], None):
        trunk.drop_edge(edge), compiled.drop_edge(edge)
        ours, expected = compiled(image), trunk(image)
        assert_close(ours, expected)
        assert_close(
            gradients(ours, dict(compiled._orig_mod.named_parameters())),
            gradients(expected, dict(trunk.named_parameters())),
        )


@fused_too
def test_fx_follows_every_node(fused):
    trunk = trunk_of(fused)
    graph = torch.fx.symbolic_trace(trunk)
    other = image_of(3, 72, 40)
    assert_close(graph(other), trunk(other))


@pytest.mark.parametrize("leaves", [[], [RandomStage]], ids=["nodes", "stages as leaves"])
def test_features_are_extracted_by_name(leaves):
    model, image = RandWireClassifier(SPEC, 5, head_channels=8).eval(), image_of()
    last = len(model.trunk.conv4.nodes) - 1
    names = {"trunk.conv3" if leaves else f"trunk.conv4.nodes.{last}.norm": "map", "head.fc": "fc"}
    extract = create_feature_extractor(model, names, tracer_kwargs={"leaf_modules": leaves})
    expected = RandWire(SPEC, out_features=["conv3", "conv4"]).eval()
    weights = {k.removeprefix("trunk."): v for k, v in model.state_dict().items()}
    expected.load_state_dict({k: v for k, v in weights.items() if k in expected.state_dict()})
    # The last of a complete graph's nodes is its one output node.
    maps = {"map": expected(image)["conv3" if leaves else "conv4"], "fc": model(image)}
    assert_close(extract(image), maps)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("fused", [False, True])
def test_jit_script_is_refused_with_what_to_do(fused):
    model = RandWireClassifier(SPEC, 5, head_channels=8)
    with pytest.raises(UserError, match=r"torch\.jit\.script.*expected torch\.jit\.trace"):
        torch.jit.script(model.fuse() if fused else model)


# --- torch.func


def test_functional_gradients():
    trunk, image = trunk_of(), image_of()
    parameters = {name: each.detach() for name, each in trunk.named_parameters()}

    def loss(tensors):
        maps = torch.func.functional_call(trunk, tensors, (image,))
        return sum(each.square().mean() for each in maps.values())

    expected = torch.autograd.grad(
        sum(each.square().mean() for each in trunk(image).values()), list(trunk.parameters())
    )
    expected = dict(zip(parameters, expected, strict=True))
    assert_close(torch.func.grad(loss)(parameters), expected)


def test_an_ensemble_by_vmap():
    trunks, image = [trunk_of() for _ in range(2)], image_of()
    parameters, buffers = torch.func.stack_module_state(trunks)

    def call(tensors, statistics):
        return torch.func.functional_call(trunks[0], (tensors, statistics), (image,))

    maps = torch.vmap(call)(parameters, buffers)
    for index, trunk in enumerate(trunks):
        assert_close({name: each[index] for name, each in maps.items()}, trunk(image))


def test_forward_mode_derivatives():
    trunk = build(SPEC, training=False)
    image, direction = random_image().detach(), random_image().detach()
    _, along = torch.func.jvp(lambda x: trunk(x)["conv5"], (image,), (direction,))
    step = 1e-6
    ahead, behind = (trunk(image + sign * step * direction)["conv5"] for sign in (1, -1))
    torch.testing.assert_close(along, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # it is about speed alone
@fused_too
def test_a_batch_of_inputs_by_vmap(fused):
    trunk, images = trunk_of(fused), torch.stack([image_of() for _ in range(2)])
    maps = torch.vmap(trunk)(images)
    for index, image in enumerate(images):
        assert_close({name: each[index] for name, each in maps.items()}, trunk(image))


def test_gradients_of_each_image():
    trunk, image = trunk_of(), image_of(2)
    parameters = {name: each.detach() for name, each in trunk.named_parameters()}

    def loss(tensors, one):
        maps = torch.func.functional_call(trunk, tensors, (one[None],))
        return sum(each.square().mean() for each in maps.values())

    ours = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, image)
    for index, one in enumerate(image):
        expected = torch.func.grad(loss)(parameters, one)
        assert_close({name: each[index] for name, each in ours.items()}, expected)


def test_batched_gradients_are_refused_in_one_sentence():
    trunk, image = trunk_of(), image_of().requires_grad_()
    maps = trunk(image)["conv5"]
    several = torch.randn(2, *maps.shape)
    with pytest.raises(RuntimeError, match=r"is_grads_batched=True.*one autograd\.grad at a time"):
        torch.autograd.grad(maps, image, several, is_grads_batched=True, retain_graph=True)
    with pytest.raises(RuntimeError, match=r"is_grads_batched=True.*one autograd\.grad at a time"):
        torch.vmap(lambda each: torch.autograd.grad(maps, image, each)[0])(several)


# --- other ways


@fused_too
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_shapes_on_the_meta_device(fused, training):
    trunk = trunk_of(fused, training and not fused)
    image = image_of()
    shapes = {name: each.shape for name, each in trunk(image).items()}
    maps = trunk.to("meta")(image.to("meta"))
    assert {name: each.shape for name, each in maps.items()} == shapes


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_trunk_from_the_meta_device(training, assign):
    """Memory that was never filled must not be left anywhere once weights are loaded."""
    trunk, image = trunk_of(training=training), image_of()
    state = copy.deepcopy(trunk.state_dict())
    with torch.device("meta"):
        other = RandWire(SPEC)
    if not assign:
        other.to_empty(device="cpu")
        for tensor in (*other.parameters(), *other.buffers()):
            what_lies_there = torch.arange(tensor.numel()).view_as(tensor) - 3
            tensor.data.copy_(what_lies_there)
    other.load_state_dict(state, assign=assign)
    other.train(training)
    for edge in (None, trunk.droppable_edges()[2]):
        trunk.drop_edge(edge), other.drop_edge(edge)
        assert_close(other(image), trunk(image))
    assert torch.equal(other.state_dict()["spec_digest"], state["spec_digest"])


def test_hooks_and_layer_getters_see_the_stages_own_channels():
    trunk, image, seen = trunk_of(), image_of(), {}
    for name in trunk.out_channels:
        getattr(trunk, name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: (inputs[0], output)})
        )
    maps = trunk(image)
    assert {name: output.shape[1] for name, (_, output) in seen.items()} == trunk.out_channels
    assert seen["conv4"][0].shape[1] == trunk.out_channels["conv3"]
    layers = IntermediateLayerGetter(trunk_of(), {"conv3": "a", "conv5": "b"})
    assert [each.shape for each in layers(image).values()] == [
        maps["conv3"].shape,
        maps["conv5"].shape,
    ]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_single_convolution_after_a_padded_wiring(training):
    dag = Dag(3, ((0, 1), (0, 2), (1, 2)))
    spec = NetworkSpec(
        (
            StageSpec("conv1", 8),
            StageSpec("conv2", 31, dag, "sep_conv3x3"),
            StageSpec("conv3", 5),
            StageSpec("conv4", 62, dag, "sep_conv3x3"),
        )
    )
    trunk = build(spec, training=training)
    maps = trunk(random_image())
    assert [each.shape[1] for each in maps.values()] == [31, 5, 62]
    sum(each.square().sum() for each in maps.values()).backward()
    assert all(each.grad is not None for each in trunk.parameters())


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_last_map_may_be_changed_in_place(training):
    trunk, image = trunk_of(training=training), image_of()
    of = dict(trunk.named_parameters())
    expected = gradients({"conv5": torch.relu(trunk(image)["conv5"])}, of)
    assert_close(gradients({"conv5": torch.relu_(trunk(image)["conv5"])}, of), expected)


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_an_empty_batch_without_gradients(training):
    trunk = trunk_of(training=training)
    maps = trunk(image_of(0))
    assert {name: (len(each), each.shape[1]) for name, each in maps.items()} == {
        name: (0, channels) for name, channels in trunk.out_channels.items()
    }


# --- averages of state dicts


def old_file(state):
    """As files had it before: the digest as bytes."""
    return state | {"spec_digest": state["spec_digest"].to(torch.uint8)}


@pytest.mark.parametrize("as_it_was", [dict, old_file], ids=["today", "old files"])
def test_averages_of_two_models_load(as_it_was):
    first, second = (as_it_was(trunk_of().state_dict()) for _ in range(2))
    trunk = trunk_of()
    trunk.load_state_dict(first)
    if as_it_was is dict:
        trunk.load_state_dict({name: (first[name] + second[name]) / 2 for name in first})
        trunk.load_state_dict(
            {k: v.half() * 0.7 + second[k].half() * 0.3 for k, v in first.items()}
        )
    other = RandWire(tiny_spec(channels=31, nodes=3, generator="er", p=0.0, k=None))
    with pytest.raises(UserError, match="belong to another network"):
        other.load_state_dict(first, strict=False)


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.99999])
def test_a_hundred_thousand_updates_of_an_average_leave_the_digest(decay):
    trunk = trunk_of()
    state = trunk.state_dict()
    now, kept, in_place = (state["spec_digest"].clone() for _ in range(3))
    for _ in range(100_000):
        kept = kept * decay + now * (1 - decay)
        in_place.mul_(decay).add_(now, alpha=1 - decay)
    for average in (kept, in_place):
        trunk.load_state_dict(state | {"spec_digest": average})
        with pytest.raises(UserError, match="belong to another network"):
            RandWire(tiny_spec()).load_state_dict({"spec_digest": average}, strict=False)


def test_a_mean_teacher():
    """As semi-supervised detection does it: the teacher's state dict is averaged and loaded."""
    student = RandWireClassifier(SPEC, 3, head_channels=8)
    teacher = copy.deepcopy(student).eval()
    optimizer = torch.optim.SGD(student.parameters(), 0.01)
    for _ in range(5):
        nn.functional.cross_entropy(student(image_of()), torch.tensor([0, 1])).backward()
        optimizer.step()
        theirs, ours = student.state_dict(), teacher.state_dict()
        teacher.load_state_dict({k: v * 0.9 + theirs[k] * 0.1 for k, v in ours.items()})
        for mine, new in zip(teacher.buffers(), student.buffers(), strict=True):  # or in place
            mine.copy_(mine * 0.9 + new * 0.1)
    assert teacher(image_of()).isfinite().all()
    assert torch.equal(teacher.trunk.state_dict()["spec_digest"], student.trunk.spec_digest)
