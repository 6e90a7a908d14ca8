"""Stages for the doctor that end in every way that a stage can."""

import os
import tempfile
import time

from psa_paddle.doctor.findings import Fact


def works(word):
    print("a library talks")
    yield Fact("word", word)


def leaves_a_file():
    yield Fact("file", tempfile.mkstemp()[1])
    os.abort()


def raises():
    yield Fact("before", "the fault")
    raise RuntimeError("(PreconditionNotMet) no kernel for this GPU\n  [Hint: none]")


def crashes():
    yield Fact("before", "the fault")
    os.write(2, b"F1 cuda driver went away\n")
    os.abort()


def hangs():
    yield Fact("before", "the fault")
    time.sleep(60)


def leaves():
    os._exit(3)
    yield
