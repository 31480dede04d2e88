"""Print the book, built as a single page, with the distribution's Chromium: `python book/pdf.py PAGE PDF`."""

import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def print_page(page: Path, pdf: Path) -> list[str]:
    """Print `page` with its headings as bookmarks; the titles of its chapters."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page()
        shown.set_default_timeout(600_000)
        shown.goto(page.resolve().as_uri())
        shown.evaluate("() => MathJax.startup.promise")
        shown.evaluate("() => document.querySelectorAll('details').forEach(part => part.open = true)")
        shown.pdf(path=pdf, format="A4", outline=True, tagged=True, margin=dict.fromkeys(("top", "bottom", "left", "right"), "15mm"))
        titles = shown.locator("article h1, article section[id^=document-] h1").all_inner_texts()
        browser.close()
    return titles


def bookmarks(pdf: bytes) -> list[str]:
    """Titles of a PDF's bookmarks, as Chromium writes them."""
    found = re.findall(rb"/Title (?:\(((?:[^()\\]|\\.)*)\)|<([0-9A-Fa-f]*)>)", pdf, re.DOTALL)
    raw = [bytes.fromhex(h.decode()) if h else re.sub(rb"\\(.)", rb"\1", text, flags=re.DOTALL) for text, h in found]
    return [text[2:].decode("utf-16-be") if text.startswith(b"\xfe\xff") else text.decode("latin-1") for text in raw]


if __name__ == "__main__":
    page, pdf = map(Path, sys.argv[1:])
    chapters = [re.sub(r"\s*#$", "", title).strip() for title in print_page(page, pdf)]
    there = " ".join(bookmarks(pdf.read_bytes()))
    missing = [title for title in chapters if title not in there]
    if missing or not chapters:
        sys.exit(f"{pdf} lacks {len(missing)} of {len(chapters)} chapters: {', '.join(missing)}")
    print(f"{pdf}: {len(chapters)} chapters, {pdf.stat().st_size / 2**20:.1f} MiB")
