"""The command line: ``psa-paddle COMMAND``; the scripts in qwen2.5-vl/ are single commands.

A command is a module with ``add_arguments(parser)``, which fills an ``argparse.ArgumentParser``, and ``run(args)``,
which returns the exit status. A row of ``COMMANDS`` makes it known; it is imported when it is asked for, as libraries
take seconds to import.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence

from .. import __version__
from ..utils.cpu import use_fastest_products
from ..utils.language import say
from ..utils.terminal import printable
from .parser import Parser

COMMANDS = {  # name: module, and what it does in a line
    "ask": ("psa_paddle.cli.ask", "ask a model about images, videos or texts"),
    "chat": ("psa_paddle.cli.chat", "talk with a model about images and videos"),
    "web": ("psa_paddle.cli.web", "serve a page for a browser to ask on"),
    "calibrate": ("psa_paddle.cli.calibrate", "measure what each layer and head has to keep"),
    "plan": ("psa_paddle.cli.plan", "say whether a prompt fits a number of GPUs, and how long it takes"),
    "doctor": ("psa_paddle.doctor", "examine this machine: what it has, and whether attention computes right on it"),
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of ``psa-paddle``; ``run`` among them is what runs them."""
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(prog="psa-paddle", description="Pyramid Sparse Attention for PaddlePaddle.")
    words = "show program's version number and exit"  # argparse's own, which it does not ask its translators for
    parser.add_argument("--version", action="version", version=f"psa-paddle {__version__}", help=words)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, help="'psa-paddle COMMAND --help' says more:")
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, (_, words) in COMMANDS.items():
        command = commands.add_parser(name, help=words)
        if name == asked:
            _fill(command, name)
    return parser.parse_args(argv)


def parse_alone(name: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a script that is one command."""
    parser = Parser()
    _fill(parser, name)
    return parser.parse_args(argv)


def _fill(parser: argparse.ArgumentParser, name: str) -> None:
    """Import a command and let it fill its parser; without Paddle the process ends with one sentence."""
    try:
        module = importlib.import_module(COMMANDS[name][0])
    except ImportError as error:
        if importlib.util.find_spec("paddle") is not None:
            raise
        parser.exit(2, say(f"error: {error}") + "\n")
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = parse(argv)
    return args.run(args)


def run_process(parse: Callable[[], argparse.Namespace] = parse) -> None:
    """Parse, run and leave with the exit status, as a process: Ctrl-C and SIGTERM end it at any time."""
    printable()
    said = f"{say('interrupted')}\n".encode(sys.stderr.encoding, "backslashreplace")
    # The imports take seconds, and Ctrl-C there would show their insides.
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, said), os._exit(128 + signal.SIGINT)))
    use_fastest_products()
    args = parse()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that downloads are removed
    sys.exit(args.run(args))
