#!/usr/bin/env python3
"""Count sampled networks beside the paper's figures, measure their graphs, match their widths.

By default: parameters, multiply-adds and activations of a network per seed. With --wirings, a row
for each generator, with graph measures (clustering, path length, degrees, depth, input and output
nodes, bottlenecks, elongation, live maps); with --match, the width C at which other node operations
have the same multiply-adds (Figure 6).
"""

import json
import math
import re
import sys
from functools import partial
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det import UsageError
from randwire_det.run import cli
from randwire_det.run.files import replace_file
from randwire_det.spec import NODE_OPS, NetworkSpec
from randwire_det.spec.complexity import (
    HEAD_CHANNELS,
    Complexity,
    complexity,
    matching_channels,
)
from randwire_det.spec.wirings import (
    COUNTS,
    Wiring,
    arguments_of,
    as_csv,
    contact_sheet,
    measured,
    parse_wirings,
    scatter,
)
from randwire_det.tables.paper import PAPER, WS
from randwire_det.tables.rows import Spread

SUFFIXES = (".png", ".svg", ".pdf")
FIRST = ("clustering", "path_length", "degree_std", "depth", "input_nodes", "output_nodes")
PRINTED = (*FIRST, "bottlenecks", "elongation", "live_maps", "live_maps_best")


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/analyze_model.py --generator ws --k 4 --p 0.75"
        " --regime regular --channels 109 --seeds 1-5",
    )
    cli.add_network_arguments(parser)
    parser.add_argument(
        "--seeds", type=seeds, nargs="+", default=[[1, 2, 3, 4, 5]], help="1 2 3, or 1-100"
    )
    parser.add_argument("--num-classes", type=int, default=1000, help="outputs of the classifier")
    parser.add_argument(
        "--head-channels",
        type=int,
        default=HEAD_CHANNELS,
        help="of the classifier's 1x1 convolution",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument(
        "--wirings",
        nargs="+",
        metavar="WIRING",
        help='measure the graphs of these: "WS(4, 0.75)", "ER(0.2)", resnet, ...; figure3 for all'
        " of Figure 3. --generator and its parameters are not read then",
    )
    parser.add_argument("--csv", type=Path, help="with --wirings: write a row a network here")
    parser.add_argument("--plot", type=Path, help="with --wirings: a scatter plot, .png or .svg")
    parser.add_argument(
        "--axes",
        nargs=2,
        default=["clustering", "path_length"],
        help="columns of the CSV to plot",
    )
    parser.add_argument(
        "--sheet", type=Path, help="with --wirings: drawings as in Figure 4, a column a seed"
    )
    parser.add_argument(
        "--match",
        nargs="*",
        choices=NODE_OPS,
        metavar="OP",
        help=f"match these node operations to --op; all without a name: {', '.join(NODE_OPS)}",
    )
    args = parser.parse_args()
    args.seeds = [seed for part in args.seeds for seed in part]
    if not args.seeds:
        parser.error("--seeds: expected first <= last in a range such as 1-100")
    return args


def seeds(text: str) -> list[int]:
    """ "7" or "1-100"."""
    if found := re.fullmatch(r"(\d+)-(\d+)", text):
        return list(range(int(found[1]), int(found[2]) + 1))
    return [int(text)]


def main():
    args = parse_args()
    for option in ("csv", "plot", "sheet"):
        path = getattr(args, option)
        if path and not args.wirings:
            raise UsageError(f"--{option} {path}: needs --wirings, the generators to measure")
        if path and option != "csv" and path.suffix not in SUFFIXES:
            raise UsageError(f"--{option} {path}: expected a name that ends in .png, .svg or .pdf")
    if args.match is not None:
        match(args)
    elif args.wirings:
        measure(args)
    else:
        count(args)


def counts_of(spec: NetworkSpec, args) -> Complexity:
    return complexity(spec, args.input_size, args.num_classes, args.head_channels)


def match(args) -> None:
    """Print the C of each operation, with the multiply-adds of --op averaged over the seeds."""

    def macs(op: str, channels: float) -> float:
        networks = (
            cli.network_from_arguments(args, seed, op=op, channels=channels) for seed in args.seeds
        )
        return fmean(counts_of(each, args).macs for each in networks)

    aim = macs(args.op, args.channels)
    rows = []
    for op in args.match or NODE_OPS:
        channels = matching_channels(partial(macs, op), aim)
        found = macs(op, channels)
        rows.append({"op": op, "channels": channels, "macs_m": found / 1e6, "ratio": found / aim})
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'operation':>12} {'C':>9} {'multiply-adds, M':>17} {'against ' + args.op:>22}")
    for row in rows:
        difference = f"{100 * (row['ratio'] - 1):+.2f} %"
        digits = 1 if row["macs_m"] >= 100 else 3
        macs_m = f"{row['macs_m']:.{digits}f}"
        print(f"{row['op']:>12} {row['channels']:>9g} {macs_m:>17} {difference:>22}")


