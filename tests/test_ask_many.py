"""Many questions: one load, a line an answer, an error in its own line, and going on where it was."""

import json

import pytest
from infer_qwen2_5_vl_psa import main
from shared_demo import ROOT

from psa_paddle.cli import ask, ask_many, ask_requests

IMAGE, VIDEO = str(ROOT / "demo" / "sample.jpg"), str(ROOT / "demo" / "sample.mp4")
DEMO = ["--model", "demo", "--max-tokens", "4"]


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.fixture
def counted(monkeypatch):
    """How often models were loaded and files read."""
    counts = {"models": 0, "files": 0}

    def count(module, name, kind):
        inner = getattr(module, name)

        def counting(*given, **keywords):
            counts[kind] += 1
            return inner(*given, **keywords)

        monkeypatch.setattr(module, name, counting)

    count(ask, "QwenVLInference", "models")
    count(ask_requests, "load_image", "files")
    count(ask_requests, "load_video", "files")
    return counts


def write_requests(path, requests) -> str:
    path.write_text("".join(json.dumps(request, ensure_ascii=False) + "\n" for request in requests), encoding="utf-8")
    return str(path)


def test_every_file_with_every_prompt(capsys, counted, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(open(IMAGE, "rb").read()[:500])
    files = [IMAGE, str(broken), VIDEO]
    prompts = ["What is this?", "请描述"]
    flags = ["--input", *files, "--each", "--prompt", *prompts, "--max-frames", "2", "--stats", "off"]
    assert main([*DEMO, *flags]) == 2
    streams = capsys.readouterr()
    said = lines(streams.out)
    assert [(line["id"], line["input"], line["prompt"]) for line in said] == [
        (i, [file], prompt) for i, (file, prompt) in enumerate([(f, p) for f in files for p in prompts], 1)
    ]
    assert ["answer" in line for line in said] == [True, True, False, False, True, True]
    assert all("truncated" in line["error"] and str(broken) in line["error"] for line in said[2:4])
    assert streams.err.splitlines()[-1] == "error: 2 of 6 requests failed; their lines say why."
    assert counted == {"models": 1, "files": 2 + 2}, "the broken file is tried again, the others are not"
    assert set(said[0]) == {"id", "input", "prompt", "answer", "finish_reason"}


def test_answers_are_those_of_single_questions(capsys):
    single = []
    for source in (IMAGE, VIDEO):
        few = ["--max-frames", "2"] if source == VIDEO else []
        assert main([*DEMO, "--input", source, *few, "--prompt", "What is this?", "--quiet"]) == 0
        single.append(capsys.readouterr().out.strip())
    both = ["--input", IMAGE, VIDEO, "--each", "--max-frames", "2"]
    assert main([*DEMO, *both, "--prompt", "What is this?", "--quiet"]) == 0
    said = lines(capsys.readouterr().out)
    assert [line["answer"] for line in said] == single
    assert "stats" not in said[0]


REQUESTS = [
    {"id": "a", "input": IMAGE, "prompt": "What is this?"},
    {"input": [IMAGE, VIDEO], "prompt": "What differs?", "max_tokens": 2},
    {"id": "c", "input": "no.mp4"},
    {"id": "d", "input": IMAGE, "type": "image"},
]


def test_requests_from_a_file(capsys, tmp_path):
    file = write_requests(tmp_path / "r.jsonl", REQUESTS)
    open(file, "a").write("\n")
    assert main([*DEMO, "--requests", file, "--max-frames", "2", "--type", "image"]) == 2
    assert "--type does nothing with --requests" in capsys.readouterr().err
    assert main([*DEMO, "--requests", file]) == 2
    said = lines(capsys.readouterr().out)
    assert [line["id"] for line in said] == ["a", 2, "c", "d"]
    assert [line["prompt"] for line in said[2:]] == ["请描述这个视频", "请描述这张图片"]
    assert "no.mp4' does not exist" in said[2]["error"] and said[1]["stats"]["new_tokens"] == 2
    assert said[3]["answer"].startswith("左上角") and said[3]["stats"]["timings_s"]["media"] > 0


def test_goes_on_where_it_was(capsys, tmp_path, monkeypatch, counted):
    file, output = write_requests(tmp_path / "r.jsonl", REQUESTS), tmp_path / "a.jsonl"
    command = [*DEMO, "--requests", file, "--output", str(output), "--stats", "off"]
    asked, inner = [], ask_many.ask_model

    def asking(model, loaded, prompt, *rest):
        asked.append(prompt)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return inner(model, loaded, prompt, *rest)

    monkeypatch.setattr(ask_many, "ask_model", asking)
    assert main(command) == 130
    assert [line["id"] for line in lines(output.read_text())] == ["a", 2, "c"]
    first = output.read_text().splitlines()[:2]
    with output.open("a") as half:
        half.write('{"id": "d", "input"')  # killed while it wrote
    assert main(command) == 2
    assert asked == ["What is this?", "What differs?", "请描述这张图片", "请描述这张图片"]
    assert output.read_text().splitlines()[:2] == first
    assert [line["id"] for line in lines(output.read_text())] == ["a", 2, "c", "d"]
    assert capsys.readouterr().out == "" and sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "r.jsonl"]


