"""Strict YAML and JSON: refuses what the usual readers silently accept, such as duplicate keys."""

import json
import stat
from pathlib import Path

import yaml

from .errors import UserError

MAX_VALUES = 100_000  # in one YAML file, with aliases expanded


def read_regular(path: str | Path) -> bytes:
    """The bytes of a regular file; raises OSError for a pipe or a device, which might never end."""
    path = Path(path)
    if "\0" in str(path) or not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "expected a file, found a folder, a pipe or a device")
    return path.read_bytes()


def load_yaml(text: str | bytes):
    """`yaml.safe_load` that also refuses duplicate keys and recursive aliases.

    Raises:
        UserError: one line with the reason and the position.
    """
    try:
        return yaml.load(text if isinstance(text, str) else text.decode(), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{line}YAML refused: {problem}") from None
    # ValueError: an impossible date or number, or text in another encoding.
    except (ValueError, RecursionError) as error:
        raise UserError(f"YAML refused: {error}") from None


class _Loader(yaml.SafeLoader):
    def __init__(self, stream):
        super().__init__(stream)
        self.count, self.counts, self.unfinished = 0, {}, set()

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.unfinished:
                self.refuse(f"*{event.anchor} is part of what it stands for", event)
            self.count += self.counts.get(event.anchor, 0)
            anchor = None
        else:
            anchor = event.anchor
        if self.count > MAX_VALUES:
            self.refuse(f"more than {MAX_VALUES} values", event)
        before = self.count
        self.count += 1
        self.unfinished.add(anchor)
        node = super().compose_node(parent, index)
        self.unfinished.discard(anchor)
        self.counts[anchor] = self.count - before
        return node

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                self.refuse(f"duplicate key {key.value}", key)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node

    @staticmethod
    def refuse(problem, at):
        raise yaml.composer.ComposerError(problem=problem, problem_mark=at.start_mark)


def load_json(text: str | bytes):
    """`json.loads` that also refuses duplicate keys.

    Raises:
        ValueError, TypeError or RecursionError: the text is not such JSON.
    """

    def unique(pairs):
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)}")
        return content

    return json.loads(text, object_pairs_hook=unique)
