"""What is in a checkpoint, as plain values: tools/inspect_checkpoint.py."""

from collections import defaultdict

import torch

from .checkpoint import Checkpoint
from .classes import few


def contents(checkpoint: Checkpoint) -> dict:
    """The contents of a checkpoint without its tensors' values, for JSON."""
    spec = checkpoint.spec
    weights = {"weights": checkpoint.model}
    if checkpoint.ema is not None:
        weights["averaged weights"] = checkpoint.ema
    return {
        "file": str(checkpoint.path),
        "kind": checkpoint.kind,
        "network": spec.describe() if spec is not None else checkpoint.architecture,
        "spec digest": spec.digest if spec is not None else None,
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "classes": checkpoint.classes,
        "training": checkpoint.progress,
        "config": checkpoint.config is not None,
        "besides": sorted(checkpoint.rest),
        "tensors": {name: _by_module(tensors) for name, tensors in weights.items()},
    }


def _by_module(tensors: dict[str, torch.Tensor]) -> dict[str, dict]:
    """Number, elements and dtypes of the tensors, by the first two parts of their names."""
    groups = defaultdict(list)
    for name, tensor in tensors.items():
        groups[".".join(name.split(".")[:2])].append(tensor)
    return {
        name: {
            "tensors": len(group),
            "elements": sum(each.numel() for each in group),
            "dtypes": sorted({str(each.dtype).removeprefix("torch.") for each in group}),
        }
        for name, group in groups.items()
    }


def as_text(found: dict) -> str:
    """`contents` as lines."""
    lines = [found["file"], f"kind           {found['kind']}", f"network        {found['network']}"]
    if found["spec digest"]:
        lines.append(f"spec digest    {found['spec digest']}")
    preprocessing = ", ".join(f"{key} {value}" for key, value in found["preprocessing"].items())
    lines.append(f"preprocessing  {preprocessing}")
    classes = found["classes"]
    lines.append(
        f"classes        {'none' if classes is None else f'{len(classes)}: {few(classes)}'}"
    )
    for key, value in (found["training"] or {}).items():
        if not isinstance(value, list | dict):
            lines.append(f"training       {key} {value}")
    lines.append(f"config         {'--config prints it' if found['config'] else 'none'}")
    lines.append(f"besides        {', '.join(found['besides']) or 'nothing'}")
    for name, groups in found["tensors"].items():
        total = sum(group["elements"] for group in groups.values())
        lines.append(f"{name}: {total:,} elements")
        lines += [
            f"  {module:32s} {group['tensors']:5d} tensors {group['elements']:12,d} elements"
            f"  {', '.join(group['dtypes'])}"
            for module, group in groups.items()
        ]
    return "\n".join(lines)
