"""The page says what the statistics say, and nothing in it can do harm."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from shared_demo import LAYERS, ROOT, SPARSE

from psa_paddle.integrations.language.attention import plug_of
from psa_paddle.integrations.language.inference import QwenVLInference
from psa_paddle.report import Recorder, Report, ask_dense, language_here, recording
from psa_paddle.report.page import TILES, differences
from psa_paddle.report.words import WORDS
from psa_paddle.utils.media import Clip, load_video

EVIL = '<script>alert("1")</script> & </p>'


@pytest.fixture(scope="module")
def report():
    """A whole report; its model's dense answer is checked on the way."""
    psa = QwenVLInference("demo", "float32", use_psa=True, psa_config=SPARSE.replace(audit_rows=32))
    clip = load_video(ROOT / "demo" / "sample.mp4", max_frames=10)
    question = (clip, "请描述这个视频", 6)
    with recording(psa, [0, 5]) as record:
        answer = psa.inference_video(*question, streamer=record)
    stats, plug = psa.stats(), plug_of(psa)
    dense = ask_dense(psa, lambda: psa.inference_video(*question))
    assert plug_of(psa) is plug and psa.stats() == stats and stats["attention"] == "psa"
    fresh = QwenVLInference("demo", "float32")
    assert dense.answer == fresh.inference_video(*question)
    assert dense.stats["attention"] == "dense" and "layers" not in dense.stats
    assert psa.inference_video(*question) == answer
    return Report(EVIL + question[1], EVIL + answer, clip, stats, record, dense)


def table(html: str, name: str) -> list[list[str]]:
    """The rows of a table as text."""
    (body,) = re.findall(rf'<table id="{name}">(.*?)</table>', html, re.S)
    rows = re.findall(r"<tr>(.*?)</tr>", body.replace("&nbsp;", " "), re.S)
    return [row for row in ([re.sub("<.*?>", "", x) for x in re.findall(r"<td.*?</td>", r)] for r in rows) if row]


def percent(x: float) -> str:
    return f"{100 * x:.1f} %"


def test_figures_are_those_of_the_statistics(report):
    html, heads = report.html(), report.record.heads()
    assert table(html, "layers") == [
        [str(r["layer"]), percent(r["sparsity"]), percent(min(heads[r["layer"]])), percent(max(heads[r["layer"]]))]
        for r in report.stats["layers"]
    ]
    audits = [row["audit"] for row in report.stats["layers"]]
    assert len(audits) == LAYERS
    assert [row[1] for row in table(html, "audit")] == [
        f"{100 * a['error']:.1f} ± {percent(a['sampling_error'])}" for a in audits
    ]
    times, s, d = table(html, "times"), report.stats, report.dense.stats
    assert times[0][1:] == [f"{s['ttft_s'] - report.record.seconds:.2f} s", f"{d['ttft_s']:.2f} s"]
    assert times[2][1:] == [str(s["new_tokens"]), str(d["new_tokens"])]
    assert f"<b>{percent(s['average_sparsity'])}</b>".replace(" %", "&nbsp;%") in html
    shares = report.record.mass_of_frames(5).mean(0)
    for share, time in zip(shares, report.stats["frame_times_s"][::2], strict=True):
        assert f"{time:.1f}–" in html and f"<b>{percent(share)}</b>".replace(" %", "&nbsp;%") in html


def test_is_self_contained_and_escaped(report):
    for language in WORDS:
        html = report.html(language)
        assert EVIL not in html and "<script" not in html and html.count("&lt;script&gt;") >= 2
        assert "请描述这个视频" in html and "http" not in html and "@import" not in html
        assert all(uri.startswith("data:") for uri in re.findall(r'(?:src|href)="(.*?)"', html))
        assert len(html) < 150_000


def test_is_written_whole_or_refused(report, tmp_path):
    report.write(tmp_path / "out.html", "zh")
    assert (tmp_path / "out.html").read_text(encoding="utf-8") == report.html("zh")
    assert WORDS["zh"]["title"] in report.html("zh")
    with pytest.raises(ValueError, match="folder"):
        report.write(tmp_path)


