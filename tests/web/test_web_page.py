"""The page as Gradio serves it: asked over HTTP, without a browser."""

import http.server
import io
import os
import re
import socket
import threading
import time
import zipfile

import pytest
import requests
from shared_web import IMAGE, LOOKING, TOKENS, Visitor, free_port

from psa_paddle.web import Limits, Settings, server, serving
from psa_paddle.web.words import WORDS

QUESTION = "What is this?"
FILE = {"orig_name": "../../x.jpg", "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def served(demo, tmp_path_factory):
    """(address, private folder) of a page; nothing may be left when it is closed."""
    (model, _), folders, here = demo, [], tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        make = server.Uploads
        patch.setattr(server, "Uploads", lambda: folders.append(make()) or folders[-1])
        patch.chdir(here)
        patch.setattr(server, "SWEEP_SECONDS", 0.1)
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # nobody is there
        limits = Limits(upload_bytes=1 << 20, stale_seconds=4, waiting=1)
        settings = Settings(port=free_port(), looking=LOOKING, max_tokens=TOKENS, limits=limits)
        before = environment()
        with serving(
            lambda report: patch.setattr(model, "report", report) or model, lambda *_: None, settings
        ) as address:
            yield address, folders[0].folder
        assert not folders[0].folder.exists() and os.listdir(here) == [] and environment() == before


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@pytest.fixture
def page(served):
    return served[0]


def files_in(folder) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names]


def show(visitor, name="x.jpg", data=None):
    sent = visitor.upload(name, open(IMAGE, "rb") if data is None else data)
    assert sent.status_code == 200, sent.text
    return visitor.call("upload", "upload", ["en", {"path": sent.json()[0], **FILE}])


def answer_of(outputs) -> str:
    return outputs[0][-1]["content"][0]["text"]


def test_a_picture_is_sent_and_asked_about_and_gone(served, demo):
    page, folder = served
    visitor = Visitor(page)
    shown = show(visitor)
    assert ">x.jpg<" in shown[2] and shown[4]["value"] == WORDS["en"]["first_question_picture"]
    answered = visitor.call("question", "submit", ["zh", QUESTION, "fast", ""])
    assert answer_of(answered) == demo[0].inference_image(IMAGE, QUESTION, TOKENS)
    assert "fast · 首个 token" in answered[1] and "srcdoc=" in answered[3] and "看了什么" in answered[3]
    deadline = time.time() + 10
    while files_in(folder) and time.time() < deadline:
        time.sleep(0.1)
    assert not files_in(folder)


def test_answers_are_not_mixed_and_a_full_line_says_so(page):
    visitors = [Visitor(page) for _ in range(4)]
    for visitor in visitors:
        show(visitor)
    for visitor in visitors:
        assert visitor.join("question", "submit", ["en", QUESTION, "dense", ""]).status_code == 200
    seen = [list(visitor.messages()) for visitor in visitors]
    events = [{m["event_id"] for m in one} - {None} for one in seen]
    assert len(set.union(*events)) == len(visitors) == sum(map(len, events))
    said = [one[-1]["output"]["data"][1] for one in seen]
    assert WORDS["en"]["full"].format(most=1) in "".join(said) and "to the first token" in said[0]


def test_a_visitor_who_leaves_takes_the_conversation_along(page):
    visitor, ask = Visitor(page), ["en", QUESTION, "dense", ""]
    with visitor.stay():
        show(visitor)
        assert answer_of(visitor.call("question", "submit", ask))
    time.sleep(0.3)
    refused = visitor.call("question", "submit", ask)
    assert WORDS["en"]["closed"] in refused[1] and refused[0] == []


@pytest.mark.parametrize("path", ["file=/etc/passwd", "file=../../etc/passwd", "file=%2e%2e/%2e%2e/etc/passwd",
                                  "file/etc/passwd", "proxy=http://127.0.0.1/"])  # fmt: skip
def test_no_file_is_read(page, path):
    assert requests.get(f"{page}gradio_api/{path}", timeout=10).status_code == 404


def test_no_upload_is_read_by_others(page):
    sent = Visitor(page).upload("secret.txt", io.BytesIO(b"secret"))
    assert requests.get(f"{page}gradio_api/file={sent.json()[0]}", timeout=10).status_code == 404


def test_a_call_opens_no_other_file_and_no_address(served):
    (page, folder), asked = served, []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{listener.server_port}/a.jpg"
        for path in ("/etc/passwd", f"{folder}/arriving/../../../etc/passwd", address):
            with pytest.raises(RuntimeError, match="^403: Only files that were uploaded here"):
                Visitor(page).call("upload", "upload", ["en", {"path": path, **FILE}])
        with pytest.raises(RuntimeError, match="^403"):
            Visitor(page).call("question", "submit", ["en", {"path": "/etc/passwd", **FILE}, "dense", ""])
        listener.shutdown()
    assert not asked and not list((folder / "taken").iterdir())


def test_what_is_too_large_or_no_video_is_refused(page):
    visitor = Visitor(page)
    sent = visitor.upload("a.mp4", io.BytesIO(bytes(2 << 20)))
    assert (sent.status_code, sent.text) == (413, "A file may have 1 MiB at most.")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", "b")
    refused = show(visitor, "a.mp4", packed.getvalue())[1]
    assert "is a ZIP archive" in refused and "psa_paddle_web" not in refused and "refused" in refused


def test_the_page_asks_nothing_of_others(page):
    answer = requests.get(page, timeout=10)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    words = answer.text + requests.get(f"{page}theme.css", timeout=10).text
    loaded = re.findall(r"""(?:src|href|url\()=?["'(]?(https?://[^"')\s]+)""", words)
    assert not [found for found in loaded if "w3.org" not in found]
    config = requests.get(f"{page}config", timeout=10).json()
    assert not config["analytics_enabled"] and not config["space_id"] and not config["run_history"]
    assert config["i18n_translations"]["zh-CN"]["send"] == WORDS["zh"]["send"]


def test_another_name_for_this_machine_is_refused(page):
    assert requests.get(page, headers={"Host": "evil.example"}, timeout=10).status_code == 400
    assert requests.get(page.replace("127.0.0.1", "localhost"), timeout=10).status_code == 200


def test_an_address_that_is_taken_is_refused_before_the_model():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(port=taken.getsockname()[1])
        with pytest.raises(ValueError, match="cannot be listened on .* name others"):
            with serving(None, None, settings):
                pass


def test_without_gradio_the_command_to_install_it_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs Gradio.*pip install 'psa_paddle\[web\]'"):
        server.check_gradio()
