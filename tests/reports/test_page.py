"""A report is one file: complete, escaped, and in need of nothing else."""

import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest

from barreleye.reports.page import Sample, Section, Table, page

HOSTILE = """<script>alert("x")</script> & '$title' </title>"""


VOID = {"meta", "link", "path", "rect"}


class Reader(HTMLParser):
    """Every element, the text outside styles and scripts, and whether each element that opens is closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_all_text_is_escaped_and_nothing_is_lost():
    sections = [
        Section(
            HOSTILE,
            [HOSTILE],
            [Table((HOSTILE, "n"), [(HOSTILE, HOSTILE)], ("n",))],
            samples=[Sample(HOSTILE, [("user", HOSTILE), ('" onclick="x', HOSTILE)])],
        )
    ]
    read = Reader(page(HOSTILE, [HOSTILE], sections))
    assert "".join(read.text).count(HOSTILE) == 11
    assert read.all("script") == []
    assert not any("onclick" in attributes for _, attributes in read.tags)


def test_a_page_without_figures_is_small_and_runs_nothing():
    html = page("A page", [], [Section("Empty")])
    assert len(html) < 10_000
    assert Reader(html).all("script") == []


def test_plotly_is_inlined_once_and_nothing_is_fetched():
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))
    html = page("Two figures", ["x"], [Section("a", figures=[figure]), Section("b", figures=[figure])])
    assert len(re.findall(r"Plotly\.newPlot\(", html)) >= 2
    assert len(html) < 1.5 * len(page("One", ["x"], [Section("a", figures=[figure])]))
    read = Reader(html)
    assert not any("src" in attributes for attributes in read.all("script"))
    assert [link["href"] for link in read.all("link")] == ["data:,"]
    [policy] = [meta["content"] for meta in read.all("meta") if "content-security-policy" in str(meta.values()).lower()]
    assert "default-src 'none'" in policy


def test_a_figure_keeps_its_own_layout_and_moves_only_when_asked():
    figure = go.Figure(go.Bar(y=[1]), dict(width=2000, margin_l=0), [go.Frame(data=[go.Bar(y=[2])], name="2")])
    html = page("A wide figure", [], [Section("a", figures=[figure])])
    assert '"l":0' in html and "addFrames" in html and "Plotly.animate(" not in html.split("addFrames")[-1]
    assert '<div class="wide"><div' in html  # it scrolls, the page does not


def test_numbers_are_set_flush_right_and_a_row_has_as_many_cells_as_the_head():
    html = Table(("what", "n"), [("fish", "12")], ("n",)).html()
    assert '<td class="">fish</td><td class="number">12</td>' in html
    with pytest.raises(ValueError, match="zip"):
        Table(("what", "n"), [("fish",)]).html()


def test_a_page_suits_a_phone_and_the_dark():
    html = page("A page", [], [])
    assert "width=device-width" in html and "prefers-color-scheme: dark" in html
