"""What the tests of the command lines share."""

import argparse
import importlib

from psa_paddle.cli import COMMANDS


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of ``psa-paddle COMMAND``."""
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    return parser
