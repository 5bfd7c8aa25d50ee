"""A study: the runs that a YAML file describes, a grid of settings and seeds.

    COMMAND: pretrain_imagenet          # or train_net, the tool that each run is
    CONFIG: pretrain/randwire_ws_c78.yaml
    OUTPUT_DIR: output/studies/figure3  # a folder for each run below it
    SET: {DATA.ROOT: datasets/imagenet} # of all runs
    ARMS:                               # compared: wirings by name, or keys under a name, which
                                        # may be WIRING and CONFIG, too
      - WS(4, 0.75)
      - wide: {WIRING: "WS(4, 0.75)", MODEL.RANDWIRE.CHANNELS: 90}
      - ResNet-18: {CONFIG: pretrain/fashion_mnist_resnet18.yaml}
    GRID: {SOLVER.EPOCHS: [2, 5]}       # every arm with every value
    SEEDS: [1, 2, 3]                    # values of SEED_KEYS

In a text, {seed} stands for the run's seed: MODEL.WEIGHTS: weights/seed{seed}/model_final.pth.
A value of GRID may set several keys, and is then called by the first one's value:

    GRID: {OP: [{MODEL.RANDWIRE.OP: conv3x3, MODEL.RANDWIRE.CHANNELS: 29.5625}]}
"""

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..config.files import config_path
from ..config.values import did_you_mean
from ..errors import UsageError, UserError, brief
from ..spec.wirings import Wiring, parse_wirings
from ..strict import load_yaml, read_regular

COMMANDS = {
    "pretrain_imagenet": ("SEED", "MODEL.RANDWIRE.SEED"),
    "train_net": ("SEED",),  # the wiring is that of the weights
}
RANDWIRE = "MODEL.RANDWIRE."


@dataclass(frozen=True)
class Run:
    """A run of a study.

    Attributes:
        arm: name of what is compared.
        point: the run's place in the grid, {axis: value as text}.
        seed: value of the seed keys.
        config: its config file.
        keys: {config key: value}, without OUTPUT_DIR.
        folder: its OUTPUT_DIR.
    """

    arm: str
    point: dict[str, str]
    seed: int
    config: str
    keys: dict[str, object]
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Study:
    """What a study's file holds, checked; see the module for the keys.

    Attributes:
        path: of the file.
        processes: `--num-gpus` of each run.
        damage: options of tools/damage.py after a run's training; None for no damage.
        damage_arms: names of the arms whose runs are damaged.
        search: of `search.py`; None if the study has none.
        figures: names in `gather.FIGURES`.
    """

    path: str
    command: str
    config: str
    output: Path
    common: dict[str, object]
    arms: dict[str, dict[str, object]]
    grid: dict[str, list]
    seeds: list[int]
    seed_keys: list[str]
    processes: int = 1
    damage: list[str] | None = None
    damage_arms: frozenset[str] = frozenset()
    search: dict | None = None
    figures: list[str] = field(default_factory=list)

    def damages(self, run: Run) -> bool:
        """Whether graph damage of a run is measured after its training."""
        return self.damage is not None and run.arm in self.damage_arms

    def runs(self) -> list[Run]:
        """All runs: seeds vary slowest, so that a study which is cut short has whole grids.

        Raises:
            UsageError: two runs would have the same folder.
        """
        axes = [[(axis, value) for value in values] for axis, values in self.grid.items()]
        runs = [
            self._run(arm, point, seed)
            for seed in self.seeds
            for arm in self.arms
            for point in itertools.product(*axes)
        ]
        seen = {}
        for run in runs:
            if run.folder in seen:
                raise UsageError(
                    f"{self.path}: two runs would write to {run.folder}: give the arms other names,"
                    " and each value or seed once"
                )
            seen[run.folder] = run
        return runs

    def _run(self, arm: str, point: tuple[tuple[str, object], ...], seed: int) -> Run:
        keys = self.common | self.arms[arm]
        for axis, value in point:
            keys |= value if isinstance(value, dict) else {axis: value}
        keys |= dict.fromkeys(self.seed_keys, seed)
        config = keys.pop("CONFIG", self.config)
        keys = {
            key: value.replace("{seed}", str(seed)) if isinstance(value, str) else value
            for key, value in keys.items()
        }
        place = {axis: text_of(value) for axis, value in point}
        parts = [arm, *(f"{short(axis)}={value}" for axis, value in place.items())]
        folder = self.output / "_".join([*map(_safe, parts), f"seed{seed}"])
        return Run(arm, place, seed, config, keys, folder)


