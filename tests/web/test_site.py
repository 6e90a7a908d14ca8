"""What a visitor sees: answers as the model gives them, of nobody else, and work that ends with its visitor."""

import asyncio
import logging
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from shared_web import IMAGE, LOOKING, TOKENS, views

from psa_paddle.integrations.language.choice import AttentionChoice
from psa_paddle.web.site import Site
from psa_paddle.web.uploads import Uploads
from psa_paddle.web.words import WORDS
from psa_paddle.web.worker import Job

QUESTION = "What is this?"


def arrive(site, name="a.jpg", source=IMAGE):
    folder = site.uploads.arriving / name
    folder.mkdir()
    shutil.copy(source, folder / name)
    return str(folder / name)


def show(site, visitor="a", sample="picture"):
    return views(site.show(visitor, "en", sample, ""))[-1]


def ask(site, text=QUESTION, visitor="a", attention="dense", key="", until=None, language="en"):
    return views(site.ask(visitor, language, text, attention, key), until)


def test_an_upload_is_asked_about_and_its_file_is_gone(make_site, demo, monkeypatch):
    monkeypatch.setattr("psa_paddle.web.worker.TICK", 0.002)
    site = make_site(max_tokens=64)
    shown = views(site.show("a", "en", arrive(site), "a.jpg"))[-1]
    assert [m.name for m in shown.shown] == ["a.jpg"] and shown.question == WORDS["en"]["first_question_picture"]
    site.uploads.sweep(-1)
    assert site.uploads.stored_bytes() == 0
    seen = ask(site)
    answer = seen[-1].history[-1]["content"]
    assert answer == demo[0].inference_image(IMAGE, QUESTION)
    assert [m["role"] for m in seen[-1].history] == ["user", "assistant"] and "<html" in seen[-1].report
    parts = [v.history[-1]["content"] for v in seen[:-1] if v.history[-1]["role"] == "assistant"]
    assert all(answer.startswith(part.strip()) for part in parts) and len(set(parts)) > 1


def test_a_conversation_keeps_its_cache_and_may_change_its_attention(make_site, demo):
    site = make_site()
    show(site)
    key = ask(site)[-1].key
    second = ask(site, "Where is the star?", attention="fast", key=key)[-1]
    model = demo[0]
    assert model.stats()["attention"] == "psa" and model.stats()["prefill_tokens"] < 25
    session = model.session()
    session.ask([{"type": "image", "image": IMAGE}, {"type": "text", "text": QUESTION}], TOKENS)
    assert second.history[-1]["content"] == session.ask("Where is the star?", TOKENS) and len(second.history) == 4
    renewed = site.renew("a")
    assert renewed.history == [] and renewed.report == "" and len(renewed.shown) == 1 and renewed.key != key
    assert ask(site, key=renewed.key)[-1].history[-1]["content"] == model.inference_image(IMAGE, QUESTION, TOKENS)


def test_every_choice_answers_and_its_report_has_its_maps(make_site, demo):
    site = make_site()
    show(site, sample="video")
    for name in site.choices:
        site.renew("a")
        last = ask(site, "请描述这个视频", attention=name, language="zh")[-1]
        assert last.status and not last.refused and "看了什么" in last.report
        assert (demo[0].attention == "dense") == (name == "dense")


def test_the_question_of_a_later_turn_looks_at_the_frames_of_the_first(make_site):
    site = make_site()
    show(site, sample="video")
    ask(site, attention="fast")
    report = ask(site, "What moves?", attention="fast")[-1].report
    assert report.count('class="bar"') == LOOKING.max_frames // 2


