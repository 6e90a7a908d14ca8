"""``psa-paddle``: its commands, and what it imports for each."""

import sys

import pytest
from infer_qwen2_5_vl_psa import main as script
from shared_cli import parser_of
from shared_demo import ROOT
from test_package import run

import psa_paddle
from psa_paddle import cli
from psa_paddle.cli import COMMANDS, main, parse

IMAGE = str(ROOT / "demo" / "sample.jpg")


def test_version_and_help_import_no_library():
    for flag, words in (("--version", psa_paddle.__version__), ("--help", "calibrate")):
        code = f"import sys\nfrom psa_paddle.cli import main\nsys.argv[1:] = ['{flag}']\n"
        done = run(code + "try:\n    main()\nexcept SystemExit as end:\n    print(end.code, 'numpy' in sys.modules)")
        assert done.returncode == 0 and words in done.stdout and done.stdout.endswith("0 False\n"), done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_line_in_the_list(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: psa-paddle {name} ")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert f" {name} {COMMANDS[name][1]} " in " ".join(capsys.readouterr().out.split())


def test_a_command_is_the_script(capsys):
    """The same parser and the same words, but for the name of the program."""
    for command in (lambda flags: main(["ask", *flags]), script):
        assert command(["--input", IMAGE, "--fps", "1"]) == 2
        assert capsys.readouterr().err == "error: --fps is for --type video.\n"
    ours, theirs = vars(parse(["ask", "--input", IMAGE])), vars(parser_of("ask").parse_args(["--input", IMAGE]))
    assert {name: ours[name] for name in theirs} == theirs and set(ours) - set(theirs) == {"run"}


@pytest.mark.parametrize("flags", [[], ["sing"], ["ask"], ["ask", "--input", IMAGE, "--bogus"]], ids=str)
def test_what_is_no_command_is_refused(flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(flags)
    assert capsys.readouterr().err.splitlines()[-1].startswith("psa-paddle")


def test_without_paddle_a_command_says_what_to_install():
    done = run("from psa_paddle.cli import main\nmain(['ask', '--input', 'a.jpg'])")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and "paddlepaddle==3.3.1" in done.stderr


def test_a_defect_of_a_command_is_not_taken_for_a_missing_paddle(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "broken", ("psa_paddle.no_such_module", "is broken"))
    with pytest.raises(ImportError, match="no_such_module"):
        main(["broken"])


def test_a_command_is_a_row(monkeypatch, capsys):
    """A module with add_arguments and run; its exit status is the command's."""

    class Sing:
        @staticmethod
        def add_arguments(parser):
            parser.add_argument("--loud", action="store_true")

        @staticmethod
        def run(args):
            print("la" if args.loud else "...")
            return 7

    monkeypatch.setitem(sys.modules, "psa_paddle.sing", Sing)
    monkeypatch.setitem(cli.COMMANDS, "sing", ("psa_paddle.sing", "sing a song"))
    assert main(["sing", "--loud"]) == 7 and capsys.readouterr().out == "la\n"
