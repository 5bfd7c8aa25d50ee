"""Counts of a real module by fvcore, to hold randwire_det's torch-free ones against."""

from collections import Counter

from randwire_det.network import RandWire

EVERY_STAGE = ("conv1", "conv2", "conv3", "conv4", "conv5")


def aggregation_macs(spec, image):
    """One multiply-add per element and edge into a node of in-degree > 1, on the real shapes."""
    maps = RandWire(spec, out_features=EVERY_STAGE).eval()(image)
    total = 0
    for stage in spec.stages:
        if stage.dag is not None:
            in_degrees = Counter(target for _, target in stage.dag.edges).values()
            total += maps[stage.name].numel() * sum(degree for degree in in_degrees if degree > 1)
    return total


def count(analysis, module, image):
    """What fvcore counts for convolutions and fc; BN is not in the paper's FLOPs."""
    by_operator = analysis(module, image).unsupported_ops_warnings(False).by_operator()
    return by_operator["conv"] + by_operator["linear"]
