"""Sphinx extension of the API page: the library's docstrings as the reStructuredText that autodoc and napoleon expect.

They are written to be read in the code: `$...$` and `$$...$$` around mathematics, "name : meaning" below "Parameters".
What the settings mean stands in their fields.
"""

import inspect
import re

SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def setup(app):
    app.connect("autodoc-process-docstring", translate, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def translate(app, what, name, obj, options, lines):
    """Handler: changes `lines` in place."""
    text = "\n".join(lines)
    text = re.sub(r"\$\$(.+?)\$\$", lambda found: f".. math:: {' '.join(found[1].split())}", text, flags=re.DOTALL)
    text = re.sub(r"\$(.+?)\$", r":math:`\1`", text, flags=re.DOTALL)
    text = re.sub(r"^(\w[\w, ]*) : (.*)", r"\1\n    \2", text, flags=re.MULTILINE)
    lines[:] = text.splitlines()
    if what == "class" and hasattr(obj, "model_fields"):
        lines += ["", "Parameters", "----------"]
        for field_name, field in obj.model_fields.items():
            lines += [f"{field_name} : {values(field)}", f"    {field.description}"]


def values(field):
    """Type or choices, range and default of a field, such as "float ≥ 0, < 1, default 0.0"."""
    kind = re.sub(r"Literal\[(.*)\]", r"\1", inspect.formatannotation(field.annotation))
    bounds = [f"{sign} {getattr(limit, name)}" for limit in field.metadata for name, sign in SIGNS.items()
              if hasattr(limit, name)]
    default = [] if field.is_required() else [f"default {field.default!r}"]
    return ", ".join([" ".join([kind, *bounds[:1]]), *bounds[1:], *default])
