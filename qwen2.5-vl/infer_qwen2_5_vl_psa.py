"""Ask Qwen2.5-VL about images or a video on the command line, as ``psa-paddle ask`` does; --help shows how."""

from __future__ import annotations

from psa_paddle.cli import parse_alone, run_process

__all__ = ["QwenVLInference", "main"]


def main(argv=None) -> int:
    """Run the command line; returns the exit status."""
    args = parse_alone("ask", argv)
    return args.run(args)


if __name__ == "__main__":
    run_process(lambda: parse_alone("ask"))

from psa_paddle.integrations.inference import QwenVLInference  # noqa: E402  the process takes care of Ctrl-C first
