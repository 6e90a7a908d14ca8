"""The page in a browser, and what must not happen to those who have it open."""

import http.server
import os
import threading
import time
import zipfile

import av
import pytest
import requests
from PIL import Image
from shared_demo import ROOT
from shared_web import IMAGE, Visitor

from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.utils.media import load_video
from psa_paddle.web.words import WORDS

pytestmark = pytest.mark.browser
VIDEO = str(ROOT / "demo" / "sample.mp4")
ZH, EN = WORDS["zh"], WORDS["en"]
CHINESE, QUESTION = "请描述这个视频", "What is this?"
SECONDS = 120_000  # milliseconds that a step may take on a busy machine


@pytest.fixture(scope="session")
def model():
    """What the answers have to be."""
    return QwenVLInference("demo", dtype="float32", use_psa=True)


def upload(page, path):
    page.set_input_files("#upload input[type=file]", path)


def said(page) -> list[str]:
    """The answers in the conversation."""
    return [one.inner_text().strip() for one in page.query_selector_all("#chat .bot.message")]


def status(page) -> str:
    return page.inner_text("#status p").strip()


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def ask(page, question):
    """Ask, and return all that the last answer was on its way."""
    page.fill("#question textarea", question)
    before, seen = len(said(page)), []
    page.keyboard.press("Enter")
    wait_for(lambda: page.query_selector("#status .working"))
    while page.query_selector("#status .working"):
        answers = said(page)
        if len(answers) > before and answers[-1] not in seen:
            seen.append(answers[-1])
    wait_for(lambda: len(said(page)) > before)
    return [*seen, said(page)[-1]]


def test_upload_ask_in_chinese_read_ask_again_switch_and_see_the_map(open_page, model):
    page = open_page("zh-CN")
    assert page.inner_text("#title").strip() == ZH["title"] and ZH["sample_video"] in page.inner_text("#samples")
    upload(page, VIDEO)
    page.wait_for_selector("#shown .strip", timeout=SECONDS)
    assert "sample.mp4" in page.inner_text("#shown") and page.input_value("#question textarea") == CHINESE
    assert page.inner_text("#shown figcaption >> nth=-1") == "29.5 s"
    streamed = ask(page, CHINESE)
    clip = load_video(VIDEO, 2.0)
    assert streamed[-1] == model.inference_video(clip, CHINESE)
    assert len(set(streamed)) > 3 and all(streamed[-1].startswith(part) for part in streamed)
    assert "balanced" in status(page) and "跳过 54%" in status(page)
    report = page.frame_locator("#report")
    assert (
        report.locator("#answer").inner_text() == streamed[-1]
        and report.locator("html").get_attribute("lang") == "zh-CN"
    )
    assert report.locator("img.map").count() == 4 and report.locator(".bar").count() == 30
    again = ask(page, "卡片上写着什么?")
    session = model.session()
    session.ask([{"type": "video", "video": clip}, {"type": "text", "text": CHINESE}], 512)
    assert again[-1] == session.ask("卡片上写着什么?", 512) and len(said(page)) == 2
    page.click("#attention label:has-text('fast')")
    page.click("#new")
    wait_for(lambda: not said(page))
    ask(page, CHINESE)
    assert status(page).startswith("fast") and report.locator("img.map").count() == 4
    drawn = "image => image.complete && image.naturalWidth > 20"
    assert all(report.locator("img.map").nth(i).evaluate(drawn) for i in range(4))
    height = page.eval_on_selector("#report", "frame => frame.offsetHeight - frame.contentDocument.body.scrollHeight")
    assert height >= 0  # all of it is seen


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("locale, words", [("en-GB", EN), ("zh-TW", ZH), ("fr-FR", EN)])
def test_it_speaks_the_browsers_language_and_fits(open_page, locale, words, width):
    page = open_page(locale, width)
    for element, key in (
        ("#title", "title"),
        ("#new", "new"),
        ("#question button", "send"),
        ("#report-box", "no_report"),
    ):
        assert page.inner_text(element).strip() == words[key]
    assert words["dense"] in page.inner_text("#attention")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    other = {"en": "zh", "zh": "en"}["zh" if words is ZH else "en"]
    page.click(f"#lang a[lang={other}]")
    wait_for(lambda: page.query_selector("#title") and page.inner_text("#title").strip() == WORDS[other]["title"])
    page.wait_for_selector("#report-box p")
    assert page.inner_text("#report-box").strip() == WORDS[other]["no_report"]


def test_stop_ends_an_answer_and_gives_the_question_back(open_page):
    page = open_page()
    page.click("#sample-video")
    page.wait_for_selector("#shown .strip", timeout=SECONDS)
    page.click("#question button:has-text('Ask')")
    page.click("#question button:has-text('Stop')", timeout=SECONDS)
    wait_for(lambda: status(page) == EN["stopped"])
    assert page.input_value("#question textarea") == EN["first_question"] and not said(page)
    page.wait_for_selector("#question button:has-text('Ask')")


