#!/usr/bin/env python3
"""Count the parameters and multiply-adds of sampled networks, beside the paper's figures."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.run import cli
from randwire_det.spec.complexity import complexity
from randwire_det.tables.paper import PAPER, WS
from randwire_det.tables.rows import Spread


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
    given = (args.generator, args.k, args.p, args.nodes, args.input_size, args.num_classes)
    papers = ("ws", 4, 0.75, 32, 224, 1000)
    same_regime = args.regime == ("small" if args.channels == 78 else "regular")
    paper = PAPER.get((f"{WS}{args.channels}", 224)) if same_regime else None
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
