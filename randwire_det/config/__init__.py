"""The keys of a config: shipped files, and the keys that choose a network."""

from .files import config_path, merge_config

__all__ = ["config_path", "merge_config"]
