"""Weights & Biases and MLflow, which a run's numbers go to beside its own files.

Where they are sent, and by whom, is set as these packages say: `wandb login` or WANDB_MODE=offline,
MLFLOW_TRACKING_URI. A resumed run goes on as the same run there; its id is in OUTPUT_DIR.
"""

import importlib.util
import logging
import uuid
from collections.abc import Callable
from pathlib import Path

from fvcore.common.config import CfgNode

from ..errors import UsageError, UserError

logger = logging.getLogger(__name__)
MODULES = {"WANDB": "wandb", "MLFLOW": "mlflow"}  # by key of TRACK
LONGEST = 500  # characters of a parameter's value in MLflow

Log = Callable[[dict[str, float], int], None]


def add_track_config(node: CfgNode) -> None:
    """Add the keys to TRACK of a config, in place."""
    node.WANDB = ""  # a project of Weights & Biases; "" for none
    node.MLFLOW = ""  # an experiment of MLflow


def check_trackers(cfg: CfgNode) -> None:
    """Refuse a tracker that is not installed, before a run.

    Raises:
        UsageError: names the key and what to install.
    """
    for key, module in MODULES.items():
        if cfg.TRACK[key] and importlib.util.find_spec(module) is None:
            raise UsageError(
                f"TRACK.{key} {cfg.TRACK[key]}: {module} is not installed: pip install {module}"
            )


class Trackers:
    """The trackers that a config names; none by default.

    Args:
        node: TRACK of a config.
        parameters: {config key: value} of the run, to be sent.
        folder: OUTPUT_DIR, whose name is the run's.

    Raises:
        UserError: a tracker cannot be reached or refuses the run.
    """

    def __init__(self, node: CfgNode, parameters: dict, folder: Path):
        self._sinks: dict[str, tuple[Log, Callable[[], object]]] = {}
        for key, start in (("WANDB", _wandb), ("MLFLOW", _mlflow)):
            if not node[key]:
                continue
            try:
                self._sinks[key] = start(node[key], parameters, folder)
            except Exception as error:  # of the package, of the network
                self.close()
                raise UserError(
                    f"TRACK.{key} {node[key]}: cannot be started: {_first_line(error)}; leave"
                    f" the key out, or see {MODULES[key]}'s own documentation"
                ) from None

    def log(self, values: dict[str, float], iteration: int) -> None:
        """Send numbers. A tracker that fails is left out from then on, with a warning: a training
        does not end by it."""
        for key, (send, _) in list(self._sinks.items()):
            try:
                send(values, iteration)
            except Exception as error:
                logger.warning(f"TRACK.{key} is left out from here on: {_first_line(error)}")
                del self._sinks[key]

    def close(self) -> None:
        for key, (_, finish) in self._sinks.items():
            try:
                finish()
            except Exception as error:
                logger.warning(f"TRACK.{key}: {_first_line(error)}")
        self._sinks.clear()


def _wandb(project: str, parameters: dict, folder: Path) -> tuple[Log, Callable[[], object]]:
    import wandb

    run = wandb.init(
        project=project,
        name=folder.name,
        id=_id(folder / "wandb_id", lambda: uuid.uuid4().hex[:8]),
        resume="allow",
        dir=folder,
        config=parameters,
    )
    return lambda values, iteration: run.log(values, step=iteration), run.finish


def _mlflow(experiment: str, parameters: dict, folder: Path) -> tuple[Log, Callable[[], object]]:
    from mlflow import MlflowClient, set_experiment

    client, number = MlflowClient(), set_experiment(experiment).experiment_id

    def begin() -> str:
        run = client.create_run(number, run_name=folder.name).info.run_id
        for name, value in parameters.items():
            client.log_param(run, name, str(value)[:LONGEST])
        return run

    run = _id(folder / "mlflow_id", begin)
    client.update_run(run, status="RUNNING")

    def send(values: dict[str, float], iteration: int) -> None:
        for name, value in values.items():
            client.log_metric(run, name, value, step=iteration)

    return send, lambda: client.set_terminated(run)


def _id(path: Path, begin: Callable[[], str]) -> str:
    """The id in a file, or a new one that is kept there."""
    if not path.is_file():
        path.write_text(begin())
    return path.read_text().strip()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