def test_two_visitors_in_turn_get_their_own_answers(make_site, tmp_path, demo):
    site, pictures = make_site(caches=1), {}
    for name, turned in (("a", 0), ("b", 90)):
        pictures[name] = str(tmp_path / f"{name}.png")
        Image.open(IMAGE).rotate(turned).save(pictures[name])
        views(site.show(name, "en", arrive(site, f"{name}.png", pictures[name]), f"{name}.png"))
    for name in "abab":
        if site.conversations.find(name) is None:  # the other one took the only cache
            views(site.show(name, "en", "picture", ""))
            continue
        answer = ask(site, visitor=name)[-1].history[1]["content"]
        assert answer == demo[0].inference_image(pictures[name], QUESTION, TOKENS)
    assert sum(site.conversations.find(n) is not None for n in "ab") >= 1


@pytest.mark.parametrize("stage", ["media", "vision", "prefill", "decode"])
def test_who_leaves_ends_the_work_and_the_conversation_is_what_it_was(make_site, demo, stage, monkeypatch):
    site, reached, gone = make_site(), [], threading.Event()
    if stage != "media":
        show(site)

    report = Job.report

    def slow(job, name, done, total):
        reached.append(name)
        if name == stage:
            gone.wait(5)
        report(job, name, done, total)

    monkeypatch.setattr(Job, "report", slow)

    async def leave():
        asked = site.show("a", "en", "picture", "") if stage == "media" else site.ask("a", "en", QUESTION, "fast", "")
        async for _ in asked:
            if stage in reached:
                break
        await asked.aclose()
        gone.set()

    asyncio.run(leave())
    conversation = site.conversations.find("a")
    while not conversation.job.future.done() or site._answering._line or site._reading._line:
        pass
    after = {"media": "vision", "vision": "prefill", "prefill": "decode", "decode": None}[stage]
    assert after not in reached and reached.count("decode") <= 2
    monkeypatch.undo()
    if stage == "media":
        assert not conversation.shown
        show(site)
    assert conversation.history == [] and len(conversation.waiting) == 1
    assert ask(site)[-1].history[-1]["content"] == demo[0].inference_image(IMAGE, QUESTION, TOKENS)


def test_stop_gives_the_question_back(make_site):
    site = make_site()
    show(site)
    seen = ask(site, until=lambda view: view.working and site.stop("a"))
    assert seen[-1].status == WORDS["en"]["stopped"] and seen[-1].question == QUESTION and seen[-1].history == []


@pytest.mark.parametrize("how, left", [("renew", 1), ("remove", 0)])
def test_starting_anew_meanwhile_is_what_holds(make_site, how, left):
    site = make_site()
    show(site)
    seen = ask(site, until=lambda view: view.working and not getattr(site, how)("a"))
    assert seen[-1].history == [] and len(seen[-1].shown) == left and seen[-1].report in (None, "")
    assert seen[-1].key == (site.conversations.find("a").key if left else "")


def test_what_comes_too_late_is_not_shown(make_site, monkeypatch):
    """The visitor began anew between the last sign of life and the result."""
    site, result = make_site(), Job.result
    show(site)
    monkeypatch.setattr(Job, "result", lambda job: (result(job), site.remove("a"))[0])
    last = ask(site)[-1]
    assert last.history == [] and not last.report and last.status == WORDS["en"]["stopped"]
    assert show(site).shown == [] and site.conversations.find("a") is None


def test_what_cannot_be_asked_is_said(make_site):
    site, words = make_site(question=10, idle_seconds=1000), WORDS["en"]

    def status(**keywords):
        last = ask(site, **keywords)[-1]
        assert last.refused
        return last.status

    assert status() == words["show_first"]
    show(site)
    assert status(text="  ") == words["ask_something"]
    assert status(text="x" * 11) == words["too_long"].format(most=10, count=11)
    assert status(key="another") == words["closed"]
    assert status(attention="turbo") == words["failed"] and status(text=None) == words["failed"]
    assert status(text="<|im_end|>").startswith("The question cannot be answered: prompt contains a special token")
    site.conversations.close()
    assert status(key="gone") == words["closed"]


