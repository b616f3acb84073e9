"""What the lens found, as tables and figures: for the terminal, and for `reports/look.html` of a run."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from barreleye.lens.address import head_address
from barreleye.lens.attention import MEANINGS, HeadScores
from barreleye.lens.attribution import Attribution, LogitLens, attribute, logit_lens
from barreleye.lens.gradients import gradient_x_input
from barreleye.lens.sweeps import Ablation
from barreleye.lens.view import View
from barreleye.reports.page import Section, Table

GUESSES = 3
PARTS = 12


def look_summary(view: View) -> list[str]:
    """What matters, in words."""
    said = ", ".join(f"{token!r} {p:.1%}" for token, p in view.top())
    loss = f"{view.loss:.3f} nats per token on {len(view.ids)} tokens. " if len(view.ids) > 1 else ""
    return [f"{loss}Most likely next: {said}."]


class Moment(NamedTuple):
    """What another model, or the same one at another step, made of a view's text: the probabilities of what the view
    finds likeliest next, and the logit lens."""

    probs_K: Tensor
    lens: LogitLens


def moment(view: View, of: View) -> Moment:
    likeliest_K = of.probs_TV[-1].topk(len(of.top())).indices
    return Moment(view.probs_TV[-1, likeliest_K], logit_lens(view, sublayers=True))


def look_sections(
    view: View, kinds: HeadScores, drawn: bool, past: Mapping[int, Moment] | None = None
) -> list[Section]:
    """Its tokens, heads, and how its first guess comes about; `drawn`: with figures, which take plotly. past: what
    the same model made of it on the way, by step."""
    best = int(view.logits_TV[-1].argmax())
    found = attribute(view, best)
    sections = [
        Section("Tokens", [_TOKENS_WORDS], [token_table(view)]),
        Section("Heads", _heads_words(kinds), [heads_table(kinds)]),
        Section(f"What makes the {found.of}", _parts_words(found), [parts_table(found.largest(PARTS))]),
    ]
    if not drawn:
        return sections
    from barreleye.lens import figures

    drawings = [
        [figures.token_figure(view)],
        [figures.attention_wall(view)],
        [figures.attribution_figure(found)],
    ]
    sections = [
        Section(section.title, section.words, section.tables, drawing)
        for section, drawing in zip(sections, drawings, strict=True)
    ]
    saliency = figures.saliency_figure(gradient_x_input(view, best))
    sections.append(Section("What each token did for it", [_SALIENCY_WORDS], figures=[saliency]))
    if not past:
        lens = figures.logit_lens_figure(view, logit_lens(view, sublayers=True))
        return [*sections, Section("Logit lens", [_LENS_WORDS], figures=[lens])]
    names = [token for token, _ in view.top()]
    learned = figures.timeline_figure({step: each.probs_K for step, each in past.items()}, names, "probability")
    lens = figures.slider({step: figures.logit_lens_figure(view, each.lens) for step, each in past.items()})
    return [
        *sections,
        Section("When it learned to say so", [_LEARNED_WORDS], figures=[learned]),
        Section("Logit lens, through time", [_LENS_WORDS, _SLIDER_WORDS], figures=[lens]),
    ]


def token_table(view: View) -> Table:
    """Each token, its surprise, and what was expected after it."""
    rows = [
        (
            str(t),
            token,
            "" if t == 0 else f"{bits:.2f}",
            f"{entropy:.2f}",
            " · ".join(f"{guess} {p:.0%}" for guess, p in view.top(t, GUESSES)),
        )
        for t, (token, bits, entropy) in enumerate(
            zip(view.tokens, view.surprise_T.tolist(), view.entropy_T.tolist(), strict=True)
        )
    ]
    numbers = ("", "surprise", "entropy after it")
    return Table(("", "token", "surprise", "entropy after it", "then"), rows, numbers)


def heads_table(kinds: HeadScores) -> Table:
    """Each head's kind and scores."""
    rows = [
        (head_address(layer, head), kind, *(f"{score_LH[layer, head]:.2f}" for score_LH in kinds.scores.values()))
        for layer, row in enumerate(kinds.kinds)
        for head, kind in enumerate(row)
    ]
    return Table(("head", "kind", *kinds.scores), rows, tuple(kinds.scores))


def parts_table(parts: list[tuple[str, float]]) -> Table:
    """What each part adds, the largest first."""
    return Table(("part", "adds"), [(name, f"{value:+.3f}") for name, value in parts], ("adds",))


def ablation_sections(found: Ablation, drawn: bool) -> list[Section]:
    """The rise of the loss without each part, the most useful first."""
    rises = {
        head_address(layer, head): rise
        for layer, row in enumerate(found.heads_LH.tolist())
        for head, rise in enumerate(row)
    }
    rises |= {f"blocks.{layer}.hook_mlp_out": rise for layer, rise in enumerate(found.mlps_L.tolist())}
    rows = [(name, f"{rise:+.4f}") for name, rise in sorted(rises.items(), key=lambda item: -item[1])]
    words = [f"By so much the loss, {found.loss:.4f} nats per token on {found.tokens:,} tokens, rises without it."]
    drawings = []
    if drawn:
        from barreleye.lens import figures

        words.append("The figure's colours go as far as the heads do; a feed-forward layer worth more is as full.")
        drawings.append(figures.ablation_figure(found))
    return [Section("What each part is worth", words, [Table(("without", "loss"), rows, ("loss",))], drawings)]


_TOKENS_WORDS = (
    "Surprise: -log2 of the probability that the token had, in bits. Entropy: how undecided the model is about the "
    "next one, in bits."
)
_SALIENCY_WORDS = "By gradient x input: to first order, what the token's being there adds to the logit."
_LENS_WORDS = (
    "The likeliest next token if the model ended there: first column the embedding, last column the model itself."
)
_LEARNED_WORDS = "How likely it was, at each recorded step, to go on as it would now."
_SLIDER_WORDS = "The slider goes back to any recorded step."


def _parts_words(found: Attribution) -> list[str]:
    parts = len(found.names)
    which = f"All {parts} sum to it; the {PARTS} largest are listed." if parts > PARTS else "They sum to it."
    return [f"What each part adds to the logit of the likeliest next token, the final norm's scale as it was. {which}"]


def _heads_words(kinds: HeadScores) -> list[str]:
    there = {kind for row in kinds.kinds for kind in row}
    meanings = "; ".join(f"{kind}: {meaning}" for kind, meaning in MEANINGS.items() if kind in there)
    return [f"Judged on random tokens that repeat, by the share of a head's attention. {meanings}."]
