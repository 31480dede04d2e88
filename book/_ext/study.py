"""Sphinx extension: all runs as files and as a page, how to cite, version and date of every page, drawings of the method, glued pictures
with a caption and words for those who do not see them.

Importing torch takes a second or two: the library is imported only where a page or file needs it.
"""

import shutil
from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive, directives
from myst_nb.ext.glue.directives import PasteAnyDirective
from sphinx.transforms.post_transforms import SphinxPostTransform

from growdarts_study import ROOT

RECORDS = ROOT / "data" / "results"
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
FILTER = """<div class="gd-runs"><label>Filter: words of any column, such as <code>language</code> or <code>lstm 2019</code>
<input type="search" autocomplete="off"></label><p aria-live="polite">This list needs JavaScript; the files above have all of it.</p>
<div class="pst-scrollable-table-container"><table class="table"><thead><tr></tr></thead><tbody></tbody></table></div></div>
<script src="../_static/runs-data.js"></script><script src="../_static/runs.js"></script>"""


def setup(app):
    app.add_directive("glue", Glue, override=True)
    app.add_directive("picture", Picture)
    app.add_post_transform(Words)
    app.add_directive("runs", Runs)
    app.add_directive("codebook", Codebook)
    app.add_directive("bibtex", Bibtex)
    app.connect("config-inited", stamp)
    app.connect("html-page-context", mend)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def stamp(app, config):
    config.html_last_updated_fmt = "%Y-%m-%d"
    config.html_theme_options["extra_footer"] = f"Version {CITATION['version']}"


def mend(app, name, template, context, doctree):
    """The role that docutils gives an entry of the bibliography is not one of a list's items."""
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def write(app, error):
    if error is None and app.builder.format == "html":
        made = Path(app.outdir) / "_static" / "runs-data.js"  # the last of the files
        study = ROOT / "lib" / "growdarts_study"
        sources = [*RECORDS.rglob("*"), study / "records.py", study / "report" / "all_runs.py"]  # folders too: of a deleted record they are newer
        if not made.exists() or made.stat().st_mtime < max(file.stat().st_mtime for file in sources):
            from growdarts_study.report import all_runs

            shutil.rmtree(Path(app.outdir) / "records", ignore_errors=True)
            shutil.copytree(RECORDS, Path(app.outdir) / "records")
            all_runs.write(all_runs.table(), all_runs.daily_errors(), made.parent)


class Picture(Directive):
    required_arguments, has_content = 1, True

    def run(self):
        from drawings import PICTURES

        drawn = PICTURES[self.arguments[0]]()
        caption, messages = self.state.inline_text(" ".join(self.content), self.lineno)
        label = nodes.caption("", "", *caption)
        panels = "".join(f'<div class="gd-panel">{f"<b>{title}</b>" if title else ""}{svg}</div>' for title, svg in drawn)
        return [nodes.figure("", nodes.raw("", f'<div class="gd-picture">{panels}</div>', format="html"), label,
                             ids=[f"picture-{self.arguments[0]}"]), *messages]


class Glue(PasteAnyDirective):
    """MyST-NB's, and for a picture a caption and `alt`, what is seen."""

    option_spec, has_content = {**PasteAnyDirective.option_spec, "alt": directives.unchanged}, True

    def run(self):
        pasted = super().run()
        if not self.content:
            return pasted
        caption, messages = self.state.inline_text(" ".join(self.content), self.lineno)
        return [nodes.figure("", *pasted, nodes.caption("", "", *caption), alt=self.options["alt"]), *messages]


class Words(SphinxPostTransform):
    default_priority = 6  # after MyST-NB has pasted what is of other pages

    def run(self):
        for figure in self.document.findall(nodes.figure):
            for image in figure.findall(nodes.image) if "alt" in figure else ():
                image["alt"] = figure["alt"]


class Runs(Directive):
    def run(self):
        return [nodes.raw("", FILTER, format="html")]


class Codebook(Directive):
    def run(self):
        from growdarts_study.report import all_runs

        return [nodes.definition_list("", *(nodes.definition_list_item(
            "", nodes.term("", "", nodes.literal(name, name)), nodes.definition("", nodes.paragraph("", meaning)))
            for name, meaning in all_runs.COLUMNS.items()))]


class Bibtex(Directive):
    """The software and the paper that it replicates, from CITATION.cff."""

    def run(self):
        (paper,) = CITATION["references"]
        authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
        entries = [("software", "growdarts", {"author": "{" + CITATION["authors"][0]["name"] + "}", "title": CITATION["title"],
                                              "version": CITATION["version"], "url": CITATION.get("repository-code")}),
                   ("misc", "jie2021morphism", {"author": authors, "title": paper["title"], "year": paper["year"], "url": paper["url"]})]
        text = "\n\n".join(f"@{kind}{{{key},\n" + ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value) + "\n}"
                           for kind, key, fields in entries)
        return [nodes.literal_block(text, text, language="bibtex")]