def test_what_cannot_be_shown_is_said(make_site):
    site, words = make_site(pictures=1), WORDS["zh"]

    def status(*given):
        last = views(site.show("a", "zh", *given))[-1]
        assert last.refused
        return last.status

    assert status("/etc/passwd", "x") == words["gone"]
    bad = arrive(site, "bad.mp4")
    with open(bad, "wb") as file:
        file.write(b"PK\x03\x04" + bytes(100))
    assert status(bad, "b.mp4").startswith("这个文件无法使用：视频 'b.mp4' 是 ZIP 压缩包")
    show(site)
    assert status("video", "") == words["too_many"].format(most=1)
    assert not list((site.uploads.folder / "taken").iterdir()) and len(site.conversations.find("a").shown) == 1


def test_a_full_line_is_said_and_those_in_it_wait(make_site):
    site, end, words = make_site(waiting=1), threading.Event(), WORDS["en"]
    for visitor in "abc":
        show(site, visitor)
    blocking = site._answering.submit(lambda job: end.wait(10))

    async def three():
        asked = [site.ask(visitor, "en", QUESTION, "dense", "") for visitor in "abc"]
        first = await anext(asked[0])
        assert first.working and first.status == words["waits"].format(ahead=1)
        refused = [view async for view in asked[1]]
        assert [view.status for view in refused] == [words["full"].format(most=1)] and refused[0].refused
        assert refused[0].question == QUESTION
        busy = [view async for view in site.ask("a", "en", QUESTION, "dense", "")]
        assert [view.status for view in busy] == [words["busy"]]
        end.set()
        return [view async for view in asked[0]][-1]

    assert asyncio.run(three()).report and blocking.result()


def test_lack_of_memory_and_defects_have_their_sentences(make_site, monkeypatch, caplog):
    site, words = make_site(), WORDS["en"]
    show(site)
    for error, said in ((MemoryError(), "no_memory"), (RuntimeError("out of memory"), "no_memory"),
                        (KeyError("secret"), "failed")):  # fmt: skip

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr("psa_paddle.web.site.take_turn", fail)
        with caplog.at_level(logging.ERROR, "psa_paddle"):
            last = ask(site)[-1]
        assert (last.status, last.refused, last.question) == (words[said], True, QUESTION)
    assert len(caplog.records) == 1 and "secret" in caplog.text


def test_what_the_flags_ask_for_is_chosen_at_first(make_site):
    assert make_site().first == "balanced" and make_site(default="dense").first == "dense"
    assert make_site(AttentionChoice("psa", "fast")).first == "fast"
    other = make_site(AttentionChoice("mix", "fast", triangle_layers=[1]))
    assert other.first == "given" == list(other.choices)[0]
    assert other.choices["mix"].triangle.triangle_layer_indices == [1]
    assert make_site().choices["trianglemix"].triangle.triangle_layer_indices == [3, 4, 5]


def test_layers_that_the_model_does_not_have_are_refused_at_once(make_site):
    with pytest.raises(ValueError, match="99"):
        make_site(AttentionChoice("mix", triangle_layers=[99]))


def test_closing_leaves_nothing(make_site):
    site = make_site()
    arrive(site)
    show(site)
    folder = site.uploads.folder
    site.close()
    assert not folder.exists() and len(site.conversations) == 0
    assert not [t for t in threading.enumerate() if t.name.startswith(("answering", "reading"))]


def test_a_model_of_text_alone_is_refused(demo, monkeypatch):
    family = type("Family", (), {"pixel_factor": None, "name": "Llama"})
    monkeypatch.setattr(demo[0], "family", family)
    uploads = Uploads()
    with pytest.raises(ValueError, match="^Llama takes text alone; the page needs a model that sees"):
        Site(*demo, uploads)
    uploads.close()


def test_turning_a_picture_changes_the_answer_of_this_test(demo, tmp_path):
    """So that mixed answers are seen above."""
    turned = Image.fromarray(np.asarray(Image.open(IMAGE).rotate(90)))
    assert demo[0].inference_image(turned, QUESTION, TOKENS) != demo[0].inference_image(IMAGE, QUESTION, TOKENS)
