"""YAML configs: the shipped ones are found by bare name, and bad keys are met with the nearest.

Works for any yacs-style node (detectron2's and fvcore's), so detection and pretraining share it.
"""

import difflib
from pathlib import Path

import yaml
from fvcore.common.config import CfgNode

from .errors import UsageError

_PACKAGE = Path(__file__).resolve().parent
# Installed, the configs lie inside the package; in a checkout, beside it.
SHIPPED = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"


def config_path(name: str) -> str:
    """The path of a config file: `name` itself where it is a file, else the shipped one.

    Raises:
        UsageError: neither exists; the message lists what is shipped.
    """
    for candidate in (Path(name), SHIPPED / name):
        if candidate.is_file():
            return str(candidate)
    shipped = sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))
    close = difflib.get_close_matches(name, shipped, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"config {name!r} is no file; {hint}shipped are: {', '.join(shipped)}")


def merge_config(cfg: CfgNode, config_file: str, overrides: list[str]) -> None:
    """Merge a YAML file (with its `_BASE_`s), then `KEY VALUE` pairs, into `cfg`, in place.

    YAML that would build Python objects is refused.

    Raises:
        UsageError: an unknown key (with the nearest real one), a value of a wrong type, unsafe or
            broken YAML, a missing file, an odd number of overrides.
    """
    path = config_path(config_file)
    try:
        loaded = CfgNode.load_yaml_with_base(path, allow_unsafe=False)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: YAML refused: {problem}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot read {error.filename}: {error.strerror}") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"{path}: expected KEY: VALUE lines")
    _check_keys(cfg, _leaves(loaded), path)
    _merge(lambda: cfg.merge_from_other_cfg(CfgNode(loaded)), path)

    for word in overrides:
        if word.startswith("--"):
            raise UsageError(f"{word} stands among the KEY VALUE pairs; options come before them")
    if len(overrides) % 2:
        raise UsageError(
            f"overrides come as KEY VALUE pairs, got an odd number: {' '.join(overrides)}"
        )
    _check_keys(cfg, overrides[::2], "command line")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        _merge(lambda pair=(key, value): cfg.merge_from_list(list(pair)), f"{key} {value}")


def _merge(step, where: str) -> None:
    try:
        step()
    except (KeyError, ValueError, AssertionError, TypeError) as error:
        raise UsageError(f"{where}: {str(error).strip(chr(39))}") from None


def _leaves(node: dict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        if isinstance(value, dict) and value:
            keys += _leaves(value, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys


def _check_keys(cfg: CfgNode, keys: list[str], where: str) -> None:
    known = _leaves(cfg)
    for key in keys:
        node = cfg
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                # yacs allows new keys only where the node says so.
                if isinstance(node, CfgNode) and node.is_new_allowed():
                    break
                close = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
                raise UsageError(f"{where}: unknown config key {key}; did you mean {close[0]}?")
            node = node[part]
