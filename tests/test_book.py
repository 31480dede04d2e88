"""The API page is complete. The built book reads offline: no element of any page requests anything off the page.

`make test` builds the book and names it in BOOK_HTML; without that these tests are skipped.
"""

import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

import growdarts

ROOT = Path(__file__).parents[1]
BOOK = Path(os.environ.get("BOOK_HTML", "does-not-exist"))
if not BOOK.is_absolute():
    BOOK = ROOT / BOOK

# Attributes whose address a browser fetches by itself. <a href> only leads somewhere when clicked.
FETCHED = {
    "audio": ["src"],
    "embed": ["src"],
    "iframe": ["src"],
    "image": ["href", "xlink:href"],  # in an inline SVG
    "img": ["src", "srcset"],
    "input": ["src"],
    "object": ["data"],
    "script": ["src"],
    "source": ["src", "srcset"],
    "track": ["src"],
    "use": ["href", "xlink:href"],
    "video": ["src", "poster"],
}
FETCHED_RELS = {
    "stylesheet", "icon", "apple-touch-icon", "mask-icon", "manifest",
    "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch",
}  # fmt: skip
CSS_ADDRESS = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")
CSS_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
SCRIPT_REQUEST = re.compile(
    r"""(?:fetch|import|importScripts|require|getScript|\.open)\s*\([^)]*?['"]((?:https?:)?//[^'"]+)"""
    r"""|\.(?:src|href)\s*=\s*['"]((?:https?:)?//[^'"]+)"""
    r"""|\bfrom\s+['"]((?:https?:)?//[^'"]+)"""
)


class Requests(HTMLParser):
    """Collects every address that a browser requests while it shows a page, its links and its places."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, str]] = []  # (where, address)
        self.links, self.places = [], set()
        self._inside = None

    def handle_starttag(self, tag, attrs):
        attrs = {name: value or "" for name, value in attrs}
        self.links += [attrs["href"]] if tag == "a" and attrs.get("href") else []
        self.places.add(attrs.get("id"))
        self._inside = tag if tag in ("style", "script") else None
        for name in FETCHED.get(tag, []):
            if name == "srcset":
                addresses = [part.split()[0] for part in attrs.get(name, "").split(",") if part.strip()]
            else:
                addresses = [attrs[name]] if attrs.get(name) else []
            self.found += [(f"<{tag} {name}>", address) for address in addresses]
        if tag == "link" and FETCHED_RELS & set(attrs.get("rel", "").lower().split()):
            self.found.append((f"<link rel={attrs['rel']}>", attrs.get("href", "")))
        if tag == "meta" and attrs.get("http-equiv", "").lower() == "refresh":
            self.found += [("<meta refresh>", a) for a in re.findall(r"url=(\S+)", attrs["content"])]
        self.found += [(f"<{tag} style>", a) for a in css_addresses(attrs.get("style", ""))]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "style":
            self.found += [("<style>", address) for address in css_addresses(data)]
        elif self._inside == "script":
            self.found += [("<script>", next(filter(None, m))) for m in SCRIPT_REQUEST.findall(data)]


def css_addresses(css: str) -> list[str]:
    """Every url(...) and @import of a style sheet."""
    return [url or imported for url, imported in CSS_ADDRESS.findall(CSS_COMMENT.sub("", css))]


def requests_of(path: Path) -> list[tuple[str, str]]:
    """(where, address) of everything that an HTML page or a style sheet loads."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".css":
        return [("css", address) for address in css_addresses(text)]
    return parsed(text).found


def parsed(html: str) -> Requests:
    parser = Requests()
    parser.feed(html)
    parser.close()
    return parser


def leaves_the_book(address: str) -> bool:
    """Whether an address names another host: http://..., https://..., //..."""
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ftp", "ws", "wss")


