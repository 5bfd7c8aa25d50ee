"""YAML configs: the shipped ones are found by bare name, and bad keys are met with the nearest.

Works for any yacs-style node (detectron2's and fvcore's), so detection and pretraining share it.
"""

import difflib
import os
from pathlib import Path

import yaml
from fvcore.common.config import BASE_KEY, CfgNode

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
    loaded = _load(cfg, path, ())
    _merge_values(cfg, loaded, path)

    for word in overrides:
        if word.startswith("--"):
            raise UsageError(f"{word} stands among the KEY VALUE pairs; options come before them")
    if len(overrides) % 2:
        raise UsageError(
            f"overrides come as KEY VALUE pairs, got an odd number: {' '.join(overrides)}"
        )
    _check_keys(cfg, overrides[::2], "command line")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        # A single-key mapping, so that both ways of setting a key share their rules.
        nested = CfgNode._decode_cfg_value(value)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _merge_values(cfg, nested, f"{key} {value}")


def _load(cfg: CfgNode, path: str, above: tuple[str, ...]) -> dict:
    """A YAML file merged over its `_BASE_`s, which are relative to it, with its keys checked."""
    try:
        with open(path, encoding="utf-8") as file:
            loaded = yaml.safe_load(file)
    except OSError as error:
        named = f"{above[-1]}: _BASE_ {path}" if above else path
        raise UsageError(f"{named}: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{path}{line}: YAML refused: {problem}") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: YAML refused: {error}") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"{path}: expected KEY: VALUE lines")
    bases = loaded.pop(BASE_KEY, [])
    _check_keys(cfg, _leaves(loaded), path)
    merged = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise UsageError(f"{path}: {BASE_KEY} {base!r}, expected the path of a config file")
        base_path = os.path.normpath(Path(path).parent / Path(base).expanduser())
        if not Path(base_path).exists() and (SHIPPED / base).is_file():
            base_path = str(SHIPPED / base)  # so that a config of one's own can build on these
        if base_path in (*above, os.path.normpath(path)):
            raise UsageError(f"{path}: {BASE_KEY} {base} leads back to a file that it is a base of")
        _override(merged, _load(cfg, base_path, (*above, os.path.normpath(path))), path)
    _override(merged, loaded, path)
    return merged


def _override(below: dict, above: dict, path: str) -> None:
    """Merge a file into its base, in place."""
    for key, value in above.items():
        if isinstance(value, dict) and key in below:
            if not isinstance(below[key], dict):
                raise UsageError(
                    f"{path}: {key} is a section, but {below[key]!r} in its {BASE_KEY}"
                )
            _override(below[key], value, path)
        else:
            below[key] = value


def _merge_values(cfg: CfgNode, values: dict, where: str) -> None:
    try:
        cfg.merge_from_other_cfg(CfgNode(_whole_to_float(cfg, values)))
    except (KeyError, ValueError, AssertionError, TypeError) as error:
        message = f"{where}: {str(error).strip(chr(39))}"
        raise UsageError(" ".join(message.split())) from None  # yacs prints whole nodes


def _whole_to_float(cfg: CfgNode, values: dict) -> dict:
    """`BASE_LR: 1` means 1.0, which yacs would refuse."""
    result = {}
    for key, value in values.items():
        current = cfg.get(key)
        if isinstance(value, dict) and isinstance(current, CfgNode):
            value = _whole_to_float(current, value)
        elif type(value) is int and type(current) is float:
            value = float(value)
        result[key] = value
    return result


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
                upper = {name.upper(): name for name in known}
                (close,) = difflib.get_close_matches(key.upper(), upper, n=1, cutoff=0.0)
                raise UsageError(f"{where}: unknown config key {key}; did you mean {upper[close]}?")
            node = node[part]


def flat(node: dict, prefix: str = "") -> dict:
    """{"A": {"B": 1}} to {"A.B": 1}."""
    found = {}
    for key, value in node.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
    return found