def test_answers_that_are_all_there_cost_no_model(capsys, tmp_path, counted):
    requests = [{"id": n, "input": IMAGE, "prompt": f"What\u2028is {n}?", "max_tokens": 2} for n in range(3)]
    file, output = write_requests(tmp_path / "r.jsonl", requests), tmp_path / "a.jsonl"
    command = ["--model", "demo", "--requests", file, "--output", str(output)]
    assert main(command) == 0 and counted == {"models": 1, "files": 1}
    before = output.read_text()
    assert main(command) == 0 and counted == {"models": 1, "files": 1} and output.read_text() == before
    write_requests(tmp_path / "r.jsonl", [*requests, {"id": 3, "input": IMAGE, "max_tokens": 1}])
    assert main(command) == 0 and counted["models"] == 2
    assert output.read_text().startswith(before) and len(lines(output.read_text())) == 4


BAD = {
    "no file": (None, "is not a file"),
    "nothing": ("\n\n", "has no requests"),
    "no JSON": ('{"input": "a.jpg"}\n{"input"', "line 2: "),
    "no object": ('["a.jpg"]', "line 1: a request is an object"),
    "no input": ('{"prompt": "What?"}', "line 1: input must be a path"),
    "an unknown key": (
        '{"input": "a.jpg", "promt": "What?"}',
        "requests know id, input, prompt, type, max_tokens; got promt",
    ),
    "an id twice": ('{"id": 2, "input": "a.jpg"}\n{"input": "a.jpg"}', "line 2: the id 2 is there already"),
    "a bad prompt": ('{"input": "a.jpg", "prompt": "<|image_pad|>"}', "line 1: prompt contains a special token"),
    "no tokens": ('{"input": "a.jpg", "max_tokens": 0}', "line 1: max_tokens must be at least 1"),
    "another kind": ('{"input": "a.jpg", "type": "sound"}', "line 1: type must be image or video"),
    "an id of another kind": ('{"id": 1.5, "input": "a.jpg"}', "line 1: id must be text or a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses_requests(case, tmp_path, capsys, monkeypatch):
    text, words = BAD[case]
    file = tmp_path / "r.jsonl"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(ask, "QwenVLInference", None)
    assert main(["--model", "demo", "--requests", str(file)]) == 2
    assert words in capsys.readouterr().err


ANOTHER = {
    "an answer to another request": {"id": "a", "input": [IMAGE], "prompt": "Who?", "answer": "I."},
    "an answer to none": {"id": "z", "input": [IMAGE], "prompt": "What is this?", "answer": "A."},
    "no answer": {"name": "value"},
}


@pytest.mark.parametrize("case", ANOTHER)
def test_refuses_the_answers_of_others(case, tmp_path, capsys, monkeypatch):
    file, output = write_requests(tmp_path / "r.jsonl", REQUESTS), tmp_path / "a.jsonl"
    before = json.dumps(ANOTHER[case]) + "\n"
    output.write_text(before)
    monkeypatch.setattr(ask, "QwenVLInference", None)
    assert main([*DEMO, "--requests", file, "--output", str(output)]) == 2
    assert "line 1" in capsys.readouterr().err and output.read_text() == before


CONTRADICTIONS = {
    "stream": (["--stream"], "--stream prints text"),
    "stats-json": (["--stats-json", "s.json"], "--stats-json is for one question"),
    "log-dir": (["--log-dir", "log", "--use-psa"], "--log-dir is for one question"),
    "stats on stderr": (["--stats", "stderr"], "--stats stderr is for one question"),
    "fps of images": (["--fps", "1"], "--fps is for --type video."),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_refuses_flags_for_one_question(case, capsys, monkeypatch):
    flags, words = CONTRADICTIONS[case]
    monkeypatch.setattr(ask, "QwenVLInference", None)
    assert main([*DEMO, "--input", IMAGE, IMAGE, "--each", *flags]) == 2
    assert words in capsys.readouterr().err