def text_of(value: object) -> str:
    """A value of the grid as text; of one that sets several keys, that of the first."""
    return str(next(iter(value.values()))) if isinstance(value, dict) else str(value)


def short(key: str) -> str:
    """The last part of a config key."""
    return key.rpartition(".")[-1]


def _safe(name: str) -> str:
    """For a file name: "WS(4, 0.75)" as "WS-4-0.75"."""
    return re.sub(r"[^\w.=]+", "-", name).strip("-")


def read_study(path: str, overrides: list[str] | None = None) -> Study:
    """Read a study's file, or the shipped one of that name.

    Args:
        overrides: KEY VALUE pairs in place of the file's: keys of the study, with values as in YAML
            (null removes the key), and SET.<config key>.

    Raises:
        UsageError: no such file, an unknown or missing key, or a bad value.
    """
    path = config_path(path)
    try:
        content = load_yaml(read_regular(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except UserError as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected KEY: VALUE lines, such as COMMAND: pretrain_imagenet")
    try:
        return _checked(path, _overridden(content, overrides or []))
    except UserError as error:
        raise UsageError(f"{path}: {error}") from None


def _overridden(content: dict, overrides: list[str]) -> dict:
    if len(overrides) % 2:
        raise UsageError(f"overrides come as KEY VALUE pairs, got {' '.join(overrides)}")
    for key, text in zip(overrides[::2], overrides[1::2], strict=True):
        value = load_yaml(text)
        if key.startswith("SET."):
            content["SET"] = content.get("SET", {}) | {key.removeprefix("SET."): value}
        else:
            content[key] = value
    return {key: value for key, value in content.items() if value is not None}


def _checked(path: str, content: dict) -> Study:
    for key in content:
        if key not in _KEYS:
            raise UsageError(
                f"unknown key {brief(key)}; {did_you_mean(str(key), list(_KEYS))}expected"
                f" {', '.join(_KEYS)}"
            )
    for key in ("COMMAND", "CONFIG", "OUTPUT_DIR"):
        if key not in content:
            raise UsageError(f"{key} is missing; expected {_KEYS[key][1]}")
    for key, value in content.items():
        kind, expected = _KEYS[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UsageError(f"{key} {brief(value)}: expected {expected}")
    command = content["COMMAND"]
    if command not in COMMANDS:
        raise UsageError(f"COMMAND {brief(command)}: expected {' or '.join(COMMANDS)}")
    seeds = content.get("SEEDS", [1])
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UsageError(f"SEEDS {brief(seeds)}: expected whole numbers >= 0")
    seed_keys = content.get("SEED_KEYS", list(COMMANDS[command]))
    if not all(isinstance(key, str) for key in seed_keys):
        raise UsageError(f"SEED_KEYS {brief(seed_keys)}: expected config keys")
    processes = content.get("NUM_GPUS", 1)
    if processes < 1:
        raise UsageError(f"NUM_GPUS {processes}: expected a whole number >= 1")
    common = _keys("SET", content.get("SET", {}))
    grid = content.get("GRID", {})
    for axis, values in grid.items():
        if not isinstance(axis, str) or not isinstance(values, list) or not values:
            raise UsageError(f"GRID {brief(axis)}: {brief(values)}, expected KEY: [values]")
        for value in values:
            if isinstance(value, dict):
                _keys(f"GRID {axis}", value)
    damage = content.get("DAMAGE")
    if damage is not None and command != "pretrain_imagenet" and "--images" not in damage:
        raise UsageError("DAMAGE of detectors: expected --images N among its options")
    arms = _arms(content.get("ARMS", [{"run": {}}]))
    damage_arms = content.get("DAMAGE_ARMS", list(arms))
    for arm in damage_arms:
        if arm not in arms:
            raise UsageError(f"DAMAGE_ARMS {brief(arm)}: expected some of {', '.join(arms)}")
    return Study(
        path=path,
        command=command,
        config=content["CONFIG"],
        output=Path(content["OUTPUT_DIR"]).expanduser(),
        common=common,
        arms=arms,
        grid=grid,
        seeds=seeds,
        seed_keys=seed_keys,
        processes=processes,
        damage=None if damage is None else [str(option) for option in damage],
        damage_arms=frozenset(damage_arms),
        search=content.get("SEARCH"),
        figures=[str(name) for name in content.get("FIGURES", [])],
    )


# The keys of a study: type of the value, and what is expected.
_KEYS = {
    "COMMAND": (str, "pretrain_imagenet or train_net"),
    "CONFIG": (str, "a config file, or the name of a shipped one"),
    "OUTPUT_DIR": (str, "a folder"),
    "SET": (dict, "{KEY: value} for all runs"),
    "ARMS": (list, "names of wirings such as WS(4, 0.75), or {name: {KEY: value}}"),
    "GRID": (dict, "{KEY: [values]}"),
    "SEEDS": (list, "whole numbers >= 0"),
    "SEED_KEYS": (list, "config keys"),
    "NUM_GPUS": (int, "the number of processes of each run"),
    "DAMAGE": (list, "options of tools/damage.py, such as [--sample, 50]"),
    "DAMAGE_ARMS": (list, "names of arms; all of them where it is missing"),
    "SEARCH": (dict, "what --search searches"),
    "FIGURES": (list, "names of figures"),
}


def _keys(where: str, values: object) -> dict[str, object]:
    """Config keys and their values; nested mappings are written flat."""
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UsageError(f"{where} {brief(values)}: expected {{KEY: value}}")
    if "OUTPUT_DIR" in values:
        raise UsageError(f"{where}: OUTPUT_DIR is chosen for each run; set the study's instead")
    return dict(values)


def _arms(entries: list) -> dict[str, dict[str, object]]:
    """{name: keys} of the arms; names of wirings stand for the keys of their generator."""
    arms: dict[str, dict[str, object]] = {}
    for entry in entries:
        if isinstance(entry, str):
            found = {wiring.name: _generator(wiring) for wiring in parse_wirings([entry])}
        elif isinstance(entry, dict) and len(entry) == 1:
            ((name, values),) = entry.items()
            keys = _keys(f"ARMS {name}", values)
            named = [str(keys.pop("WIRING"))] if "WIRING" in keys else []
            for wiring in parse_wirings(named):
                keys = _generator(wiring) | keys
            found = {str(name): keys}
        else:
            raise UsageError(f"ARMS {brief(entry)}: expected {_KEYS['ARMS'][1]}")
        for name in found:
            if name in arms:
                raise UsageError(f"ARMS {name}: expected each name once")
        arms |= found
    if not arms:
        raise UsageError(f"ARMS []: expected {_KEYS['ARMS'][1]}")
    return arms


def _generator(wiring: Wiring) -> dict[str, object]:
    """The config keys of a wiring's generator."""
    theta = {RANDWIRE + key.upper(): value for key, value in wiring.theta.items()}
    return {RANDWIRE + "GENERATOR": wiring.generator} | theta


def arguments(keys: dict[str, object]) -> list[str]:
    """Config keys as `KEY VALUE` arguments of a command."""
    return [text for key, value in keys.items() for text in (key, str(value))]
