"""The options of a pretraining config; imports nothing slow, so that --help comes at once."""

import argparse


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `config.read_config` reads."""
    parser.add_argument(
        "--config-file",
        required=True,
        default=argparse.SUPPRESS,
        metavar="YAML",
        help="a file, or the name of a shipped one, such as pretrain/randwire_ws_c109.yaml",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY VALUE",
        help="config keys to change; all are listed in pretrain/config.py",
    )
