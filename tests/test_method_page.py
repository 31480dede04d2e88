"""The numbers of the method's page: its lines that begin with `>>>` are run, and every equation has some."""

import doctest
import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "book" / "method.md").read_text(encoding="utf-8")


def test_the_lines_of_the_page_give_what_it_says(capsys):
    lines = "\n\n".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(lines, {}, "method.md", "method.md", 0)
    assert doctest.DocTestRunner().run(test).failed == 0, capsys.readouterr().out


def test_every_equation_is_shown_on_numbers_and_in_words():
    sections = re.split(r":label: ", PAGE)[1:]
    assert len(sections) == 7
    for section in sections:
        name = section.split()[0]
        assert "pycon" in section or name == "bilevel", name  # the two steps of which are the next two equations
