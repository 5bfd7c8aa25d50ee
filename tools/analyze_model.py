#!/usr/bin/env python3
"""Count the parameters and multiply-adds of sampled networks, beside the paper's figures."""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.run import cli
from randwire_det.spec.complexity import complexity

# (regime, C): params in M, multiply-adds in M, each mean and sample std over seeds 1 to 5 of
# WS(4, 0.75) with N=32 at 224 x 224, from Tables 2 and 3.
PAPER = {
    ("small", 78): ("5.6 ± 0.1", "583 ± 6.2"),
    ("regular", 109): ("31.9 ± 0.66", "4000 ± 90"),
    ("regular", 154): ("61.5 ± 1.32", "7900 ± 180"),
}


def parse_args():
    parser = cli.parser(
        __doc__,
        "python tools/analyze_model.py --generator ws --k 4 --p 0.75"
        " --regime regular --channels 109 --seeds 1 2 3 4 5",
    )
    cli.add_network_arguments(parser)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="a network each"
    )
    parser.add_argument("--num-classes", type=int, default=1000, help="outputs of the classifier")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser.parse_args()


def main():
    args = parse_args()
    counts, digests = [], []
    for seed in args.seeds:
        spec = cli.network_from_arguments(args, seed)
        counts.append(complexity(spec, args.input_size, args.num_classes))
        digests.append(spec.digest)
    params = [count.params / 1e6 for count in counts]
    macs = [count.macs / 1e6 for count in counts]
    result = {
        "seeds": args.seeds,
        "params_m": params,
        "macs_m": macs,
        "activations_m": [count.activations / 1e6 for count in counts],
        "params_mean": mean(params),
        "params_std": _std(params),
        "macs_mean": mean(macs),
        "macs_std": _std(macs),
        "digests": digests,
    }
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{'seed':>6} {'params, M':>16} {'multiply-adds, M':>18} {'activations, M':>16}  digest")
    for row in zip(args.seeds, params, macs, result["activations_m"], digests, strict=True):
        print("{:>6} {:>16.2f} {:>18.1f} {:>16.1f}  {:.12}".format(*row))
    macs_digits = 1 if result["macs_mean"] < 1000 else 0
    spread = [
        _plus_minus(result["params_mean"], result["params_std"], 2),
        _plus_minus(result["macs_mean"], result["macs_std"], macs_digits),
    ]
    print(f"{'mean':>6} {spread[0]:>16} {spread[1]:>18}   (± sample std)")
    paper = PAPER.get((args.regime, args.channels))
    given = (args.generator, args.k, args.p, args.nodes, args.input_size, args.num_classes)
    papers = ("ws", 4, 0.75, 32, 224, 1000)
    if paper and given == papers and not args.seed_per_stage and args.seeds == [1, 2, 3, 4, 5]:
        print(f"{'paper':>6} {paper[0]:>16} {paper[1]:>18}   (Tables 2 and 3, seeds 1 to 5)")
    else:
        print(f"{'paper':>6} {'-':>16} {'-':>18}   (the paper has no figure for this network)")


def _std(values):
    """Sample standard deviation; of a single value there is none."""
    return stdev(values) if len(values) > 1 else None


def _plus_minus(centre, std, digits):
    return f"{centre:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


if __name__ == "__main__":
    cli.run(main)
