"""Every way in which a trunk runs on a device, beside the reference evaluator: tools/gpu_check.py.

The truth is the reference evaluator's in float64 on the CPU. How far a precision may be from it is
not guessed: torch's own modules, node by node on the same device in the same precision, set it.
"""

import copy
import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cache
from statistics import mean
from typing import NamedTuple

import torch
from network_helpers import build, gradients
from reference import evaluate
from specs import tiny_spec
from torch import Tensor

from randwire_det.benchmark.gpu import tf32
from randwire_det.benchmark.networks import node_by_node
from randwire_det.network import RandWire
from randwire_det.network.graphs import graphed

NETWORKS = {
    "WS, small regime": tiny_spec("ws", nodes=7, k=4, p=0.5, channels=16),
    "WS, regular regime, padded": tiny_spec("ws", nodes=10, channels=31, regime="regular"),
    "ER, isolated nodes": tiny_spec("er", nodes=9, p=0.2, channels=16, regime="regular", seed=2),
    "ER of three nodes": tiny_spec("er", nodes=3, p=1.0, channels=31),
}
COMPILED = "ER of three nodes"  # a node takes seconds to compile
DTYPES = {"float64": torch.float64, "fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = ("float64", "fp32", "tf32", "fp16", "bf16")
# Errors below these are those of the precision itself, whatever torch's own modules happen to hit.
FLOORS = {"float64": 1e-12, "fp32": 1e-5, "tf32": 1e-3, "fp16": 1e-3, "bf16": 8e-3}
FACTOR = 2.0  # of the error of torch's own modules
HALF = ("fp16", "bf16")
DRAWS = 3  # of weights and image, in half
Call = Callable[[Tensor], dict[str, Tensor]]


class Row(NamedTuple):
    """How far one way is from the truth.

    Attributes:
        errors: of the maps, and of the gradients of weights, of edge weights and of the image, each
            as the norm of the difference over that of the truth.
        plain: those of torch's own modules.
    """

    network: str
    precision: str
    way: str
    errors: dict[str, float]
    plain: dict[str, float]

    @property
    def is_right(self) -> bool:
        floor = FLOORS[self.precision]
        return all(  # NaN is not
            error <= max(FACTOR * self.plain[group], floor) for group, error in self.errors.items()
        )


def check(device: str) -> Iterator[Row]:
    """One row for every network, precision and way; a CPU, which has tests of its own, gets few."""
    if torch.device(device).type == "cpu":
        yield from _rows(device, next(iter(NETWORKS)), "eager", draws=1)
        return
    jobs = [(name, "eager", DRAWS) for name in NETWORKS] + [(COMPILED, "compiled", 1)]
    # In processes of their own, as starting small kernels is all that it takes.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        started = [pool.submit(_all_rows, device, *job) for job in jobs]
        for each in as_completed(started):
            yield from each.result()


def _all_rows(*arguments) -> list[Row]:
    torch.set_num_threads(1)
    return list(_rows(*arguments))


def _rows(device, network, kind, draws) -> Iterator[Row]:
    draws = [_Draw(NETWORKS[network], seed) for seed in range(draws)]
    for precision in PRECISIONS:
        # In half, a ReLU that opens or closes by rounding moves gradients by a tenth.
        chosen = draws if precision in HALF else draws[:1]
        for way in (way for way in WAYS[kind] if way.suits(device, precision)):
            errors = [draw.errors(way, device, precision) for draw in chosen]
            plain = [draw.errors_of_plain(way.setting, device, precision) for draw in chosen]
            yield Row(network, precision, way.name, *map(_root_mean_square, (errors, plain)))


class _Draw:
    """A network with weights and an image drawn from a seed, and its truths."""

    def __init__(self, spec, seed: int):
        torch.manual_seed(seed)
        self.trunk, self.image = build(spec, torch.float32), torch.randn(4, 3, 96, 64)
        self.plain = node_by_node(copy.deepcopy(self.trunk))
        self.truth = cache(self._truth)
        self.errors_of_plain = cache(self._errors_of_plain)

    def _truth(self, setting: "Setting") -> dict[str, dict[str, Tensor]]:
        trunk = copy.deepcopy(self.trunk).double()
        image = self.image.double().requires_grad_()
        of = _prepare(trunk, image, setting)
        statistics = {name: each.clone() for name, each in trunk.named_buffers()}
        tensors = dict(trunk.named_parameters()) | statistics
        maps = evaluate(trunk.spec, tensors, image, setting.training, without=trunk.dropped_edge)
        maps = {name: maps[name] for name in trunk.out_channels}
        return _grouped(maps, of if setting.with_gradients else None)

    def _errors_of_plain(self, setting, device, precision) -> dict[str, float]:
        return self._errors(self.plain, Way("plain", setting, _as_it_is), device, precision)

    def errors(self, way: "Way", device: str, precision: str) -> dict[str, float]:
        return self._errors(self.trunk, way, device, precision)

    def _errors(self, trunk, way, device, precision) -> dict[str, float]:
        found = _result(way, copy.deepcopy(trunk), self.image, device, precision)
        return _errors(found, self.truth(way.setting))


def _root_mean_square(draws: list[dict[str, float]]) -> dict[str, float]:
    return {group: math.sqrt(mean(draw[group] ** 2 for draw in draws)) for group in draws[0]}


class Setting(NamedTuple):
    """What is computed; the ways of one setting have one truth."""

    training: bool = False
    with_gradients: bool = False
    frozen: bool = False
    drops: bool = False


class Way(NamedTuple):
    """A way to compute a setting.

    Attributes:
        make: maps a trunk to the call that is checked.
        kinds: the kinds of device that it is for.
        precisions: those that it is for.
    """

    name: str
    setting: Setting
    make: Callable[[RandWire, Tensor], Call]
    kinds: tuple[str, ...] = ("cpu", "cuda")
    precisions: tuple[str, ...] = PRECISIONS

    def suits(self, device: str, precision: str) -> bool:
        kind = device.partition(":")[0]
        if kind not in self.kinds or precision not in self.precisions:
            return False
        return kind == "cuda" or precision not in ("tf32", "fp16")


def _result(way: Way, trunk, image, device, precision) -> dict[str, dict[str, Tensor]]:
    dtype = torch.float64 if precision == "float64" else torch.float32
    trunk = trunk.to(device, dtype)
    image = image.to(device, dtype).contiguous(memory_format=torch.channels_last)
    image.requires_grad_(way.setting.with_gradients)
    of = _prepare(trunk, image, way.setting)
    with arithmetic(device, precision), torch.set_grad_enabled(way.setting.with_gradients):
        maps = way.make(trunk, image)(image)
        maps = {name: each.to(dtype) for name, each in maps.items()}
        return _grouped(maps, of if way.setting.with_gradients else None)


def _prepare(trunk: RandWire, image: Tensor, setting: Setting) -> dict[str, Tensor]:
    """Put a trunk into a setting; what has a gradient, by name."""
    trunk.train(setting.training)
    if setting.drops:
        trunk.drop_edge(trunk.droppable_edges()[1])
    for name, parameter in trunk.named_parameters():
        parameter.requires_grad_(not (setting.frozen and name.startswith(("conv1", "conv2"))))
    of = {name: each for name, each in trunk.named_parameters() if each.requires_grad}
    return of | {"image": image}


def _grouped(maps, of) -> dict[str, dict[str, Tensor]]:
    groups = {"maps": maps}
    if of is not None:
        for name, each in gradients(maps, of, unused_are_zero=True).items():
            kind = "edges" if name.endswith("edge_logits") else "weights"
            groups.setdefault("image" if name == "image" else kind, {})[name] = each
    return groups


def _errors(found, truth) -> dict[str, float]:
    """The relative error of each group; NaN where anything is NaN."""

    def flat(tensors, names):
        return torch.cat([tensors[name].detach().double().cpu().flatten() for name in names])

    exact = {group: flat(tensors, tensors) for group, tensors in truth.items()}
    return {
        group: float((flat(found[group], truth[group]) - exact[group]).norm() / exact[group].norm())
        for group in truth
    }


@contextmanager
def arithmetic(device: str, precision: str) -> Iterator[None]:
    """TF32 on or off, autocast for half precisions."""
    dtype = DTYPES.get(precision, torch.float64)
    autocast = torch.autocast(torch.device(device).type, dtype, enabled=precision in HALF)
    with tf32(precision == "tf32"), autocast:
        yield


# --- the ways


def _as_it_is(trunk, image) -> Call:
    return trunk


def _lean(trunk, image) -> Call:
    trunk.memory = "lean"
    return trunk


def _fused(trunk, image) -> Call:
    return trunk.fuse()


def _fused_to_half(trunk, image) -> Call:
    return trunk.fuse(torch.get_autocast_dtype(image.device.type))


def _graphed(make) -> Callable:
    def call(trunk, image):
        return graphed(make(trunk, image), image)

    return call


def _compiled(make, **options) -> Callable:
    def call(trunk, image):
        torch.compiler.reset()
        return torch.compile(make(trunk, image), **options)

    return call


TRAINING = Setting(training=True, with_gradients=True)
FINE_TUNING = Setting(with_gradients=True, frozen=True)
INFERENCE = Setting()
WAYS = {
    "eager": (
        Way("training", TRAINING, _as_it_is),
        Way("training, lean", TRAINING, _lean),
        Way("training, an edge dropped", TRAINING._replace(drops=True), _as_it_is),
        Way("training, BN and first stages frozen", FINE_TUNING, _as_it_is),
        Way("the same, lean", FINE_TUNING, _lean),
        Way("statistics without gradients", Setting(training=True), _as_it_is),
        Way("inference", INFERENCE, _as_it_is),
        Way("inference, fused", INFERENCE, _fused),
        Way("inference, fused to half", INFERENCE, _fused_to_half, precisions=HALF),
        Way("inference, CUDA graph", INFERENCE, _graphed(_as_it_is), kinds=("cuda",)),
        Way("inference, fused, CUDA graph", INFERENCE, _graphed(_fused), kinds=("cuda",)),
    ),
    "compiled": (
        Way("training, compiled", TRAINING, _compiled(_as_it_is), precisions=("fp32",)),
        Way("inference, fused, compiled", INFERENCE, _compiled(_fused), precisions=("fp32",)),
    ),
}
