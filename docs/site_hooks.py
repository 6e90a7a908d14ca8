"""What mkdocs does beside its own: links of the repository become links of the site, pages show files that stand
elsewhere, and nothing may be loaded from elsewhere."""

from __future__ import annotations

import logging
import posixpath
import re
import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
log = logging.getLogger("mkdocs.hooks.site")  # below mkdocs, so that a warning stops a strict build

# Pages that show a file of the repository, which stays where it is: their front matter says "shows: FILE".
SHOWN = {
    "architecture.md": "ARCHITECTURE.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "demo.md": "demo/README.md",
    "flags.md": "qwen2.5-vl/README.md",
    "results.md": "benchmarks/RESULTS.md",
}
PAGES = {file: page for page, file in SHOWN.items()} | {"README.md": "index.md", "README_zh.md": "index.zh.md"}
FILES = ("benchmarks/results/*", "demo/sample_frames.jpg")  # what pages link to outside docs/
FENCED = re.compile(r"(?ms)^```.*?^```$")
LINK = re.compile(r"(!?\[)([^\[\]]*)\]\(([^)\s]+)\)")
WIDE = "\u3001-\u9fff\uff00-\uffef“”"
CHINESE_LINES = re.compile(rf"(?<=[{WIDE}])\n *(?=[{WIDE}])")
LOADS = re.compile(
    r"""<(?:script|img|iframe|audio|video|source|embed|object)\b[^>]*\b(?:src|srcset|data)=["']?(?:https?:)?//"""
    r"""|<link\b(?![^>]*\brel=["']?(?:canonical|alternate|next|prev))[^>]*\bhref=["']?(?:https?:)?//"""
    r"""|@import\s*(?:url\()?\s*["']?(?:https?:)?//|url\(\s*["']?(?:https?:)?//"""
)


def shown_by(markdown: str) -> str | None:
    """The file of the repository that a page's text says it shows."""
    found = re.match(r"---\nshows: (\S+)\n---\n", markdown)
    return found[1] if found else None


def with_links(markdown: str, file: str) -> str:
    """The text of a file of the repository with its links as the site has them."""

    def lead(link: re.Match) -> str:
        target, mark, anchor = link[3].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(file), target))
        if place in PAGES:
            found = PAGES[place]
        elif place.startswith("docs/"):
            found = place.removeprefix("docs/")
        elif (ROOT / place).is_dir():
            return link[2]  # the site has no pages of folders
        elif any(Path(place).match(pattern) for pattern in FILES):
            found = place
        else:
            return link[0]
        return f"{link[1]}{link[2]}]({found}{mark}{anchor})"

    return outside_code(markdown, lambda text: LINK.sub(lead, text))


def joined(markdown: str) -> str:
    """The text without line ends between Chinese characters, which a browser would show as spaces."""
    return outside_code(markdown, lambda text: CHINESE_LINES.sub("", text))


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """The text with everything but its code changed."""
    parts, start = [], 0
    for code in FENCED.finditer(markdown):
        parts += [change(markdown[start : code.start()]), code[0]]
        start = code.end()
    return "".join([*parts, change(markdown[start:])])


def loaded_from_elsewhere(html: str) -> list[str]:
    """What a browser that opens this page would ask other servers for."""
    return [found[0] for found in LOADS.finditer(html)]


def on_files(files, config):
    """The files that pages link to outside docs/."""
    from mkdocs.structure.files import File

    for path in (path for pattern in FILES for path in sorted(ROOT.glob(pattern))):
        files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links, and the text of a page that shows a file."""
    file = page.meta.get("shows")
    if file is not None:
        return with_links((ROOT / file).read_text(encoding="utf-8"), file)
    text = with_links(markdown, f"docs/{page.file.src_uri}")
    return joined(text) if page.file.src_uri.endswith(".zh.md") else text


def on_post_page(output, page, config):
    """Warn, which stops a strict build, of what a page would load from elsewhere."""
    for found in loaded_from_elsewhere(output):
        log.warning("%s would load from elsewhere: %s", page.file.src_uri, found)
    return output


def on_post_build(config):
    """A map of the site beside the pages in Chinese, where the theme's choice of languages looks for one."""
    site = Path(config.site_dir)
    (site / "zh").mkdir(exist_ok=True)
    shutil.copyfile(site / "sitemap.xml", site / "zh/sitemap.xml")