def chapters() -> list[str]:
    """Every page that _toc.yml names, in order, without its suffix."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"]] + [page["file"] for part in toc["parts"] for page in part["chapters"]]


# The check itself, on pages that are wrong on purpose.


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<SCRIPT SRC="//cdn.example.org/x.js"></SCRIPT>',
        '<link rel="stylesheet" href="https://cdn.example.org/x.css">',
        '<link href="https://cdn.example.org/x.png" rel="shortcut icon">',
        '<link rel="preconnect" href="//fonts.example.org">',
        '<img src="a.png" srcset="a.png 1x, https://cdn.example.org/b.png 2x">',
        '<iframe src="https://example.org"></iframe>',
        '<style>@import "https://example.org/x.css";</style>',
        '<p style="background: url(https://example.org/x.png)">',
        '<svg><image xlink:href="https://example.org/x.png"/></svg>',
        '<script>const s = document.createElement("script"); s.src = "https://example.org/x.js"</script>',
        '<script type="module">import x from "https://example.org/x.js"</script>',
        '<script>fetch("https://example.org/x.json")</script>',
    ],
)
def test_a_request_off_the_page_is_seen(html, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(html)
    assert any(leaves_the_book(address) for _, address in requests_of(page))


@pytest.mark.parametrize(
    "html",
    [
        '<a href="https://example.org">leads there when clicked</a>',
        '<link rel="canonical" href="https://example.org/">',
        '<img src="data:image/png;base64,AAAA">',
        '<script src="_static/x.js?v=1"></script>',
        "<p>https://example.org in the text</p>",
    ],
)
def test_what_stays_on_the_page_is_allowed(html, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(html)
    assert not any(leaves_the_book(address) for _, address in requests_of(page))


def test_on_github_the_workflow_fills_in_the_address(tmp_path):
    """In the one place for it; the book then has buttons that open its notebooks on Binder."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())["jobs"]
    (step,) = [step for step in jobs["test"]["steps"] if "address" in step.get("name", "")]
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    subprocess.run(["bash", "-euc", step["run"]], cwd=tmp_path, check=True, env=os.environ | {
        "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "someone/cells"})
    before, after = (yaml.safe_load((folder / "_config.yml").read_text()) for folder in (ROOT, tmp_path))
    buttons = {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}
    assert after == before | {"launch_buttons": buttons, "repository": before["repository"] | {
        "url": "https://github.com/someone/cells"}}


def test_the_api_page_has_every_public_name():
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    described = re.findall(r"^\.\. auto(?:class|function):: (\w+)", page, re.MULTILINE)
    listed = re.findall(r"^   (\w+)$", page, re.MULTILINE)
    assert sorted(described) == sorted(listed) == sorted(growdarts.__all__)


# The built book.

def test_a_picture_that_another_page_quotes_stands_in_its_own():
    """Only then is its file written; a build over an older one would hide that."""
    quoted = [(page.parent / doc, picture) for page in (ROOT / "book").glob("*.md")
              for picture, doc in re.findall(r"```{glue} (picture\w+)\n:doc: (\S+)", page.read_text(encoding="utf-8"))]
    assert quoted
    for notebook, picture in quoted:
        assert f"```{{glue}} {picture}\\n" in notebook.read_text(encoding="utf-8"), f"{picture} is not shown in {notebook.name}"


def pages() -> list[Path]:
    """Every HTML page; under _static the theme keeps templates, which nobody opens."""
    return [p for p in sorted(BOOK.rglob("*.html")) if BOOK / "_static" not in p.parents]


built = pytest.mark.skipif("BOOK_HTML" not in os.environ, reason="needs a built book: make test")


@built
def test_every_chapter_is_built():
    missing = [page for page in chapters() if not (BOOK / f"{page}.html").is_file()]
    assert not missing, f"not in {BOOK}"
    assert (BOOK / "index.html").is_file()


@built
def test_no_page_makes_a_request_off_the_page():
    outside = [
        f"{page.relative_to(BOOK)}: {where} {address}"
        for page in [*pages(), *BOOK.rglob("*.css")]
        for where, address in requests_of(page)
        if leaves_the_book(address)
    ]
    assert not outside, "\n".join(outside)


@built
def test_everything_a_page_loads_is_there():
    missing = []
    for page in pages():
        for where, address in requests_of(page):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or not parts.path:
                continue  # data:, another host (the test above), or a place on the same page
            if not (page.parent / unquote(parts.path)).resolve().is_file():
                missing.append(f"{page.relative_to(BOOK)}: {where} {address}")
    assert not missing, "\n".join(missing)


@built
def test_links_and_anchors_resolve():
    """In the list of all runs what stands behind # is a filter, which the test in a browser tries."""
    read = {page.resolve(): parsed(page.read_text(encoding="utf-8")) for page in pages()}
    wrong = []
    for page, found in read.items():
        for link in found.links:
            parts = urlsplit(link)
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if parts.scheme or parts.netloc or target.name == "runs.html":
                continue
            if not target.is_file() or parts.fragment and unquote(parts.fragment) not in read[target].places:
                wrong.append(f"{page.name}: {link}")
    assert not wrong, "\n".join(wrong)


@built
def test_what_is_quoted_from_a_notebook_is_shown():
    """Markdown that one page quotes from another comes out as the name of its Python object."""
    assert [page.name for page in pages() if "&lt;IPython.core.display" in page.read_text(encoding="utf-8")] == []


@built
def test_pictures_say_what_is_seen():
    silent = [(page.name, picture.get("alt")) for page in pages() for picture in BeautifulSoup(
        page.read_text(encoding="utf-8"), "html.parser").select("article img") if len(picture.get("alt", "").split()) < 8]
    assert silent == []


@built
def test_sentences_are_short():
    """Fewer than 25 words on average on every page, code, tables and drawings left out."""
    for page in pages():
        soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        for part in soup.select("pre, script, style, svg, table, .gd-player, div.math, a.headerlink"):
            part.decompose()
        blocks = [" ".join(block.get_text().split()) for block in soup.select("article :is(p, li, figcaption, dd)") if not block.find(["p", "li"])]
        words = [len(sentence.split()) for block in blocks for sentence in re.split(r"(?<=[.?!:]) +(?=[A-Z`(])", block)]
        words = [n for n in words if n > 2]
        assert sum(words) < 25 * len(words) or not words, page.name


@built
def test_equations_are_drawn_by_the_book_itself():
    for page in pages():
        if 'class="math' not in page.read_text(encoding="utf-8"):
            continue
        scripts = [address for where, address in requests_of(page) if where == "<script src>"]
        assert any("_static/mathjax/tex-svg-full.js" in address for address in scripts), page