def test_what_the_statistics_say_is_in_the_language_of_the_page(report):
    """Whatever the locale of the process."""
    reasons = {"shorter than 1024 keys": 2, "a reason of no kind": 1}
    warned = (
        "attention's output is far from exact in 1 of 6 layers: most in layer 2 (23.0 %), and in head 1 of layer 0 "
    )
    warned += "(41.0 %); take a larger preset, compare the answer with that of dense attention, or audit more rows "
    warned += "(--audit 256) to be surer."
    stats = {**report.stats, "dense_reasons": reasons, "audit_warning": warned}
    page = replace(report, stats=stats)
    english, chinese = page.html(), page.html("zh")
    assert "shorter than 1024 keys (2)" in english and "attention&#39;s output is far from exact" in english
    assert "少于 1024 个键 (2)" in chinese and "a reason of no kind (1)" in chinese
    assert "注意力输出与精确值相差很大：最大的是第 2 层（23.0 %）" in chinese and "far from exact" not in chinese


def test_languages_say_the_same():
    assert WORDS["en"].keys() == WORDS["zh"].keys()
    assert all(en.count("{") == WORDS["zh"][name].count("{") for name, en in WORDS["en"].items())


@pytest.mark.parametrize("name, wanted", [("zh_CN.UTF-8", "zh"), ("en_US.UTF-8", "en"), ("C", "en")])
def test_language_of_the_process(monkeypatch, name, wanted):
    monkeypatch.setenv("LC_ALL", name)
    assert language_here() == wanted


def test_a_long_film_is_shown_in_few_tiles(report):
    frames = np.zeros((404, 28, 28, 3), np.uint8)
    record = Recorder(None, [], [9])
    record.put(np.array([1, *[9] * 404, 2, 3]))
    record.mass[0] = np.linspace(0, 1, 407) / np.linspace(0, 1, 407).sum()
    film = Report("q", "a", Clip(frames, 2.0), report.stats, record)._film()
    assert TILES / 2 < len(film["tiles"]) <= TILES and film["frames_a_tile"] == 8
    assert sum(tile["mass"] for tile in film["tiles"]) == pytest.approx(film["share"])
    assert film["share"] == pytest.approx(record.mass[0][1:405].sum())
    assert film["tiles"][0]["label"] == "0.0–3.5 s" and film["tiles"][-1]["label"] == "200.0–201.5 s"


def test_dense_attention_and_pictures(report):
    pictures = [Image.new("RGBA", (400, 200)), Image.new("L", (30, 60))]
    html = Report("q", "a", pictures, {**report.dense.stats, "finish_reason": "length"}).html()
    assert WORDS["en"]["dense"] in html and WORDS["en"]["cut_off"] in html and 'id="layers"' not in html
    assert html.count("<figure>") == 2 and WORDS["en"]["no_mass"] in html


def test_a_request_that_ran_dense_says_why(report):
    rows = [{**row, "sparsity": 0.0, "audit": None} for row in report.stats["layers"]]
    stats = {**report.stats, "layers": rows, "dense_reasons": {"shorter than <9> keys": 6}}
    record = Recorder(type("Plug", (), {"calls": []}), [0, 5], [9])
    record.put(np.array([1, 9, 2]))
    record.heads = lambda: {i: [0.0] for i in range(LAYERS)}
    html = Report("q", "a", report.shown, stats, record).html()
    assert "shorter than &lt;9&gt; keys (6)" in html and 'id="layers"' not in html and 'id="audit"' not in html
    assert "they did not run sparse with PSA: 0, 5" in html


@pytest.mark.parametrize(
    "ours, theirs, wanted",
    [
        ("a b", "a b", [("both", "a b")]),
        ("a red b", "a green b", [("both", "a "), ("ours", "red "), ("theirs", "green "), ("both", "b")]),
        ("红色圆形", "绿色圆形", [("ours", "红"), ("theirs", "绿"), ("both", "色圆形")]),
        ("", "x", [("theirs", "x")]),
    ],
)
def test_differences(ours, theirs, wanted):
    assert differences(ours, theirs) == wanted


def test_different_answers_are_marked(report):
    dense = report.dense._replace(answer="另一个")
    html = Report("q", "这一个", report.shown, report.stats, report.record, dense).html()
    assert '<span class="ours">这</span><span class="theirs">另</span>一个' in html and 'id="same"' not in html
    same = Report("q", "另一个", report.shown, report.stats, report.record, dense).html()
    assert 'id="same"' in same and 'id="differences"' not in same
