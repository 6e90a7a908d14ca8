"""``python -m psa_paddle COMMAND``, where the folder of ``psa-paddle`` is not on the path."""

from .cli import run_process

if __name__ == "__main__":
    run_process()
