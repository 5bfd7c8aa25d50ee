"""A stage run as one function: equal to section 3.2 however it is run, and no trap for its user.

That its plain use equals the reference evaluator is in test_network; the other ways are held
against that evaluator here, or against `RandomStage.node_by_node`, which is section 3.2 by torch's
own modules.
"""

import copy
import functools
import gc

import pytest
import torch
from conftest import THETA, run_python, tiny_spec
from network_helpers import (
    EVERY_STAGE,
    NETWORKS,
    assert_close,
    build,
    far,
    gradients,
    random_image,
    run_both,
)
from torch import nn

from randwire_det.benchmark.networks import node_by_node
from randwire_det.errors import UserError
from randwire_det.network import RandWire, wiring, wiring_backward
from randwire_det.network.stages import RandomStage, Way
from randwire_det.network.wiring import padded_width

WIDE = NETWORKS["padded widths"][1]


def parts_of(trunk, image):
    return dict(trunk.named_parameters()) | {"image": image}


@pytest.fixture
def at_once_only(monkeypatch):
    """Fails a test whose stages fall back on running node by node."""
    chosen = RandomStage.way

    def way(stage, x):
        assert chosen(stage, x) is not Way.NODE_BY_NODE
        return chosen(stage, x)

    monkeypatch.setattr(RandomStage, "way", way)


# --- every way to train


@pytest.mark.usefixtures("at_once_only")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("network", NETWORKS)
def test_lean_memory_changes_nothing_else(network, training):
    batch, spec = NETWORKS[network]
    trunk = build(spec, training=training, out_features=EVERY_STAGE, memory="lean")
    image = random_image(batch)
    ours, expected, statistics = run_both(trunk, image)
    assert_close(ours, expected)
    of = parts_of(trunk, image)
    assert_close(gradients(ours, of), gradients(expected, of))
    for name, buffer in trunk.named_buffers():
        if "running" in name:
            assert_close({name: buffer}, {name: statistics[name]})


@pytest.mark.parametrize("height, width", [(16, 16), (16, 100), (100, 48)])
def test_gradients_on_maps_of_few_pixels(height, width):
    trunk, image = build(WIDE, out_features=EVERY_STAGE), random_image(8, height, width)
    ours, expected, _ = run_both(trunk, image)
    of = parts_of(trunk, image)
    assert_close(gradients(ours, of), gradients(expected, of))


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_on_one_thread(monkeypatch, batch, dilation):
    """In double precision, where every kernel is held against the reference, and both chosen."""
    for module in (wiring, wiring_backward):
        monkeypatch.setattr(module, "pointwise_dilation", lambda data: dilation)
    trunk, image = build(WIDE, out_features=EVERY_STAGE), random_image(batch)
    ours, expected, _ = run_both(trunk, image)
    of = parts_of(trunk, image)
    assert_close(ours, expected)
    assert_close(gradients(ours, of), gradients(expected, of))
    with torch.no_grad():
        fused, plain = trunk.fuse(), node_by_node(copy.deepcopy(trunk).eval())
        assert_close(fused(image), plain(image))


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="was measured with oneDNN on AVX-512",
)
@pytest.mark.parametrize("batch", [1, 2, 15])
def test_on_one_thread_no_large_convolution_is_left_to_a_matrix_product(batch):
    """Torch's own choice there, half as fast as oneDNN's."""
    trunk = build(tiny_spec(channels=32), torch.float32)
    assert torch.get_num_threads() == 1
    image = torch.randn(batch, 3, 192, 192)
    with torch.profiler.profile() as seen:
        sum(each.sum() for each in trunk(image).values()).backward()
    calls = {each.key: each.count for each in seen.key_averages()}
    assert calls["aten::mkldnn_convolution"] > 0
    assert not [name for name in calls if "slow_conv_dilated" in name]
    if batch > 1:
        assert "aten::_slow_conv2d_forward" not in calls
        assert "aten::_slow_conv2d_backward" not in calls


def bytes_kept(spec, memory):
    """By one forward for its backward, as far as it is more than the maps put out."""
    trunk = RandWire(spec, memory=memory)
    image = torch.randn(2, 3, 64, 64)
    gc.collect()
    before = {each.untyped_storage().data_ptr() for each in tensors_alive()}
    maps = trunk(image)
    storages = [each.untyped_storage() for each in tensors_alive()]
    storages = {each.data_ptr(): each for each in storages}
    out = {each.untyped_storage().data_ptr() for each in maps.values()}
    return sum(each.nbytes() for address, each in storages.items() if address not in before | out)


def tensors_alive():
    return [each for each in gc.get_objects() if type(each) in (torch.Tensor, nn.Parameter)]