def test_what_cannot_be_shown_is_said(open_page, tmp_path, served):
    page, packed, large = open_page(), tmp_path / "holiday.mp4", tmp_path / "large.mp4"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", "b")
    upload(page, str(packed))
    wait_for(lambda: "video 'holiday.mp4' is a ZIP archive" in status(page))
    with open(large, "wb") as file:
        file.truncate(2 << 30)
    upload(page, str(large))
    page.wait_for_selector("text=/maximum allowed size of 200/", timeout=SECONDS)
    start = time.monotonic()
    with open(large, "rb") as file:
        length = {"Content-Length": str(2 << 30), "Content-Type": "multipart/form-data; boundary=x"}
        try:
            sent = requests.post(
                f"{served.address}gradio_api/upload", data=file, headers=length, timeout=60
            ).status_code
        except requests.ConnectionError:  # refused before all of it was sent
            sent = 413
    assert sent == 413 and time.monotonic() - start < 30
    page.click("#remove")
    wait_for(lambda: page.inner_text("#shown").strip() == EN["nothing_shown"])
    page.click("#question button:has-text('Ask')")
    wait_for(lambda: status(page) == EN["show_first"])
    open_page.said.clear()  # the browser itself notes a refused upload


def test_no_file_of_the_server_is_read(open_page, served):
    page = open_page()
    fetch = "async path => { const got = await fetch(path); return [got.status, await got.text()]; }"
    for path in ("../../etc/passwd", "/etc/passwd", "%2e%2e/%2e%2e/etc/passwd", str(ROOT / "setup.py"), IMAGE):
        code, text = page.evaluate(fetch, f"/gradio_api/file={path}")
        assert code == 404 and "root:" not in text
    open_page.said.clear()  # the browser notes each 404


def test_nothing_is_asked_of_others_whatever_is_said(open_page):
    asked = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)

    page = open_page()
    page.click("#sample-picture")
    page.wait_for_selector("#shown .strip", timeout=SECONDS)
    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{other.server_port}"
        ask(page, f"![x]({address}/x.png) <img src={address}/y.png onerror=alert(1)>")
        other.shutdown()
    refused = [line for line in open_page.said if "Content Security Policy" in line]
    assert not asked and refused and len(refused) == len(open_page.said)
    open_page.said.clear()


def test_fifty_at_once_are_served_or_refused_and_get_their_own(served, model, tmp_path):
    pictures, expected = [], []
    for i, turned in enumerate((0, 90, 180, 270)):
        pictures.append(str(tmp_path / f"{i}.png"))
        Image.open(IMAGE).rotate(turned).save(pictures[-1])
        expected.append(model.inference_image(pictures[-1], QUESTION))
    assert len(set(expected)) == 4
    outcomes, gate = [None] * 50, threading.Barrier(50)

    def visit(i):
        try:
            visitor = Visitor(served.address)
            gate.wait(120)
            with visitor.stay(), open(pictures[i % 4], "rb") as file:
                sent = visitor.upload("a.png", file)
                if sent.status_code != 200:
                    outcomes[i] = ("refused", sent.text)
                    return
                name = {"path": sent.json()[0], "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
                shown = visitor.call("upload", "upload", ["en", name])
                if "refused" in shown[1]:
                    outcomes[i] = ("refused", shown[1])
                    return
                answered = visitor.call("question", "submit", ["en", QUESTION, "balanced", ""])
                if "refused" in answered[1]:
                    outcomes[i] = ("refused", answered[1])
                    return
                outcomes[i] = ("served", answered[0][-1]["content"][0]["text"] == expected[i % 4])
        except Exception as error:
            outcomes[i] = ("failed", repr(error))

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(50)]
    [thread.start() for thread in threads]
    [thread.join(300) for thread in threads]
    served_ones = [right for kind, right in outcomes if kind == "served"]
    refused = [words for kind, words in outcomes if kind == "refused"]
    assert len(served_ones) + len(refused) == 50, outcomes
    assert len(served_ones) >= 17 and all(served_ones)
    assert all("try again in a minute" in words for words in refused)


def test_who_leaves_makes_room_for_the_next(open_page, tmp_path):
    """A long video's answer takes minutes; when its page is closed, the next question does not wait for it."""
    long = str(tmp_path / "long.mp4")
    with av.open(long, "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height = 336, 252
        for image in load_video(VIDEO, 2.0).frames.repeat(4, 0):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    slow, quick = open_page(), open_page()
    upload(slow, long)
    quick.click("#sample-picture")
    for page in (slow, quick):
        page.wait_for_selector("#shown .strip", timeout=SECONDS)
    slow.fill("#question textarea", "Describe this video.")
    slow.keyboard.press("Enter")
    wait_for(lambda: "Looking" in status(slow) or "Reading the prompt" in status(slow))
    quick.fill("#question textarea", QUESTION)
    quick.keyboard.press("Enter")
    wait_for(lambda: status(quick) == EN["waits"].format(ahead=1))
    slow.close()
    wait_for(lambda: status(quick) != EN["waits"].format(ahead=1), 20)
    wait_for(lambda: "to the first token" in status(quick))
    assert said(quick)


def test_nothing_is_left_of_what_was_sent(served):
    wait_for(lambda: not served.files(), 90)
    assert os.stat(next(served.temporary.glob("psa_paddle_web_*"))).st_mode & 0o777 == 0o700
