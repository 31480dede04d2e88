"""Print the built book with the distribution's Chromium: `python book/pdf.py HTML PDF`, after `make book`.

The chapters are put one after the other into one page, which is printed with their titles as bookmarks.
"""

import re
import shutil
import sys
from pathlib import Path

import yaml
from playwright.sync_api import sync_playwright

# The theme hides the first heading, and puts the title and contents of a single page in its place.
STYLE = "<style>@media print {.bd-article h1 {display: block !important} #jb-print-docs-body {display: none}}</style></head>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def whole(html: Path) -> tuple[str, list[str]]:
    """One page of all chapters, to lie in the folder of one of them, and their titles in order."""
    toc = yaml.safe_load((Path(__file__).parents[1] / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    pages = [(html / f"{name}.html").read_text(encoding="utf-8") for name in names]
    articles = [re.search(r'<article class="bd-article">(.*)</article>', page, re.DOTALL)[1] for page in pages]
    titles = [re.sub(r"<a .*|<[^>]+>", "", re.search(r"<h1>(.*?)</h1>", article, re.DOTALL)[1]).strip() for article in articles]
    joined = '<div style="break-before: page"></div>'.join(articles)
    page = re.sub(r'<article class="bd-article">.*</article>', lambda _: f'<article class="bd-article">{joined}</article>', pages[0],
                  flags=re.DOTALL)
    return page.replace("</head>", STYLE, 1), titles


def print_page(page: Path, pdf: Path) -> None:
    """With equations drawn and everything that is folded open."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.set_default_timeout(600_000)
        shown.goto(page.resolve().as_uri())
        shown.evaluate("() => MathJax.startup.promise")
        shown.evaluate("() => document.querySelectorAll('details').forEach(part => part.open = true)")
        shown.pdf(path=pdf, format="A4", outline=True, tagged=True, margin=dict.fromkeys(("top", "bottom", "left", "right"), "15mm"))
        browser.close()


def bookmarks(pdf: bytes) -> list[str]:
    """Titles of a PDF's bookmarks, as Chromium writes them."""
    found = re.findall(rb"/Title (?:\(((?:[^()\\]|\\.)*)\)|<([0-9A-Fa-f]*)>)", pdf, re.DOTALL)
    raw = [bytes.fromhex(code.decode()) if code else re.sub(rb"\\(.)", rb"\1", text, flags=re.DOTALL) for text, code in found]
    return [text[2:].decode("utf-16-be") if text.startswith(b"\xfe\xff") else text.decode("latin-1") for text in raw]


if __name__ == "__main__":
    html, pdf = map(Path, sys.argv[1:])
    page, chapters = whole(html)
    together = html / "book" / "print.html"
    together.write_text(page, encoding="utf-8")
    try:
        print_page(together, pdf)
    finally:
        together.unlink()
    there = ["".join(title.split()) for title in bookmarks(pdf.read_bytes())]  # without the breaks of lines
    missing = [title for title in chapters if not any(mark.startswith("".join(title.split())) for mark in there)]
    if missing:
        sys.exit(f"{pdf} lacks {len(missing)} of {len(chapters)} chapters: {', '.join(missing)}")
    print(f"{pdf}: {len(chapters)} chapters, {pdf.stat().st_size / 2**20:.1f} MiB")