def test_lean_memory_keeps_less_than_half():
    spec = tiny_spec("ws", nodes=16, channels=16, regime="regular")
    assert 0 < 2 * bytes_kept(spec, "lean") < bytes_kept(spec, "standard")


def test_nothing_is_kept_where_nothing_is_trained():
    trunk = build(WIDE).requires_grad_(False)
    output = trunk(random_image().detach())["conv5"]
    assert output.grad_fn is None


@pytest.mark.parametrize("memory", ["standard", "lean"])
def test_a_kept_graph_can_be_gone_back_through_again(memory):
    trunk, image = build(WIDE, memory=memory), random_image()
    loss = sum(each.square().sum() for each in trunk(image).values())
    first, second = (
        torch.autograd.grad(loss, list(trunk.parameters()), retain_graph=again)
        for again in (True, False)
    )
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-9)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, list(trunk.parameters()))


@pytest.mark.parametrize("memory", ["standard", "lean"])
@pytest.mark.parametrize("frozen", ["depthwise", "pointwise", "edge_logits", "norm", "nodes.1."])
def test_parts_of_the_nodes_may_be_frozen(frozen, memory):
    trunk, image = build(WIDE, memory=memory, out_features=EVERY_STAGE), random_image()
    everything = parts_of(trunk, image)
    of = {name: each for name, each in everything.items() if frozen not in name}
    assert 0 < len(of) < len(everything)
    for name, each in everything.items():
        each.requires_grad_(name in of)
    ours, expected, _ = run_both(trunk, image)
    assert_close(gradients(ours, of), gradients(expected, of))


@pytest.mark.parametrize("memory", ["standard", "lean"])
@pytest.mark.parametrize("generator", THETA)
def test_single_stages_in_eval_mode(generator, memory):
    """A detector may keep the statistics of some BN layers and train others."""
    trunk, image = build(tiny_spec(generator, nodes=6), memory=memory), random_image()
    trunk.conv4.eval()
    trunk.conv5.nodes[2].norm.eval()
    ours = trunk(image)
    plain = copy.deepcopy(trunk)
    plain.conv4.nodes[0].register_forward_hook(lambda *_: None)  # see below: node by node
    plain.conv5.nodes[0].register_forward_hook(lambda *_: None)
    theirs = plain(image)
    assert_close(ours, theirs)
    of, others = parts_of(trunk, image), parts_of(plain, image)
    assert_close(gradients(ours, of), gradients(theirs, others))


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics_by_every_momentum(momentum):
    trunk = build(WIDE)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    plain = node_by_node(copy.deepcopy(trunk))
    for _ in range(3):
        image = random_image()
        trunk(image), plain(image)
    assert_close(
        {name: each.double() for name, each in trunk.named_buffers()},
        {name: each.double() for name, each in plain.named_buffers()},
    )