def measure(args) -> None:
    """Print, write and plot the measures of --wirings."""
    wirings = parse_wirings(args.wirings)

    def sample(wiring: Wiring, seed: int):
        own = arguments_of(wiring)
        args.generator = wiring.generator
        return cli.network_from_arguments(args, seed, **own, graph=None)

    networks = [(each.name, seed, sample(each, seed)) for each in wirings for seed in args.seeds]
    rows = list(measured(networks, partial(counts_of, args=args)))
    for axis in args.axes:
        if axis not in rows[0] or axis == "wiring":
            columns = ", ".join(key for key in rows[0] if key != "wiring")
            raise UsageError(f"--axes {axis}: expected two of {columns}")
    means = {
        wiring.name: {
            key: spread([row[key] for row in rows if row["wiring"] == wiring.name])
            for key in (*COUNTS, *PRINTED)
        }
        for wiring in wirings
    }
    if args.json:
        plain = {
            name: {key: {"mean": each.mean, "std": each.std} for key, each in own.items()}
            for name, own in means.items()
        }
        print(json.dumps(plain, indent=1))
    else:
        print_means(means, len(args.seeds))
    for path in filter(None, (args.csv, args.plot, args.sheet)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if args.csv:
        replace_file(args.csv, lambda file: file.write(as_csv(rows).encode()))
    if args.plot:
        scatter(rows, tuple(args.axes), args.plot)
    if args.sheet:
        contact_sheet(wirings, args.seeds, sample, args.sheet)
    for path in filter(None, (args.csv, args.plot, args.sheet)):
        print(f"written: {path}", file=sys.stderr)


def spread(values: list[float]) -> Spread:
    """Of the values that there are; of none, NaN."""
    return Spread.of([value for value in values if value == value] or [math.nan])


def print_means(means: dict[str, dict[str, Spread]], seeds: int) -> None:
    width = max(map(len, means))
    titles = ("params, M", "madds, M", *(key.replace("_", " ") for key in PRINTED))
    print(" " * width, *(f"{title:>{max(8, len(title))}}" for title in titles))
    for name, own in means.items():
        values = [own["params"].mean / 1e6, own["macs"].mean / 1e6]
        values += [own[key].mean for key in PRINTED]
        cells = (
            f"{value:>{max(8, len(title))}.2f}" for title, value in zip(titles, values, strict=True)
        )
        print(f"{name:<{width}}", *cells)
    print(f"(means over {seeds} seeds)")


def count(args) -> None:
    """Print parameters, multiply-adds and activations a seed, and the paper's figures."""
    counts, digests = [], []
    for seed in args.seeds:
        spec = cli.network_from_arguments(args, seed)
        counts.append(counts_of(spec, args))
        digests.append(spec.digest)
    params = [count.params / 1e6 for count in counts]
    macs = [count.macs / 1e6 for count in counts]
    params_spread, macs_spread = Spread.of(params), Spread.of(macs)
    result = {
        "seeds": args.seeds,
        "params_m": params,
        "macs_m": macs,
        "activations_m": [count.activations / 1e6 for count in counts],
        "params_mean": params_spread.mean,
        "params_std": params_spread.std,
        "macs_mean": macs_spread.mean,
        "macs_std": macs_spread.std,
        "digests": digests,
    }
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{'seed':>6} {'params, M':>16} {'multiply-adds, M':>18} {'activations, M':>16}  digest")
    for row in zip(args.seeds, params, macs, result["activations_m"], digests, strict=True):
        print("{:>6} {:>16.2f} {:>18.1f} {:>16.1f}  {:.12}".format(*row))
    macs_text = macs_spread.to_text(digits=1 if macs_spread.mean < 1000 else 0)
    print(f"{'mean':>6} {params_spread.to_text():>16} {macs_text:>18}   (± sample std)")
    # Tables 2 and 3: mean and sample std over seeds 1 to 5 of WS(4, 0.75) with N=32 at 224 x 224.
    given = (args.generator, args.k, args.p, args.nodes, args.op)
    given += (args.input_size, args.num_classes, args.head_channels)
    papers = ("ws", 4, 0.75, 32, "sep_conv3x3", 224, 1000, HEAD_CHANNELS)
    same_regime = args.regime == ("small" if args.channels == 78 else "regular")
    paper = PAPER.get((f"{WS}{args.channels:g}", 224)) if same_regime else None
    if paper and given == papers and not args.seed_per_stage and args.seeds == [1, 2, 3, 4, 5]:
        theirs = f"{_in_millions(paper.params):>16} {_in_millions(paper.macs):>18}"
        print(f"{'paper':>6} {theirs}   (Tables 2 and 3, seeds 1 to 5)")
    else:
        print(f"{'paper':>6} {'-':>16} {'-':>18}   (the paper has no figure for this network)")


def _in_millions(figure: str) -> str:
    """For example "4000 ± 90" of "4.0 ± 0.09 G"."""
    *parts, unit = figure.replace("±", "").split()
    return " ± ".join(f"{float(part) * {'G': 1000, 'M': 1}[unit]:g}" for part in parts)


if __name__ == "__main__":
    cli.run(main)
