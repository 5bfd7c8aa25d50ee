#!/usr/bin/env python3
"""Run a study: a grid of settings and seeds, each run by the training commands (Figures 3, 5, 6).

STUDY.yaml is a file, or the name of a shipped one, such as studies/miniature.yaml; its keys are
explained in randwire_det/sweep/study.py. Every run has a folder below the study's OUTPUT_DIR, and
prints into sweep.log there. Finished runs are skipped, stopped and killed ones go on from their
checkpoints, and a failed run does not stop the others: the exit status is 1 then. SIGTERM and
Ctrl-C let the runs write their checkpoints and leave with status 75. Several sweeps, on machines
that share the folder too, may work on one study.

  --print    lists the runs as shell commands, with their state, and runs nothing
  --gather   writes results.csv, summary.md and the figures of the runs that are finished
  --search   samples settings instead of a grid, by Optuna; any number of processes may share it
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from randwire_det.errors import EXIT_STOPPED, UsageError
from randwire_det.run import cli
from randwire_det.run.stopping import Stopping
from randwire_det.sweep.study import Run, Study, read_study

logger = logging.getLogger("randwire_det.sweep")
EXAMPLE = """python tools/sweep.py studies/miniature.yaml --jobs 2
  python tools/sweep.py studies/figure3.yaml --cluster slurm --slurm slurm_partition=gpu \\
      SET.DATA.ROOT /data/imagenet OUTPUT_DIR /scratch/figure3"""


def parse_args():
    parser = cli.parser(__doc__, EXAMPLE)
    parser.add_argument("study", metavar="STUDY.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="changes to the study: its keys, such as OUTPUT_DIR, and SET.<config key>",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="list the runs and run nothing")
    what.add_argument("--gather", action="store_true", help="write results and figures")
    what.add_argument("--search", action="store_true", help="search as SEARCH of the study says")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time")
    parser.add_argument("--cluster", choices=("local", "slurm"), default="local")
    parser.add_argument(
        "--slurm",
        type=cli.several(),
        default=[],
        metavar="KEY=VALUE,...",
        help="parameters of submitit, such as timeout_min=600,slurm_partition=gpu",
    )
    return parser.parse_intermixed_args()


def main() -> int | None:
    args = parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    if not sys.warnoptions:  # torch and detectron2 warn of each other's age
        warnings.simplefilter("ignore")
    if args.slurm and args.cluster != "slurm":
        raise UsageError(f"--slurm {','.join(args.slurm)}: needs --cluster slurm")
    if args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: expected 1 or more")
    study = read_study(args.study, args.overrides)
    if args.search:
        return _search(study, args)
    runs = study.runs()
    if args.gather:
        return _gather(study, runs)
    plan = _imported()
    works = plan.plan(study, runs, config_reader(study))
    if args.print:
        for work in works:
            state = "finished" if work.finished() else "to do"
            print(f"# {work.name}: {state}\n{plan.shell(work.commands)}")
        return None
    return _run(study, works, args)


def _imported():
    with cli.quiet_imports():
        try:
            from randwire_det.sweep import plan
        except ModuleNotFoundError as error:
            if error.name not in ("submitit", "optuna"):
                raise
            raise UsageError(
                f"{error.name} is not installed: pip install 'randwire_det[sweep]'"
            ) from None
    return plan


def config_reader(study: Study):
    """The function that reads a run's config: (config file, KEY VALUE pairs) to a CfgNode."""
    with cli.quiet_imports():
        if study.command == "train_net":
            from randwire_det.detection.config import get_cfg
            from randwire_det.detection.values import check_values as check
        else:
            from pretrain.config import check, get_cfg
        from randwire_det.config.files import merge_config

    def read(config_file: str, overrides: list[str]):
        cfg = get_cfg()
        merge_config(cfg, config_file, overrides)
        check(cfg)
        return cfg

    return read


def _run(study: Study, works: list, args: argparse.Namespace) -> int:
    from randwire_det.sweep.jobs import run_all

    executor = make_executor(study, args)
    logger.info(f"{study.path}: output goes to {study.output}")
    if args.cluster == "slurm":
        executor.submit_all(works)
    with Stopping() as stopping:
        at_once = len(works) if args.cluster == "slurm" else args.jobs
        outcome = run_all(works, executor, stopping, at_once)
    for reason in outcome.failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    if stopping:
        logger.info(f"stopped by {stopping.reason}; the same command goes on")
        return EXIT_STOPPED
    logger.info(f"done; python tools/sweep.py {args.study} --gather writes results and figures")
    return 1 if outcome.failed else 0


def make_executor(study: Study, args: argparse.Namespace):
    from randwire_det.sweep.jobs import Executor, SlurmExecutor

    if args.cluster == "local":
        gpus = _gpus()
        if gpus and args.jobs * study.processes > len(gpus):
            raise UsageError(
                f"--jobs {args.jobs} with NUM_GPUS {study.processes}: expected at most the"
                f" {len(gpus)} visible GPUs together"
            )
        return Executor(study.output, gpus=gpus, processes=study.processes)
    options = dict(option.partition("=")[::2] for option in args.slurm)
    for key, value in options.items():
        if not value:
            raise UsageError(f"--slurm {key}: expected KEY=VALUE")
    options = {key: int(value) if value.isdigit() else value for key, value in options.items()}
    try:
        return SlurmExecutor(
            study.output, options=options, at_once=args.jobs, processes=study.processes
        )
    except (RuntimeError, NameError, ValueError) as error:  # submitit's
        raise UsageError(f"--cluster slurm: {' '.join(str(error).split())}") from None


def _gpus() -> list[int]:
    """The indices that CUDA_VISIBLE_DEVICES takes."""
    with cli.quiet_imports():
        import torch
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    named = [int(each) for each in visible if each.strip().isdigit()]
    return named[:count] if named else list(range(count))


def _gather(study: Study, runs: list[Run]) -> None:
    _imported()
    with cli.quiet_imports():
        from pretrain.baselines import baseline_complexity
        from randwire_det.sweep import gather

    def warn(line: str) -> None:
        print(line, file=sys.stderr)

    found = gather.measured(study, runs, baseline_complexity, warn)
    files = gather.write_results(study, runs, found)
    print(gather.as_markdown(study, runs, found))
    print(f"{len(found)} of {len(runs)} runs; written: {', '.join(map(str, files))}")


def _search(study: Study, args: argparse.Namespace) -> int:
    _imported()
    from randwire_det.sweep.search import search

    with Stopping() as stopping:
        return search(study, config_reader(study), make_executor(study, args), stopping)


if __name__ == "__main__":
    cli.run(main)
