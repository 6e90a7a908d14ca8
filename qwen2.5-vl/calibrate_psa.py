"""Measure on your own images or videos what each layer and head has to keep, as ``psa-paddle calibrate`` does."""

from __future__ import annotations

from psa_paddle.cli import parse_alone, run_process


def main(argv=None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_alone("calibrate", argv)
    return args.run(args)


if __name__ == "__main__":
    run_process(lambda: parse_alone("calibrate"))
