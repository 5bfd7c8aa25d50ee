"""YAML configs: finds shipped files by bare name and suggests the nearest key for unknown ones.

Works for any yacs-style node (detectron2's and fvcore's), so detection and pretraining share it.
"""

import copy
import os
from pathlib import Path

from fvcore.common.config import BASE_KEY, CfgNode

from ..errors import UsageError, UserError
from ..strict import load_yaml, read_regular
from .values import did_you_mean, nearest, numbers_in

_PACKAGE = Path(__file__).resolve().parents[1]
# The configs are inside an installed package, and next to it in a checkout.
SHIPPED = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
REAL_OR_WHOLE = ("CHANNELS",)  # keys whose default is whole, as other projects merge whole numbers
MAX_DEPTH = 50  # of _BASE_s of _BASE_s


def config_path(name: str) -> str:
    """The path of a config file: `name` itself if it is a file, otherwise the shipped one.

    Raises:
        UsageError: neither exists; the message names the nearest, or lists what is shipped.
    """
    if not name:
        raise UsageError("no config: expected --config-file FILE, or the name of a shipped one")
    for candidate in (Path(name), SHIPPED / name):
        if candidate.is_file():
            return str(candidate)
    shipped = sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))
    beside = sorted(str(path) for path in Path(name).parent.glob("*.y*ml"))
    hint = did_you_mean(name, [*shipped, *beside])
    raise UsageError(
        f"config {name!r} not found; {hint or 'shipped configs: ' + ', '.join(shipped)}".strip()
    )


def merge_config(cfg: CfgNode, config_file: str, overrides: list[str]) -> None:
    """Merge a YAML file (with its `_BASE_`s), then `KEY VALUE` pairs, into `cfg`, in place.

    YAML that would build Python objects is refused.

    Raises:
        UsageError: an unknown key (with the nearest real one), a value of a wrong type, unsafe or
            broken YAML, a key given twice in a file, a missing file, an odd number of overrides.
    """
    path = config_path(config_file)
    loaded = _load(cfg, path, (), {})
    merge_values(cfg, loaded, path)
    merge_overrides(cfg, overrides)


def merge_overrides(cfg: CfgNode, overrides: list[str]) -> None:
    """Merge `KEY VALUE` pairs into `cfg`, in place; raises as `merge_config`."""
    for word in overrides:
        if word.startswith("--"):
            raise UsageError(
                f"{_short(word, 100)} among the KEY VALUE pairs: expected options before them"
            )
    if len(overrides) % 2:
        raise UsageError(
            f"overrides come as KEY VALUE pairs, got an odd number: {_short(' '.join(overrides))}"
        )
    _check_keys(cfg, overrides[::2], "command line")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        # A nested mapping, so that files and overrides obey the same rules.
        try:
            nested = CfgNode._decode_cfg_value(value)
        except (RecursionError, MemoryError):
            raise UsageError(f"{key}: a value nested too deeply") from None
        for part in reversed(key.split(".")):
            nested = {part: nested}
        where = f"{key} {_short(value, 100)}"
        _check_numbers(nested, where)
        merge_values(cfg, nested, where)


def _load(cfg: CfgNode, path: str, above: tuple[str, ...], known: dict[str, dict]) -> dict:
    """Load a YAML file over its `_BASE_`s (relative to the file) and check its keys.

    Args:
        above: the chain of files whose `_BASE_` leads here.
        known: files loaded so far, by path; two files may share a base.
    """
    here = os.path.normpath(path)
    if here in known:
        return copy.deepcopy(known[here])
    try:
        loaded = load_yaml(read_regular(path))
    except OSError as error:
        named = f"{above[-1]}: {BASE_KEY} {path}" if above else path
        raise UsageError(f"{named}: {error.strerror}") from None
    except UserError as error:
        separator = ", " if str(error).startswith("line ") else ": "
        raise UsageError(f"{path}{separator}{error}") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"{path}: expected KEY: VALUE lines")
    bases = loaded.pop(BASE_KEY, [])
    _check_keys(cfg, _leaves(loaded), path)
    _check_numbers(loaded, path)
    merged = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise UsageError(f"{path}: {BASE_KEY} {base!r}, expected the path of a config file")
        base_path = os.path.normpath(Path(path).parent / Path(base).expanduser())
        if not Path(base_path).exists() and (SHIPPED / base).is_file():
            base_path = str(SHIPPED / base)  # a user's config can build on a shipped one
        if base_path in (*above, here):
            raise UsageError(f"{path}: {BASE_KEY} {base} is circular; expected no cycle of bases")
        if len(above) == MAX_DEPTH:
            raise UsageError(f"{path}: {BASE_KEY} {base}: expected at most {MAX_DEPTH} levels")
        _override(merged, _load(cfg, base_path, (*above, here), known), path)
    _override(merged, loaded, path)
    known[here] = copy.deepcopy(merged)
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


