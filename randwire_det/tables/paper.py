"""The paper's Tables 2 to 5: the figures that runs are held against."""

from dataclasses import dataclass

from ..coco.metrics import METRICS

BASELINE_NAMES = {
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "resnext50_32x4d": "ResNeXt-50",
    "resnext101_32x4d": "ResNeXt-101",
}


@dataclass(frozen=True)
class Paper:
    """A row of Tables 2 to 4, as printed there: percent, multiply-adds and parameters.

    Attributes:
        epochs: of a training by the paper's authors; text of others' networks.
    """

    table: str
    epochs: int | str
    top1: str
    top5: str
    macs: str
    params: str


def _table2(*figures: str) -> Paper:
    return Paper("Table 2", "", *figures)


def _table4(*figures: str) -> Paper:
    return Paper("Table 4", "> 250", *figures)


WS = "RandWire-WS(4, 0.75), C="
PAPER = {  # by the name of the network and the test size
    ("MobileNet", 224): _table2("70.6", "89.5", "569 M", "4.2 M"),
    ("MobileNet v2", 224): _table2("74.7", "-", "585 M", "6.9 M"),
    ("ShuffleNet", 224): _table2("73.7", "91.5", "524 M", "5.4 M"),
    ("ShuffleNet v2", 224): _table2("74.9", "92.2", "591 M", "7.4 M"),
    ("NASNet-A", 224): _table2("74.0", "91.6", "564 M", "5.3 M"),
    ("NASNet-B", 224): _table2("72.8", "91.3", "488 M", "5.3 M"),
    ("NASNet-C", 224): _table2("72.5", "91.0", "558 M", "4.9 M"),
    ("Amoeba-A", 224): _table2("74.5", "92.0", "555 M", "5.1 M"),
    ("Amoeba-B", 224): _table2("74.0", "91.5", "555 M", "5.3 M"),
    ("Amoeba-C", 224): _table2("75.7", "92.4", "570 M", "6.4 M"),
    ("PNAS", 224): _table2("74.2", "91.9", "588 M", "5.1 M"),
    ("DARTS", 224): _table2("73.1", "91.0", "595 M", "4.9 M"),
    (f"{WS}78", 224): Paper(
        *("Table 2", 250, "74.7 ± 0.25", "92.2 ± 0.15", "583 ± 6.2 M", "5.6 ± 0.1 M")
    ),
    ("ResNet-50", 224): Paper("Table 3", 100, "77.1", "93.5", "4.1 G", "25.6 M"),
    ("ResNeXt-50", 224): Paper("Table 3", 100, "78.4", "94.0", "4.2 G", "25.0 M"),
    (f"{WS}109", 224): Paper(
        *("Table 3", 100, "79.0 ± 0.17", "94.4 ± 0.11", "4.0 ± 0.09 G", "31.9 ± 0.66 M")
    ),
    ("ResNet-101", 224): Paper("Table 3", 100, "78.8", "94.4", "7.8 G", "44.6 M"),
    ("ResNeXt-101", 224): Paper("Table 3", 100, "79.5", "94.6", "8.0 G", "44.2 M"),
    (f"{WS}154", 224): Paper(
        *("Table 3", 100, "80.1 ± 0.19", "94.8 ± 0.18", "7.9 ± 0.18 G", "61.5 ± 1.32 M")
    ),
    ("NASNet-A", 331): _table4("82.7", "96.2", "23.8 G", "88.9 M"),
    ("Amoeba-B", 331): _table4("82.3", "96.1", "22.3 G", "84.0 M"),
    ("Amoeba-A", 331): _table4("82.8", "96.1", "23.1 G", "86.7 M"),
    ("PNASNet-5", 331): _table4("82.9", "96.2", "25.0 G", "86.1 M"),
    (f"{WS}154", 320): Paper(
        *("Table 4", 100, "81.6 ± 0.13", "95.6 ± 0.07", "16.0 ± 0.36 G", "61.5 ± 1.32 M")
    ),
}
IMAGENET_CLASSES, IMAGENET_VAL = 1000, 50_000

# Faster R-CNN with FPN, Detectron's 1x: as many images as 90,000 iterations of 16. On val2017.
TABLE5 = {
    name: dict(zip(METRICS, row, strict=True))
    for name, row in {
        "ResNet-50": (37.1, 58.8, 39.7, 21.9, 40.8, 47.6),
        "ResNeXt-50": (38.2, 60.5, 41.3, 23.0, 41.5, 48.8),
        "RandWire-WS, C=109": (39.9, 61.9, 43.3, 23.6, 43.5, 52.7),
        "ResNet-101": (39.8, 61.7, 43.3, 23.7, 43.9, 51.7),
        "ResNeXt-101": (40.7, 62.9, 44.5, 24.4, 44.8, 52.7),
        "RandWire-WS, C=154": (41.1, 63.1, 44.6, 24.6, 45.1, 53.0),
    }.items()
}
TABLE5_IMAGES = 90_000 * 16  # of the 1x schedule
