"""torch.hub: the paper's networks, without weights, which nobody has trained yet.

torch.hub.load("OWNER/randwire_det", "randwire_c109", seed=1)
torch.hub.load("clone/of/randwire_det", "randwire_trunk", "c78", source="local")
"""

dependencies = ["torch", "networkx", "fvcore", "yaml"]

from randwire_det import generate as _generate  # noqa: E402 - torch.hub checks `dependencies` first
from randwire_det.network import RandWire as _RandWire  # noqa: E402
from randwire_det.network import RandWireClassifier as _RandWireClassifier  # noqa: E402

_NETWORKS = {"c78": ("small", 78), "c109": ("regular", 109), "c154": ("regular", 154)}


def _spec(name: str, seed: int):
    regime, channels = _NETWORKS[name]
    return _generate("ws", seed=seed, regime=regime, channels=channels, k=4, p=0.75)


def randwire_c78(seed: int = 1, **options):
    """The classifier of Table 2, RandWire-WS(4, 0.75); options are RandWireClassifier's."""
    return _RandWireClassifier(_spec("c78", seed), **options)


def randwire_c109(seed: int = 1, **options):
    """The classifier of Table 3, RandWire-WS(4, 0.75), C=109; options are RandWireClassifier's."""
    return _RandWireClassifier(_spec("c109", seed), **options)


def randwire_c154(seed: int = 1, **options):
    """The classifier of Tables 3 and 4, RandWire-WS(4, 0.75), C=154; options are
    RandWireClassifier's."""
    return _RandWireClassifier(_spec("c154", seed), **options)


def randwire_trunk(name: str = "c109", seed: int = 1, **options):
    """The trunk of "c78", "c109" or "c154", images to {"conv2": map, ...}; options as RandWire."""
    return _RandWire(_spec(name, seed), **options)
