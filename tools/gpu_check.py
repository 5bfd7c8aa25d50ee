#!/usr/bin/env python3
"""Check a GPU: every way a network runs beside the reference evaluator, trainings, then speed.

Writes gpu_check.json and gpu_check.md. The exit status is 1 if anything is wrong. On a machine with
torch and torchvision alone, the trainings are left out, as they need this project's packages.
"""

import json
import platform
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the reference evaluator
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.errors import UsageError
from randwire_det.run import cli

PARTS = ("ways", "trainings", "speed", "compiled")


def parse_args():
    parser = cli.parser(__doc__, "python tools/gpu_check.py --output output/gpu_check")
    parser.add_argument("--what", type=cli.several(choices=PARTS), default=",".join(PARTS),
                        help="some of ways, trainings, speed, compiled")  # fmt: skip
    parser.add_argument("--device", default="cuda", help="or cpu, where nothing is compiled")
    parser.add_argument("--rounds", type=int, default=10, help="of each timing; the median counts")
    parser.add_argument("--output", default="output/gpu_check", metavar="DIR")
    args = parser.parse_args()
    if args.rounds < 1:
        raise UsageError(f"--rounds {args.rounds}: expected 1 or more")
    return args


def main() -> int:
    args = parse_args()
    import torch

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA GPU here; expected --device cpu")
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(args.device)}
    print("\n".join(f"{key}: {value}" for key, value in result["machine"].items()))
    print(f"output goes to {output}")
    begun = time.monotonic()
    for part in args.what:
        result[part] = PART[part](args)
        print(f"{part}: done after {time.monotonic() - begun:.0f} s", flush=True)
        write(output, result)  # what is measured stays if the next part fails
    wrong = [
        row for part in ("ways", "trainings") for row in result.get(part, []) if not row["right"]
    ]
    print(f"{len(wrong)} wrong" if wrong else "all right")
    return 1 if wrong else 0


def machine(device: str) -> dict:
    import torch
    import torchvision

    cuda = device.startswith("cuda")
    name = torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU"
    return {
        "device": name,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "CUDA": torch.version.cuda if cuda else None,
        "cuDNN": torch.backends.cudnn.version() if cuda else None,
    }


def ways(args) -> list[dict]:
    """Every way that a trunk runs, in every precision."""
    import ways_on_device

    rows = []
    for row in ways_on_device.check(args.device):
        rows.append(row._asdict() | {"right": row.is_right})
        if not row.is_right:
            where = f"{row.network}, {row.precision}, {row.way}"
            print(f"WRONG  {where}: {row.errors}; torch's own modules {row.plain}", flush=True)
    print(f"ways: {sum(row['right'] for row in rows)} of {len(rows)} are right")
    return rows


def trainings(args) -> list[dict]:
    """Pretraining and detection stopped and resumed; DistributedDataParallel."""
    try:
        import trainings_on_device
    except ImportError as error:
        print(f"trainings are not checked: {error}")
        return []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in trainings_on_device.check(args.device, Path(folder)):
            rows.append(row._asdict() | {"right": row.is_right})
            verdict = "right" if row.is_right else "WRONG"
            found = f"differs by {row.difference:.1e}, allowed {row.allowed:.1e}"
            print(f"{verdict}  {row.name}: {found}", flush=True)
    return rows


def speed(args) -> list[dict]:
    """Inference from batch 1 up, training steps and their memory, beside ResNet-50."""
    from randwire_det.benchmark.gpu import PRECISIONS, TRAINED

    settings = [("inference", 109, batch, TRAINED[:2]) for batch in (1, 8, 64, 256)]
    settings += [("inference", 154, 1, TRAINED[:2])]
    settings += [("training", 109, 64, TRAINED), ("training", 154, 64, TRAINED[:2])]
    cases = [
        {"what": what, "channels": channels, "batch": batch, "precision": each, "names": names}
        for what, channels, batch, names in settings
        for each in PRECISIONS
    ]
    if not args.device.startswith("cuda"):  # small, to try the tool itself
        small = {"channels": 16, "batch": 2, "size": 64}
        cases = [case | small for case in cases if case["channels"] == 154]
    return _timed(args, cases)


def compiled(args) -> list[dict]:
    """The same under torch.compile: minutes, most of them compiling."""
    common = {"channels": 109, "batch": 64, "precision": "bf16", "compiled": True}
    return _timed(args, [common | {"what": what} for what in ("training", "inference")])


def _timed(args, cases: list[dict]) -> list[dict]:
    from randwire_det.benchmark import gpu

    rows = []
    with gpu.tf32():
        for case in cases:
            try:
                found = list(gpu.measured(device=args.device, rounds=args.rounds, **case))
            except RuntimeError as error:  # such as too little memory for the largest batch
                print(f"not measured: {case}: {str(error).splitlines()[0]}", flush=True)
                continue
            rows += [row._asdict() for row in found]
            print("\n".join(map(gpu.line, found)), flush=True)
    return rows


PART = {"ways": ways, "trainings": trainings, "speed": speed, "compiled": compiled}


def write(output: Path, result: dict) -> None:
    (output / "gpu_check.json").write_text(json.dumps(result, indent=1))
    (output / "gpu_check.md").write_text(as_markdown(result))


def as_markdown(result: dict) -> str:
    lines = [f"# {result['machine']['device']}", ""]
    lines += [f"{key}: {value}  " for key, value in result["machine"].items()]
    for part in ("ways", "trainings"):
        if part in result:
            right = sum(row["right"] for row in result[part])
            lines += ["", f"{part}: {right} of {len(result[part])} are right"]
    timed = [row for part in ("speed", "compiled") for row in result.get(part, [])]
    if timed:
        head = ["", "C", "batch", "", "ms (least to most)", "of ResNet-50's", "peak, GB"]
        lines += ["", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in timed:
        first = "" if row["compile_s"] is None else f" (first call {row['compile_s']:.0f} s)"
        cells = (
            f"{row['what']}, {row['network']}, {row['how']}{first}",
            *(row["channels"], row["batch"], row["precision"]),
            f"{row['ms']:.2f} ({row['least']:.2f} to {row['most']:.2f})",
            f"{row['ratio']:.2f}",
            "" if row["peak_gb"] is None else f"{row['peak_gb']:.2f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    cli.run(main)
