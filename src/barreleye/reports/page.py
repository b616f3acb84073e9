"""A report as one HTML file that needs nothing else: words, tables, figures and raw samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

# Read on light and on dark paper; the label under the pointer brings its own.
_LINE = "rgba(128,144,160,0.4)"
_AXIS = dict(gridcolor="rgba(128,144,160,0.2)", zeroline=False, linecolor=_LINE, ticks="", automargin=True)
FIGURE_STYLE = dict(
    layout=dict(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font=dict(family="system-ui, sans-serif", color="#7a8a99"),
        hoverlabel=dict(bgcolor="#16212c", font_color="#eef3f6", namelength=-1),
        colorway=("#2a8fc7", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#7a8a99"),
        legend=dict(orientation="h", y=1.02, yanchor="bottom"),
        margin=dict(l=60, r=16, t=24, b=48),
        xaxis=_AXIS,
        yaxis=_AXIS,
        sliderdefaults=dict(bordercolor=_LINE, tickcolor=_LINE, bgcolor="#7a8a99", activebgcolor="#2a8fc7"),
    )
)
"""A template of plotly: what a figure says of itself comes first."""


@dataclass(frozen=True)
class Table:
    """A row of headings, and rows of as many cells; the columns of `numbers` are set flush right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()

    def html(self) -> str:
        columns = ["number" if heading in self.numbers else "" for heading in self.headings]

        def line(tag: str, cells: Sequence[str]) -> str:
            pairs = zip(columns, cells, strict=True)
            return "".join(f'<{tag} class="{column}">{escape(cell)}</{tag}>' for column, cell in pairs)

        body = "".join(f"<tr>{line('td', row)}</tr>\n" for row in self.rows)
        head = f"<tr>{line('th', self.headings)}</tr>" if any(self.headings) else ""
        return f'<div class="wide"><table><thead>{head}</thead><tbody>\n{body}</tbody></table></div>'


@dataclass(frozen=True)
class Sample:
    """Something said, letter by letter: turns of (role, text), behind a label that opens it."""

    label: str
    turns: Sequence[tuple[str, str]]
    is_open: bool = False

    def html(self) -> str:
        turns = "".join(f'<div class="turn {escape(role)}">{escape(text)}</div>\n' for role, text in self.turns)
        return f"<details{' open' * self.is_open}><summary>{escape(self.label)}</summary>\n{turns}</details>"


@dataclass(frozen=True)
class Section:
    """A part of a report, in this order: what it says in words, its tables, its figures, its samples.

    figures: of plotly; their colours are set to be read on light and on dark paper.
    """

    title: str
    words: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Any] = ()
    samples: Sequence[Sample] = ()


def page(title: str, summary: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole file. All text is escaped; plotly's code is inlined once if there is a figure, and not otherwise."""
    template = Template(resources.files("barreleye.reports").joinpath("page.html").read_text(encoding="utf-8"))
    parts: list[str] = []
    has_plotly = False
    for section in sections:
        parts += [f"<section>\n<h2>{escape(section.title)}</h2>", _paragraphs(section.words, "note")]
        parts += [table.html() for table in section.tables]
        for figure in section.figures:
            parts.append(_figure(figure, include_plotlyjs=not has_plotly))
            has_plotly = True
        parts += [sample.html() for sample in section.samples]
        parts.append("</section>")
    return template.substitute(
        title=escape(title),
        summary=_paragraphs(summary),
        sections="\n".join(parts),
    )


def _paragraphs(lines: Sequence[str], kind: str = "") -> str:
    return "\n".join(f'<p class="{kind}">{escape(line)}</p>' for line in lines)


def _figure(figure: Any, include_plotlyjs: bool) -> str:
    figure.update_layout(template=FIGURE_STYLE)
    config = dict(displayModeBar=False, responsive=True)  # a drag still zooms in, a double click out
    html = figure.to_html(full_html=False, include_plotlyjs=include_plotlyjs, config=config, auto_play=False)
    return f'<div class="wide">{html}</div>'
