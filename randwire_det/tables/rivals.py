"""Tables 2 to 4 whole: all rows of the paper, with counts, and the accuracy of finished runs."""

import contextlib
import io
import warnings
from collections.abc import Callable

from ..spec.complexity import HEAD_CHANNELS, Complexity, complexity
from ..spec.generator import generate
from .paper import IMAGENET_CLASSES, PAPER, WS
from .rows import Row, Spread

SEEDS = (1, 2, 3, 4, 5)  # of the paper's five instances
REGIMES = {78: "small", 109: "regular", 154: "regular"}  # by C
RESNEXT101 = "resnext101_32x4d"  # torchvision names 32x8d and 64x4d only
# Networks of the paper's rows: the library that builds them, and what to call there. Others exist
# in neither torchvision nor timm.
RIVALS: dict[tuple[str, int], tuple[str, str, dict]] = {
    ("MobileNet", 224): ("timm", "mobilenetv1_100", {}),
    ("MobileNet v2", 224): ("torchvision", "mobilenet_v2", {"width_mult": 1.4}),
    ("ShuffleNet v2", 224): ("torchvision", "shufflenet_v2_x2_0", {}),
    ("ResNet-50", 224): ("torchvision", "resnet50", {}),
    ("ResNeXt-50", 224): ("torchvision", "resnext50_32x4d", {}),
    ("ResNet-101", 224): ("torchvision", "resnet101", {}),
    ("ResNeXt-101", 224): ("torchvision", RESNEXT101, {}),
    ("NASNet-A", 331): ("timm", "nasnetalarge", {}),
    ("PNASNet-5", 331): ("timm", "pnasnet5large", {}),
}
NOT_BUILT = "not built"


def whole_tables(tables: list[str], ran: list[Row]) -> list[Row]:
    """All rows of tables of the paper, in its order, then the rows of `ran` that are of no table.

    Args:
        tables: "Table 2", ...
        ran: of `pretraining.summarize`.
    """
    by_paper = {id(row.paper): row for row in ran if row.paper in PAPER.values()}
    rows = []
    for (name, size), paper in PAPER.items():
        if paper.table in tables:
            counts, note = _counted(name, size)
            row = by_paper.pop(id(paper), None) or _not_run(name, size)
            values = row.values | counts
            rows.append(
                Row(paper.table, name, row.columns | {"note": note}, row.runs, values, paper)
            )
    return rows + [row for row in ran if not any(row.paper is other.paper for other in rows)]


def _not_run(name: str, size: int) -> Row:
    paper = PAPER[name, size]
    columns = {"size": size, "epochs": paper.epochs}
    return Row(paper.table, name, columns, [], {"top1": None, "top5": None}, paper)


def _counted(name: str, size: int) -> tuple[dict[str, Spread | None], str]:
    """{"macs", "params"} of a row, and a note on where they are from or why there are none."""
    if name.startswith(WS):
        channels = int(name.removeprefix(WS))
        regime = REGIMES[channels]
        specs = (
            generate("ws", seed=s, regime=regime, channels=channels, k=4, p=0.75) for s in SEEDS
        )
        counts, note = [complexity(spec, size) for spec in specs], "seeds 1 to 5"
    elif (name, size) not in RIVALS:
        counts, note = [], NOT_BUILT
    else:
        library, builder, arguments = RIVALS[name, size]
        build = _builder(library, builder)
        if build is None:
            counts, note = [], f"pip install 'randwire_det[{library}]'"
        else:
            counts, note = [_count(build, arguments, size)], f"{library} {builder}"
    values = {key: [getattr(count, key) for count in counts] for key in ("macs", "params")}
    return {key: Spread.of(each) if each else None for key, each in values.items()}, note


def _builder(library: str, name: str) -> Callable | None:
    """The function that builds a network; None where the library is not installed."""
    if library == "torchvision":
        from torchvision import models

        if name == RESNEXT101:
            block = models.resnet.Bottleneck
            return lambda: models.ResNet(block, [3, 4, 23, 3], groups=32, width_per_group=4)
        return getattr(models, name)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            import timm
    except ImportError:
        return None
    return lambda **arguments: timm.create_model(name, **arguments)


def _count(build: Callable, arguments: dict, size: int) -> Complexity:
    import torch

    from ..network.counting import count_module

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return count_module(build(**arguments), size)


def architectures() -> list[tuple[str, ...]]:
    """Table 1, as the specs of C=78 and C=109 have it: a line for each stage, and the head."""
    small, regular = (
        generate("ws", seed=1, regime=REGIMES[channels], channels=channels, k=4, p=0.75)
        for channels in (78, 109)
    )
    lines, size = [], 224
    for one, other in zip(small.stages, regular.stages, strict=True):
        size = -(-size // one.stride)
        lines.append((one.name, f"{size} x {size}", _stage(one), _stage(other)))
    head = f"1x1 conv {HEAD_CHANNELS}, average pool, {IMAGENET_CLASSES}-d fc"
    return [*lines, ("classifier", "1 x 1", head, head)]


def _stage(stage) -> str:
    if stage.dag is None:
        return f"3x3 conv, {stage.channels}"
    return f"random wiring, N={stage.dag.num_nodes}, {stage.channels}"
