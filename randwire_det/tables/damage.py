"""Graph damage (Figure 5) of one trained network: what each removed node or edge costs.

The removals are measured in groups, one pass over the test data for each. A record is written after
every group, and the same command continues from it.
"""

import csv
import hashlib
import io
import json
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles

from fvcore.common.config import CfgNode

from ..config.files import flat
from ..errors import UsageError, UserError
from ..network.damage import Removal, removals
from ..run.files import replace_file
from ..run.progress import progress
from ..spec.spec import NetworkSpec

VERSION = 1
RECORD, TABLE, FIGURE = "damage.json", "damage.csv", "damage.png"
KINDS = ("node", "edge")
GROUP = 16  # removals measured in one pass over the data

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """A trained network whose damage is to be measured.

    Attributes:
        spec: its network.
        metric: what is measured, in percent: "top-1" or "AP".
        images: the number of test images.
        identity: the weights and the test data, for the record; JSON-able.
        evaluate: removals to the metric of the intact network, then after each removal alone.
    """

    spec: NetworkSpec
    metric: str
    images: int
    identity: dict
    evaluate: Callable[[list[Removal]], list[float]]


def test_config(cfg: CfgNode, free: tuple[str, ...]) -> str:
    """A digest of what a test depends on in a config, for `Subject.identity`.

    Args:
        free: keys, or beginnings of keys, that leave results alone.
    """
    kept = {
        key: str(value)
        for key, value in flat(cfg).items()
        if not key.startswith((*free, "SOLVER.", "SEED"))
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def choose(
    spec: NetworkSpec,
    kinds: Iterable[str] = KINDS,
    stages: Iterable[str] = (),
    sample: int | None = None,
    seed: int = 0,
) -> list[Removal]:
    """The removals to measure, in the order of the stages.

    Args:
        kinds: "node", "edge" or both.
        stages: names of random stages; empty for all.
        sample: of each kind, at most so many drawn at random; None for all.
        seed: of the draw.

    Raises:
        UsageError: a stage that has no wiring, or a sample < 1.
    """
    wired = [stage.name for stage in spec.stages if stage.dag is not None]
    unknown = [name for name in stages if name not in wired]
    if unknown:
        raise UsageError(f"stage {unknown[0]}: expected one with a wiring, {', '.join(wired)}")
    if sample is not None and sample < 1:
        raise UsageError(f"a sample of {sample} removals: expected 1 or more")
    chosen, drawn = [], random.Random(seed)
    for kind in kinds:
        every = [each for each in removals(spec) if each.kind == kind]
        own = [each for each in every if not stages or each.stage in stages]
        chosen += own if sample is None else drawn.sample(own, min(sample, len(own)))
    return sorted(chosen, key=lambda each: wired.index(each.stage))


def measure(subject: Subject, removed: list[Removal], output: Path) -> dict:
    """Measure removals, except those that OUTPUT/damage.json holds already.

    Returns:
        the record, as in the file: the intact network's metric, and a row for each removal.

    Raises:
        UserError: the folder holds a record of other weights or test data, or a broken one.
    """
    path = output / RECORD
    record = _begin(subject, path)
    known = {_key(row) for row in record["removals"]}
    left = [each for each in removed if (each.stage, each.part) not in known]
    groups = [left[at : at + GROUP] for at in range(0, len(left), GROUP)]
    if known:
        logger.info(f"{path} holds {len(known)} removals; {len(left)} are left")
    for group in progress(groups, len(groups), f"groups of {GROUP} removals", logger):
        intact, *values = subject.evaluate(group)
        record["intact"] = intact
        record["removals"] += [
            {
                "kind": each.kind,
                "stage": each.stage,
                "part": each.part if each.kind == "node" else list(each.part),
                "degree": each.degree,
                "value": value,
                "loss": intact - value,
            }
            for each, value in zip(group, values, strict=True)
        ]
        record["summary"] = summary(record["removals"])
        _write(path, json.dumps(record, indent=1))
    _write(output / TABLE, as_csv(record["removals"]))
    return record


def _begin(subject: Subject, path: Path) -> dict:
    spec = subject.spec
    ours = {
        "version": VERSION,
        "network": spec.describe(),
        "generator": spec.provenance.get("generator"),
        "metric": subject.metric,
        "images": subject.images,
        **subject.identity,
    }
    if not path.exists():
        return {**ours, "intact": None, "removals": [], "summary": {}}
    record = read_record(path)
    for key, value in ours.items():
        # The same weights may have been moved.
        if key != "checkpoint" and record.get(key) != value:
            raise UserError(
                f"{path} is of another measurement: {key} {record.get(key)}, now {value}; choose"
                " another --output"
            )
    return record


def read_record(path: Path) -> dict:
    """A record of `measure`.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        record = json.loads(path.read_bytes())
        complete = record["version"] == VERSION and all(
            _key(row) and row["kind"] in KINDS and isinstance(row["loss"], float)
            for row in record["removals"]
        )
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a file of tools/damage.py") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        complete = False
    if not complete:
        raise UserError(f"{path}: expected a {RECORD} of this tool; remove it to start again")
    return record


def _key(row: dict) -> tuple:
    part = row["part"]
    return row["stage"], part if isinstance(part, int) else tuple(part)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda file: file.write(text.encode()))


def summary(rows: list[dict]) -> dict[str, dict[str, dict]]:
    """Statistics of the losses: {"node": {"all": ..., "0": ..., "1": ...}, "edge": ...}.

    Each is {"count", "mean", "median", "q1", "q3", "min", "max"} of the removals of that degree.
    """
    found = {}
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        if own:
            by_degree = losses_by_degree(own)
            found[kind] = {"all": statistics([row["loss"] for row in own])} | {
                str(degree): statistics(losses) for degree, losses in by_degree.items()
            }
    return found


def losses_by_degree(rows: list[dict]) -> dict[int, list[float]]:
    """{degree: losses}, ascending."""
    degrees = sorted({row["degree"] for row in rows})
    return {each: [row["loss"] for row in rows if row["degree"] == each] for each in degrees}


def statistics(losses: list[float]) -> dict[str, float]:
    """Count, mean, median, quartiles (linear interpolation, as numpy's) and range."""
    quartiles = quantiles(losses, method="inclusive") if len(losses) > 1 else losses * 3
    return {
        "count": len(losses),
        "mean": mean(losses),
        "median": median(losses),
        "q1": quartiles[0],
        "q3": quartiles[2],
        "min": min(losses),
        "max": max(losses),
    }


def as_csv(rows: list[dict]) -> str:
    """A line for each removal; an edge is written as 3-7."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["kind", "stage", "part", "degree", "value", "loss"], lineterminator="\n"
    )
    writer.writeheader()
    for row in rows:
        part = row["part"] if isinstance(row["part"], int) else "-".join(map(str, row["part"]))
        writer.writerow(row | {"part": part})
    return text.getvalue()
