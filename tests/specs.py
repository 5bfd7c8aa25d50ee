"""Small specs; importable without pytest."""

from randwire_det import NetworkSpec, generate

# A small theta for every graph model; each fits the N/2 = 5 nodes of a regular conv2, too.
THETA = {"er": {"p": 0.3}, "ba": {"m": 2}, "ws": {"k": 4, "p": 0.75}}


def tiny_spec(generator: str = "ws", **changes) -> NetworkSpec:
    """A network of three to eight channels that runs in milliseconds."""
    arguments = {
        "seed": 1,
        "regime": "small",
        "channels": 4,
        "nodes": 10,
        **THETA.get(generator, {}),
    }
    return generate(generator, **arguments | changes)