@pytest.mark.parametrize("memory", ["standard", "lean"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("product", [True, False], ids=["product", "convolution"])
def test_under_autocast(monkeypatch, product, training, memory):
    """bf16 has 8 bits: each way is held against float32, and ours may be little farther from it."""
    for module in (wiring, wiring_backward):
        monkeypatch.setattr(module, "by_product", lambda data: product)
    trunk = build(tiny_spec(nodes=6, channels=31), torch.float32, training, memory=memory)
    image = random_image(4, dtype=torch.float32)
    exact, _, _ = run_both(trunk, image)
    of = parts_of(trunk, image)
    exact_gradients = gradients(exact, of)
    plain = copy.deepcopy(trunk)
    for name in ("conv3", "conv4", "conv5"):
        getattr(plain, name).nodes[0].register_forward_hook(lambda *_: None)
    found = []
    for module in (trunk, plain):
        with torch.autocast("cpu", torch.bfloat16):
            maps = module(image)
        assert maps["conv5"].dtype == torch.bfloat16 or module is plain
        own = parts_of(module, image)
        found.append((maps, gradients({n: m.float() for n, m in maps.items()}, own)))
    for ours, theirs, true in (
        (found[0][0], found[1][0], exact),
        (found[0][1], found[1][1], exact_gradients),
    ):
        assert far(ours, true) <= max(2 * far(theirs, true), 0.02)


@pytest.mark.parametrize("memory", ["standard", "lean"])
@pytest.mark.parametrize("forward_too", [True, False], ids=["both", "backward alone"])
def test_a_backward_called_under_autocast_goes_back_through_the_forward_that_was_run(
    memory, forward_too
):
    trunk = build(tiny_spec(nodes=6, channels=31), torch.float32, memory=memory)
    image, found = random_image(4, dtype=torch.float32), []
    half = functools.partial(torch.autocast, "cpu", torch.bfloat16)
    for backward_too in (False, True):
        with half(enabled=forward_too):
            maps = trunk(image)
        with half(enabled=backward_too):
            found.append(gradients({"conv5": maps["conv5"].float()}, parts_of(trunk, image)))
    assert_close(found[1], found[0])


@pytest.mark.parametrize("memory", ["standard", "lean"])
def test_gradients_of_gradients_are_refused(memory):
    trunk, image = build(tiny_spec(), memory=memory, training=False), random_image()
    linear = sum(each.sum() for each in trunk(image).values())
    with pytest.raises(RuntimeError, match=r"create_graph=True.*expected create_graph=False"):
        torch.autograd.grad(linear, image, create_graph=True)


@pytest.mark.parametrize("memory", ["standard", "lean"])
def test_a_batch_of_no_images_has_gradients_of_zero(memory):
    trunk = build(WIDE, training=False, memory=memory)
    sum(each.sum() for each in trunk(random_image(0)).values()).backward()
    assert all(not each.grad.any() for each in trunk.parameters())


def test_autocast_leaves_doubles_alone():
    trunk, image = build(WIDE, training=False), random_image()
    expected = trunk(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(trunk(image), expected)


def test_a_node_may_have_an_epsilon_of_its_own():
    trunk, image = build(WIDE, training=False), random_image()
    trunk.conv3.nodes[2].norm.eps = 0.1
    assert_close(trunk(image), node_by_node(copy.deepcopy(trunk))(image))


@pytest.mark.parametrize("memory", ["standard", "lean"])
def test_another_edge_may_be_dropped_before_the_backward(memory):
    trunk, image = build(WIDE, memory=memory), random_image()
    one, other = trunk.droppable_edges()[:2]
    found = []
    for then in (one, other):
        trunk.drop_edge(one)
        maps = trunk(image)
        trunk.drop_edge(then)
        found.append(gradients(maps, parts_of(trunk, image)))
    assert_close(found[1], found[0])


def test_one_value_a_channel_is_no_batch():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        RandWire(tiny_spec())(torch.randn(1, 3, 32, 32))


# --- what the stage is used with


def test_hooks_are_called():
    trunk, image, seen = build(tiny_spec()), random_image(), []
    expected = trunk(image)
    node = trunk.conv4.nodes[3]
    handle = node.register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert_close(trunk(image), expected)
    assert len(seen) == 1
    handle.remove()
    trunk(image)
    assert len(seen) == 1


def test_another_norm_runs_node_by_node():
    trunk = build(tiny_spec(), norm=lambda channels: nn.GroupNorm(1, channels))
    image = random_image()
    torch.manual_seed(3)
    trunk(image)["conv5"].sum().backward()
    assert all(each.grad is not None for each in trunk.parameters())


@pytest.mark.parametrize(
    ("channels", "width"),
    [(1, 1), (15, 15), (16, 16), (31, 32), (78, 80), (109, 112), (500, 512), (872, 872)],
)
def test_widths_are_padded_where_it_costs_little(channels, width):
    assert padded_width(channels) == width


def test_an_unknown_memory_is_refused():
    with pytest.raises(UserError, match="memory 'small': expected one of standard, lean"):
        RandWire(tiny_spec(), memory="small")


# --- inference


@pytest.mark.parametrize("fuse", [False, True], ids=["eval", "fused"])
@pytest.mark.parametrize("part_bytes", [1, 3000, 10**9])
def test_inference_by_parts_of_the_batch_changes_nothing(fuse, part_bytes, monkeypatch):
    monkeypatch.setattr(wiring, "PART_BYTES", part_bytes)
    trunk = build(WIDE, training=False, out_features=EVERY_STAGE)
    plain = node_by_node(copy.deepcopy(trunk))
    image = random_image(3)  # a batch that parts of two do not divide
    with torch.no_grad():
        assert_close((trunk.fuse() if fuse else trunk)(image), plain(image))


def test_the_trunk_is_imported_without_the_compiler_which_takes_a_second():
    done = run_python(
        "-c", "import sys, randwire_det.network; sys.exit('torch._dynamo' in sys.modules)"
    )
    assert done.returncode == 0, done.stderr


@torch.no_grad()
def test_batch_statistics_without_a_gradient_are_those_of_the_whole_batch(monkeypatch):
    monkeypatch.setattr(wiring, "PART_BYTES", 1)
    trunk = build(WIDE, training=True, out_features=EVERY_STAGE)
    plain = node_by_node(copy.deepcopy(trunk))
    image = random_image(3)
    assert_close(trunk(image), plain(image))
