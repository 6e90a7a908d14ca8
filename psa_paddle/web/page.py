"""The page, made with Gradio: what stands where, and which event calls what of a ``Site``."""

from __future__ import annotations

import html
from contextlib import aclosing
from pathlib import Path

import gradio as gr
import paddle
from PIL import Image

from ..report.figures import data_uri
from ..utils.media import Clip
from .conversations import NoRoom
from .site import Site, View
from .uploads import Medium
from .words import WORDS, language_of, say

FILE_TYPES = ["video", "image"]
FONTS = ["system-ui", "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "sans-serif"]
STRIP, STRIP_EDGE = 8, 128  # most frames of what is shown, and pixels of a frame's longer side
SPOKEN = "(_, ...given) => [navigator.language, ...given]"  # the first input of every event
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
FIT = "this.style.height = this.contentDocument.documentElement.scrollHeight + 'px'"


def strip_html(shown: list[Medium], language: str) -> str:
    """The names of what is shown, and small pictures of it, with the times of a video's frames."""
    if not shown:
        return f'<p class="soft">{html.escape(say(language, "nothing_shown"))}</p>'
    return "".join(_medium_html(medium) for medium in shown)


def _medium_html(medium: Medium) -> str:
    pictures: list[tuple[Image.Image, str]]
    if isinstance(medium.shown, Clip):
        count = len(medium.shown.frames)
        places = sorted({round(i * (count - 1) / (STRIP - 1)) for i in range(STRIP)})
        pictures = [(Image.fromarray(medium.shown.frames[i]), f"{medium.shown.times[i]:.1f} s") for i in places]
    else:
        pictures = [(medium.shown.copy(), "")]
    tiles = []
    for picture, words in pictures:
        picture.thumbnail((STRIP_EDGE, STRIP_EDGE))
        uri = data_uri(picture, "JPEG", quality=70)
        tiles.append(f'<figure><img src="{uri}" alt=""><figcaption>{words}</figcaption></figure>')
    return f'<p class="name">{html.escape(medium.name)}</p><div class="strip {medium.kind}">{"".join(tiles)}</div>'


def report_html(report: str, language: str) -> str:
    """A report in a frame of its own, where its styles and the page's do not meet; no script runs in it."""
    if not report:
        return f'<p class="soft">{html.escape(say(language, "no_report"))}</p>'
    title = html.escape(say(language, "report"))
    return (
        f'<iframe id="report" title="{title}" sandbox="allow-same-origin" scrolling="no" onload="{FIT}" '
        f'srcdoc="{html.escape(report)}"></iframe>'
    )


def status_html(view: View) -> str:
    """The line below the question."""
    kind = "refused" if view.refused else "working" if view.working else "soft"
    return f'<p class="{kind}" role="status">{html.escape(view.status or "")}</p>'


class Page:
    """The components, and how a ``View`` becomes what they show."""

    def __init__(self, site: Site):
        self._site = site
        self.words = gr.I18n(**{tag: self._words(tag) for tag in ("en", "zh", "zh-CN", "zh-TW", "zh-HK")})
        with gr.Blocks(title="psa_paddle", analytics_enabled=False, fill_width=True) as self.blocks:
            self._layout()
            self._wire()

    def _words(self, tag: str) -> dict[str, str]:
        """The words that do not change while the page is open."""
        language, limits = language_of(tag), self._site.limits
        values = {
            "model": Path(self._site.model.model_name).name,
            "device": paddle.get_device(),
            "mib": limits.upload_bytes >> 20,
            "minutes": round(limits.video_seconds / 60),
            "pictures": limits.pictures,
            "idle": round(limits.idle_seconds / 60),
        }
        fixed = (
            "title", "intro", "demo_note", "upload", "upload_note", "sample_video", "sample_picture", "remove",
            "question", "question_hint", "send", "stop", "new", "attention", "attention_note", "chat",
            *self._site.choices,
        )  # fmt: skip
        return {key: WORDS[language].get(key, key).format(**values) for key in fixed}

    def _layout(self) -> None:
        site, t = self._site, self.words
        with gr.Row(elem_id="head"):
            gr.Markdown(t("title"), elem_id="title")
            gr.HTML('<a href="?lang=en" lang="en">English</a> · <a href="?lang=zh" lang="zh">中文</a>', elem_id="lang")
        gr.Markdown(t("intro"), elem_classes="soft")
        if site.model.model_name == "demo":
            gr.Markdown(t("demo_note"), elem_classes="soft", elem_id="demo-note")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                self.file = gr.File(label=t("upload"), file_types=FILE_TYPES, height=150, elem_id="upload")
                with gr.Row(elem_id="samples"):
                    self.video = gr.Button(t("sample_video"), size="sm", elem_id="sample-video")
                    self.picture = gr.Button(t("sample_picture"), size="sm", elem_id="sample-picture")
                    self.remove = gr.Button(t("remove"), size="sm", elem_id="remove")
                gr.Markdown(t("upload_note"), elem_classes="soft")
                self.shown = gr.HTML(elem_id="shown")
                self.attention = gr.Radio(
                    [(t(name), name) for name in site.choices], value=site.first, label=t("attention"),
                    info=t("attention_note"), elem_id="attention",
                )  # fmt: skip
                self.chat = gr.Chatbot(label=t("chat"), height=280, buttons=["copy"], elem_id="chat")
                self.question = gr.Textbox(
                    label=t("question"), placeholder=t("question_hint"), submit_btn=t("send"), lines=1, max_lines=6,
                    max_length=site.limits.question, elem_id="question",
                )  # fmt: skip
                self.status = gr.HTML(elem_id="status")
                self.new = gr.Button(t("new"), size="sm", elem_id="new")
            with gr.Column(scale=6, min_width=320):
                self.report = gr.HTML(elem_id="report-box")
        self.language = gr.Textbox(visible="hidden", elem_id="language")
        self.key = gr.State("")
        self.outputs = [self.chat, self.status, self.shown, self.report, self.question, self.key, self.file]

    def update(self, view: View, language: str) -> list:
        """A ``View`` for ``self.outputs``; what did not change is left."""
        box = {"submit_btn": not view.working and self.words("send"), "stop_btn": view.working and self.words("stop")}
        if view.question is not None:
            box["value"] = view.question
        return [
            gr.skip() if view.history is None else view.history,
            gr.skip() if view.status is None else status_html(view),
            gr.skip() if view.shown is None else strip_html(view.shown, language),
            gr.skip() if view.report is None else report_html(view.report, language),
            gr.update(**box),
            gr.skip() if view.key is None else view.key,
            None,
        ]

    def _wire(self) -> None:
        """Every event; private, so that the page describes no interface for programs."""
        how = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        shown = {"outputs": self.outputs, **how}
        spoken = [self.language]
        self.blocks.load(self._begin, spoken, [self.shown, self.report], js=SPOKEN, **how)
        self.file.upload(self._upload, [self.language, self.file], js=SPOKEN, preprocess=False, **shown)
        self.video.click(self._sample("video"), spoken, js=SPOKEN, **shown)
        self.picture.click(self._sample("picture"), spoken, js=SPOKEN, **shown)
        asked = [self.language, self.question, self.attention, self.key]
        self.question.submit(self._ask, asked, js=SPOKEN, **shown)
        self.question.stop(self._stop, **how)
        self.new.click(self._renew, spoken, js=SPOKEN, **shown)
        self.chat.clear(self._renew, spoken, js=SPOKEN, **shown)
        self.remove.click(self._remove, spoken, js=SPOKEN, **shown)
        self.blocks.unload(self._left)

    def _begin(self, language: str) -> list:
        return [strip_html([], language), report_html("", language)]

    async def _upload(self, language: str, file: dict | list | None, request: gr.Request):
        if not isinstance(file, dict):
            yield self.update(View(status=say(language, "one_at_a_time"), refused=True), language)
            return
        name = Path(str(file.get("orig_name") or "file")).name[:80]
        async with aclosing(self._site.show(visitor_of(request), language, file.get("path"), name)) as views:
            async for view in views:
                yield self.update(view, language)

    def _sample(self, name: str):
        async def show(language: str, request: gr.Request):
            async with aclosing(self._site.show(visitor_of(request), language, name, name)) as views:
                async for view in views:
                    yield self.update(view, language)

        return show

    async def _ask(self, language: str, text: str, attention: str, key: str, request: gr.Request):
        async with aclosing(self._site.ask(visitor_of(request), language, text, attention, key)) as views:
            async for view in views:
                yield self.update(view, language)

    async def _stop(self, request: gr.Request) -> None:
        self._site.stop(visitor_of(request))

    async def _renew(self, language: str, request: gr.Request) -> list:
        try:
            return self.update(self._site.renew(visitor_of(request)), language)
        except NoRoom:
            return self.update(View(status=say(language, "no_room"), refused=True), language)

    async def _remove(self, language: str, request: gr.Request) -> list:
        return self.update(self._site.remove(visitor_of(request)), language)

    async def _left(self, request: gr.Request) -> None:
        self._site.left(visitor_of(request))


def visitor_of(request: gr.Request) -> str:
    """What tells visitors apart: a number that each open page drew for itself."""
    return str(request.session_hash)