def merge_values(cfg: CfgNode, values: dict, where: str) -> None:
    """Merge nested values of known keys into `cfg`, in place.

    Args:
        where: what they come from, for the message.

    Raises:
        UsageError: a value of a wrong type.
    """
    _check_types(cfg, values, where)
    try:
        cfg.merge_from_other_cfg(CfgNode(_whole_to_float(cfg, values)))
    except (KeyError, ValueError, AssertionError, TypeError) as error:
        message = f"{where}: {str(error).strip(chr(39))}"
        raise UsageError(_short(message)) from None


EXPECTED = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list",
    list: "a list",
}


def _check_types(cfg: CfgNode, values: dict, where: str, prefix: str = "") -> None:
    """Refuse what yacs refuses, which names types alone and no cure."""
    for key, value in values.items():
        current = cfg.get(key)
        if isinstance(current, CfgNode):
            if isinstance(value, dict):
                _check_types(current, value, where, f"{prefix}{key}.")
            continue
        try:
            value = CfgNode._decode_cfg_value(value)  # as yacs: of text in quotes, too
        except (RecursionError, MemoryError):
            continue
        expected, given = EXPECTED.get(type(current)), EXPECTED.get(type(value))
        number = type(value) is int or (key in REAL_OR_WHOLE and type(value) is float)
        if not expected or not given or expected == given:
            continue
        if number and type(current) in (int, float):
            continue
        such_as = f', such as "({value!r},)"' if expected == "a list" else ""
        raise UsageError(
            f"{where}: {prefix}{key} is {expected}{such_as}, got {_short(repr(value), 100)}"
        )


def _check_numbers(values: dict, where: str) -> None:
    for key, value in flat(values).items():
        for number in numbers_in(value):
            if number != number:
                raise UsageError(f"{where}: {key} is not a number")
            if isinstance(number, int) and number.bit_length() > 63:
                raise UsageError(f"{where}: {key} is a number of more than 63 bits")


def _short(text: str, most: int = 1000) -> str:
    """On one line and of bounded length; yacs prints whole nodes, with the key at the end."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def _whole_to_float(cfg: CfgNode, values: dict) -> dict:
    """`BASE_LR: 1` means 1.0, and `CHANNELS: 29.5` is a number, which yacs would both refuse."""
    result = {}
    for key, value in values.items():
        current = cfg.get(key)
        if isinstance(value, dict) and isinstance(current, CfgNode):
            value = _whole_to_float(current, value)
        elif type(value) is int and type(current) is float:
            value = float(value)
        elif key in REAL_OR_WHOLE and type(value) is float and type(current) is int:
            cfg[key] = float(current)
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
                # In older configs of pretraining, network keys are directly under MODEL.
                moved = nearest(key.replace("MODEL.", "MODEL.RANDWIRE.", 1), known, cutoff=1)
                close = moved or nearest(key, known, cutoff=0)
                hint = _of_another_tool(cfg, keys) or f"did you mean {close}?"
                raise UsageError(f"{where}: unknown config key {key}; {hint}")
            node = node[part]


def _of_another_tool(cfg: CfgNode, keys: list[str]) -> str:
    """Whose config it is by its sections, if not that of this tool."""
    sections = {key.partition(".")[0] for key in keys}
    for section, tool in (("DATASETS", "train_net.py"), ("DATA", "pretrain_imagenet.py")):
        if section in sections and section not in cfg:
            return f"by its section {section} it is a config of tools/{tool}"
    return ""


def known_values(cfg: CfgNode, values: dict, prefix: str = "") -> tuple[dict, list[str]]:
    """The nested values whose keys are in `cfg`, and the names of the other keys."""
    known, unknown = {}, []
    for key, value in values.items():
        if key not in cfg:
            unknown.append(f"{prefix}{key}")
            continue
        if isinstance(cfg[key], CfgNode) and isinstance(value, dict):
            value, inner = known_values(cfg[key], value, f"{prefix}{key}.")
            unknown += inner
        known[key] = value
    return known, unknown


def flat(node: dict, prefix: str = "") -> dict:
    """{"A": {"B": 1}} to {"A.B": 1}."""
    found = {}
    for key, value in node.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
    return found
