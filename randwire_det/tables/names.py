"""What a RandWire is called in tables, and the settings that tell it from another.

The name is the paper's, and then whatever is not as in its Table 1; seeds are in neither.
"""

from fvcore.common.config import CfgNode

from ..config.network_keys import add_spec_config
from ..spec.generator import GRAPH_MODELS, parameters_of
from ..spec.spec import NetworkSpec


def randwire_name(spec: NetworkSpec) -> str:
    """For example "RandWire-WS(4, 0.75), C=109"; of unknown provenance, the wiring's digest."""
    made_by = spec.provenance
    if (generator := made_by.get("generator")) not in GRAPH_MODELS:
        return f"RandWire, wiring {spec.digest[:12]}"
    theta = ", ".join(str(made_by.get(name)) for name in parameters_of(generator))
    parts = [f"RandWire-{generator.upper()}({theta})", f"C={made_by.get('channels')}"]
    if made_by.get("regime") != ("small" if made_by.get("channels") == 78 else "regular"):
        parts.append(f"{made_by.get('regime')} regime")
    if made_by.get("nodes") != 32:
        parts.append(f"N={made_by.get('nodes')}")
    if made_by.get("seed_per_stage"):
        parts.append("a graph per stage")
    return ", ".join(parts)


def wiring_settings(spec: NetworkSpec, prefix: str) -> dict:
    """Where the wiring came from, less the seed; of unknown provenance, the wiring itself.

    Args:
        prefix: of the config keys, such as "MODEL.RANDWIRE.".
    """
    made_by = spec.provenance
    if made_by.get("generator") not in GRAPH_MODELS:
        return {"wiring": spec.digest[:12]}
    keys = ("generator", "regime", "channels", "nodes", "k", "p", "m", "seed_per_stage")
    return {prefix + key.upper(): made_by[key] for key in keys if key in made_by}


def spec_keys(prefix: str) -> list[str]:
    """The config keys that choose a network, for which `wiring_settings` stands."""
    node = CfgNode()
    add_spec_config(node)
    return [prefix + key for key in node]
