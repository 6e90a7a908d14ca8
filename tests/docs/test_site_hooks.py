"""What the site makes of the repository's pages: links, pages that show a file, nothing loaded from elsewhere."""

import importlib
import re
from pathlib import Path

import pytest
import site_hooks
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "page, link, found",
    [
        ("docs/how.md", "presets.md#calibrating", "presets.md#calibrating"),
        ("docs/how.zh.md", "presets.zh.md", "presets.zh.md"),
        ("docs/how.md", "images/steps.svg", "images/steps.svg"),
        ("docs/how.md", "../benchmarks/RESULTS.md#presets", "results.md#presets"),
        ("docs/how.md", "../README.md", "index.md"),
        ("docs/how.zh.md", "../README_zh.md#x", "index.zh.md#x"),
        ("docs/how.md", "../benchmarks/results/cpu.svg", "benchmarks/results/cpu.svg"),
        ("docs/how.md", "#levels", "#levels"),
        ("docs/how.md", "https://arxiv.org/abs/1", "https://arxiv.org/abs/1"),
        ("benchmarks/RESULTS.md", "results/cpu.csv", "benchmarks/results/cpu.csv"),
        ("benchmarks/RESULTS.md", "../docs/lab-notes.md", "lab-notes.md"),
        ("ARCHITECTURE.md", "docs/way.svg", "way.svg"),
        ("ARCHITECTURE.md", "CONTRIBUTING.md", "contributing.md"),
    ],
)
def test_links_lead_to_the_sites_pages(page, link, found):
    assert (
        site_hooks.with_links(f"see [this]({link}) or\n![that]({link})", page)
        == f"see [this]({found}) or\n![that]({found})"
    )


def test_a_link_to_a_folder_becomes_words():
    assert site_hooks.with_links("in [the rows](results).", "benchmarks/RESULTS.md") == "in the rows."


def test_code_keeps_its_brackets():
    code = "```python\nx = f[0](../a.md)\n```\n"
    assert site_hooks.with_links(code, "docs/how.md") == code


def test_lines_of_chinese_are_joined():
    text = "稀疏\n   注意力，\n每 8 个\nquery 取\n一个。\n\n# 标题\n\n```bash\n# 一\n# 二\n```\n| 表 |\n"
    assert site_hooks.joined(text) == text.replace("稀疏\n   ", "稀疏").replace("，\n", "，").replace("取\n", "取")


def test_a_file_that_the_site_lacks_stays_a_dead_link_for_strict_to_find():
    assert "(../setup.py)" in site_hooks.with_links("[x](../setup.py)", "docs/how.md")


def test_pages_that_show_a_file_show_one_that_is_there():
    shown = {page: site_hooks.shown_by(page.read_text("utf-8")) for page in (ROOT / "docs").glob("*.md")}
    found = {page.name: file for page, file in shown.items() if file}
    assert found == site_hooks.SHOWN and all((ROOT / file).is_file() for file in found.values())


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<img alt='' src='//example/x.png'>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="http://example" rel="preconnect">',
        "<style>@import 'https://example/x.css'</style>",
        '<div style="background:url(https://example/x.png)">',
        '<iframe width="1" src="https://example/"></iframe>',
    ],
)
def test_what_a_page_would_load_from_elsewhere_is_seen(html):
    assert site_hooks.loaded_from_elsewhere(f"<p>{html}</p>")


@pytest.mark.parametrize(
    "html", ['<a href="https://arxiv.org">x</a>', '<script src="a.js"></script>', '<code>src="https://x"</code>',
             '<link rel="canonical" href="https://x">', '<img src="data:image/png;base64,AA">'],
)  # fmt: skip
def test_links_and_own_files_are_no_loads(html):
    assert not site_hooks.loaded_from_elsewhere(f"<p>{html}</p>")


def settings() -> dict:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def leaves(entry) -> list:
    if isinstance(entry, dict):
        return [leaf for value in entry.values() for leaf in leaves(value)]
    return [leaf for one in entry for leaf in leaves(one)] if isinstance(entry, list) else [entry]


def test_every_page_has_a_place_in_the_navigation():
    pages = {page.name for page in (ROOT / "docs").glob("*.md") if not page.name.endswith(".zh.md")}
    found = leaves(settings()["nav"])
    assert set(found) == pages and len(found) == len(pages)


def titles(entry) -> set:
    if isinstance(entry, dict):
        return {*entry, *(word for value in entry.values() for word in titles(value))}
    return {word for one in entry for word in titles(one)} if isinstance(entry, list) else set()


def test_the_navigation_is_in_both_languages():
    words = titles(settings()["nav"])
    (i18n,) = [plugin["i18n"] for plugin in settings()["plugins"] if isinstance(plugin, dict) and "i18n" in plugin]
    (chinese,) = [one for one in i18n["languages"] if one["locale"] == "zh"]
    assert words == set(chinese["nav_translations"])
    assert all(re.search("[\u4e00-\u9fff]|API", word) for word in chinese["nav_translations"].values())


DOORS = ("calibration", "inference", "ppdiffusers", "qwen2_5_vl", "triangle_layers")


def test_the_api_page_names_what_is_public_and_there():
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    named = [name.rpartition(".") for name in re.findall(r"(?m)^::: (\S+)$", text)]
    assert not [name for module, _, name in named if not hasattr(importlib.import_module(module), name)]
    doors = ["psa_paddle", "psa_paddle.trianglemix", *(f"psa_paddle.integrations.{door}" for door in DOORS)]
    public = {(door, name) for door in doors for name in importlib.import_module(door).__all__}
    shown = {name for _, _, name in named}
    assert {name for _, name in public} - shown == {"DEFAULT_MODEL"}
    assert not {door for door in doors if f"`{door}`" not in text}


def anchor(heading: str) -> str:
    """The anchor that GitHub, and mkdocs.yml's slugify, give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


READ_AS_THEY_ARE = ["README.md", "README_zh.md", "qwen2.5-vl/README.md", "demo/README.md", *site_hooks.SHOWN.values()]


@pytest.mark.parametrize("page", sorted({*READ_AS_THEY_ARE}))
def test_links_of_pages_outside_docs_lead_somewhere(page):
    """Of those in docs/ mkdocs looks after."""
    for link in re.findall(r"\]\(([^)\s]+)\)", site_hooks.FENCED.sub("", (ROOT / page).read_text("utf-8"))):
        target, _, part = link.partition("#")
        if re.match("[a-z]+:", target):
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), link
        if part:
            headings = re.findall(r"(?m)^#+ (.*)$", file.read_text(encoding="utf-8"))
            assert part in map(anchor, headings), link
