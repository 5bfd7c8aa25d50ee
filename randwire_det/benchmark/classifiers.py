"""Tables of classifiers beside torchvision's: inference, training, latency, small networks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..network import RandWireClassifier
from ..network.counting import count_module
from ..spec.complexity import complexity
from ..spec.generator import generate
from . import measure, networks
from .settings import Settings, table

# N and C of the networks of docs/experiments.md; regular regime, 64 x 64, batch 64, one thread.
MINIATURES = ((16, 28), (12, 32), (32, 16))
MOBILENET = "MobileNetV2 x 1.4"  # the paper's rival of C=78: as many multiply-adds


def forward(settings: Settings) -> dict:
    """Seconds of an inference, and how far from the fastest large product the multiply-adds are."""
    x = _images(settings)
    models = {name: _calibrated(name, settings, x) for name in networks.BASELINES}
    base = _calibrated(networks.RANDWIRE, settings, x)
    models |= {networks.RANDWIRE: base, networks.PLAIN: _calibrated(networks.PLAIN, settings, x)}
    models |= {networks.FUSED: base.fuse(), "RandWire, fuse(bfloat16)": base.fuse(torch.bfloat16)}
    cases = {name: networks.forward(model, x) for name, model in models.items()}
    if settings.compile:
        for name in (networks.RESNET, networks.FUSED):
            cases[f"{name}, compiled"] = networks.compiled_forward(models[name], x)
    products = measure.products(settings.device)
    calls = {name: call for name, (call, _) in products.items()}
    timings = measure.interleaved(cases | calls, settings.rounds, settings.device)
    rates = {name: macs / timings.pop(name).median for name, (_, macs) in products.items()}
    best = max(rates.values())
    macs = complexity(base.trunk.spec, settings.size).macs * settings.batch
    rows = table(timings, networks.RESNET)
    for name, row in rows.items():
        if name.startswith("RandWire"):
            row["over_limit"] = row["seconds"] * best / macs
    return {"rows": rows, "best_product": {"multiply_adds_per_second": best, "of": rates}}


def train(settings: Settings) -> dict:
    """Seconds of forward and backward, in training mode."""
    return _steps(settings, None)


def amp(settings: Settings) -> dict:
    """The same under bf16 autocast."""
    return _steps(settings, torch.bfloat16)


def _steps(settings: Settings, autocast: torch.dtype | None) -> dict:
    x = _images(settings)
    names = (*networks.BASELINES, networks.RANDWIRE, networks.LEAN, networks.PLAIN)
    models = {name: _calibrated(name, settings, x) for name in names}
    if settings.compile:
        for name in (networks.RESNET, networks.RANDWIRE):
            models[f"{name}, compiled"] = torch.compile(_calibrated(name, settings, x))
    cases = {name: networks.training_step(model, x, autocast) for name, model in models.items()}
    timings = measure.interleaved(cases, settings.rounds, settings.device)
    rows = table(timings, networks.RESNET)
    lean, standard = timings[networks.LEAN], timings[networks.RANDWIRE]
    rows[networks.LEAN]["over_standard"] = lean.median / standard.median
    return {"rows": rows}


def latency(settings: Settings) -> dict:
    """Inference of one image, by one thread and by all of them, as ratios to eager ResNet-50."""
    x = _images(settings._replace(batch=1))
    base = _calibrated(networks.RANDWIRE, settings, x)
    models = {
        networks.RESNET: _calibrated(networks.RESNET, settings, x),
        networks.RANDWIRE: base,
        networks.FUSED: base.fuse(),
    }
    cases = {name: networks.forward(model, x) for name, model in models.items()}
    rows = {}
    for threads in sorted({1, settings.threads}):
        with _threads(threads):
            timings = measure.interleaved(cases, settings.rounds, settings.device)
        found = table(timings, networks.RESNET)
        rows |= {f"{name}, {threads} threads": row for name, row in found.items()}
    return {"rows": rows}


def small(settings: Settings) -> dict:
    """C=78 of the small regime beside MobileNetV2 of equal multiply-adds, on one thread."""
    import torchvision

    rows = {}
    with _threads(1):
        for batch in (1, settings.batch):
            x = _images(settings._replace(batch=batch))
            spec = generate("ws", seed=1, regime="small", channels=78, k=4, p=0.75)
            mobilenet = torchvision.models.mobilenet_v2(width_mult=1.4)
            models = {MOBILENET: mobilenet.to(memory_format=torch.channels_last)}
            models["RandWire, C=78"] = RandWireClassifier(spec)
            for model in models.values():
                networks.calibrate(model.to(settings.device), x)
            steps = {name: networks.training_step(each, x) for name, each in models.items()}
            timings = measure.interleaved(steps, settings.rounds, settings.device)
            rows |= _named(f"training step, batch {batch}", timings, MOBILENET)
            models["RandWire, C=78, fuse()"] = models["RandWire, C=78"].fuse()
            calls = {name: networks.forward(each, x) for name, each in models.items()}
            timings = measure.interleaved(calls, settings.rounds, settings.device)
            rows |= _named(f"inference, batch {batch}", timings, MOBILENET)
    return {"rows": rows}


def miniature(settings: Settings) -> dict:
    """Training time per multiply-add of small networks on 64 x 64 pixels, on one thread, as ratios
    to a ResNet-18 in a quarter of its width."""
    from pretrain.baselines import build_baseline

    x = networks.images(64, 64, settings.device)
    base = "ResNet-18 / 4"
    models: dict[str, nn.Module] = {base: build_baseline("resnet18", 10, 0.25)}
    for nodes, channels in MINIATURES:
        spec = generate("ws", seed=1, regime="regular", channels=channels, nodes=nodes, k=4, p=0.75)
        models[f"RandWire, N={nodes}, C={channels}"] = RandWireClassifier(spec, 10)
    macs = {name: count_module(model, 64).macs for name, model in models.items()}
    steps = {
        name: networks.training_step(
            model.to(settings.device, memory_format=torch.channels_last), x
        )
        for name, model in models.items()
    }
    with _threads(1):
        timings = measure.interleaved(steps, settings.rounds, settings.device)
    rows = table(timings, base)
    for name, row in rows.items():
        row["macs_M"] = macs[name] / 1e6
        row["per_multiply_add"] = row["ratio"] * macs[base] / macs[name]
    return {"rows": rows}


def _named(what: str, timings: dict, baseline: str) -> dict:
    return {f"{what}: {name}": row for name, row in table(timings, baseline).items()}


def _images(settings: Settings) -> Tensor:
    return networks.images(settings.batch, settings.size, settings.device)


def _calibrated(name: str, settings: Settings, x: Tensor) -> nn.Module:
    model = networks.classifier(name, channels=settings.channels).to(settings.device)
    networks.calibrate(model, x)
    return model


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
