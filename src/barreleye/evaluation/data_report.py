"""What a run learned from, measured: how much, how long, how often the same thing, and how clean the split is."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from barreleye.data.chat_format import Conversation, encode_chats
from barreleye.data.dress import normalize
from barreleye.data.near import near_across, near_duplicates
from barreleye.data.split import overlap, scored_prompts
from barreleye.data.tokenizer import Tokenizer
from barreleye.files import to_json, write_file
from barreleye.reports.page import Sample, Section, Table, page
from barreleye.run import Run

NEAR = 0.8  # of the 3-character shingles in common
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
QUANTILE_NAMES = ("shortest", "5%", "25%", "median", "75%", "95%", "99%", "longest")
TOPICS_SHOWN, LONGEST_SHOWN, PAIRS_SHOWN = 20, 5, 20
PAIRS_EACH = 20  # earlier conversations that one is compared with: of a thousand alike, not all half a million pairs


@dataclass(frozen=True)
class Side:
    """Figures of one set of conversations.

    multi_turn: share with two exchanges or more. prompts, replies: distinct ones, normalized. tokens: with those of
    the chat format. bytes: of what is said, in UTF-8; bytes_per_token: of what is said, by the run's tokenizer.
    lengths: quantile -> tokens of a conversation. beyond_context: conversations longer than the model can see.
    """

    conversations: int
    exchanges: int
    multi_turn: float
    prompts: int
    replies: int
    tokens: int
    bytes: int
    bytes_per_token: float
    lengths: dict[str, int]
    beyond_context: int


@dataclass(frozen=True)
class Near:
    """Two texts that are almost the same. likeness: the Jaccard index of their 3-character shingles."""

    one: str
    other: str
    likeness: float


@dataclass(frozen=True)
class DataReport:
    """What `barreleye data report` says; `reports/data.json` holds the same.

    same_in_training: conversations that, normalized, repeat an earlier one. near_in_training: conversations that have
    a near duplicate among the other distinct ones. overlap: held-out prompts (shared follow-ups aside) that training
    has too, normalized: 0, or the split is broken. near_across: held-out prompts that are nearly one of training's.
    """

    run: str
    kind: str
    sources: list[str]
    split: str
    sides: dict[str, Side]
    same_in_training: int
    near_in_training: int
    near_pairs: list[Near]
    overlap: int
    held_out_prompts: int
    near_across: int
    near_across_pairs: list[Near]
    topics: dict[str, int]
    longest: list[list[tuple[str, str]]]
    duplicates_dropped: int
    held_out_dropped: int
    rows: int
    rows_left_out_count: int
    rows_left_out: list[dict[str, Any]]


def data_report(run: Run) -> DataReport:
    """Measure what a run learned from, both sides. Raises ValueError for a run that learned plain text.

    Near duplicates are looked for among whole conversations in training, and among prompts across the split.
    """
    corpus = run.corpus()
    train, held_out = corpus.train, [*corpus.held_out, *corpus.unseen_topics]
    if isinstance(train, str):
        raise ValueError(f"{run.path} learned plain text; a data report is of chats (data/report.json has its split)")
    sides: dict[str, Any] = {"train": train, "held_out": corpus.held_out}
    sides |= {name: side for name in ("unseen_topics", "unseen_rows") if (side := getattr(corpus, name))}
    context = run.config.model.context_length
    texts = ["\n".join(normalize(m.content) for m in c.messages if m.role != "system") for c in train]
    distinct = list(dict.fromkeys(texts))
    known = list({normalize(m.content): None for c in train for m in c.messages if m.role == "user"})
    unseen = list({prompt: None for c in held_out for prompt in scored_prompts(c)})
    try:
        pairs, across = near_duplicates(distinct, NEAR, most=PAIRS_EACH), near_across(unseen, known, NEAR)
    except ImportError:
        raise ValueError("a data report needs datasketch; pip install 'barreleye[report]'") from None
    return DataReport(
        run=run.name,
        kind=run.config.data.kind,
        sources=run.config.data.sources,
        split=corpus.report["split"],
        sides={name: measure(side, run.tokenizer, context) for name, side in sides.items()},
        same_in_training=len(texts) - len(distinct),
        near_in_training=len({i for *both, _ in pairs for i in both}),
        near_pairs=[Near(distinct[i], distinct[j], likeness) for i, j, likeness in _likest(pairs)],
        overlap=len(overlap(train, held_out)),
        held_out_prompts=len(unseen),
        near_across=len(across),
        near_across_pairs=[Near(unseen[i], known[j], likeness) for i, j, likeness in _likest(across)],
        topics=dict(Counter(c.topic for c in train if c.topic).most_common()),
        longest=[[(m.role, m.content) for m in c.messages] for c in _longest(train)],
        duplicates_dropped=corpus.report.get("duplicates_dropped", 0),
        held_out_dropped=corpus.report.get("held_out_dropped", 0),
        rows=corpus.report.get("rows", 0),
        rows_left_out_count=corpus.report.get("rows_left_out_count", 0),
        rows_left_out=corpus.report.get("rows_left_out", []),
    )


def measure(conversations: Sequence[Conversation], tokenizer: Tokenizer, context: int) -> Side:
    """Figures of one or more conversations."""
    messages = [m for c in conversations for m in c.messages]
    said = [m.content.strip() for m in messages]
    turns = [sum(m.role == "user" for m in c.messages) for c in conversations]
    lengths = [len(ids) for ids, _ in encode_chats(conversations, tokenizer)]
    distinct = list(dict.fromkeys(said))
    tokens_of = {text: len(ids) for text, ids in zip(distinct, tokenizer.encode_batch(distinct), strict=True)}
    size = sum(len(text.encode()) for text in said)
    quantiles = np.quantile(lengths, QUANTILES, method="nearest").tolist()
    return Side(
        conversations=len(conversations),
        exchanges=sum(turns),
        multi_turn=sum(n > 1 for n in turns) / len(turns),
        prompts=len({normalize(m.content) for m in messages if m.role == "user"}),
        replies=len({normalize(m.content) for m in messages if m.role == "assistant"}),
        tokens=sum(lengths),
        bytes=size,
        bytes_per_token=size / sum(tokens_of[text] for text in said),
        lengths=dict(zip(QUANTILE_NAMES, quantiles, strict=True)),
        beyond_context=sum(length > context for length in lengths),
    )


def write_data_report(run: Run, report: DataReport) -> Path:
    """`reports/data.json` and `reports/data.html`; the path of the page."""
    folder = run.path / "reports"
    folder.mkdir(exist_ok=True)
    write_file(folder / "data.json", to_json(dataclasses.asdict(report)))
    html = page(f"What {run.name} learned from", summary(report), sections(report))
    write_file(folder / "data.html", html.encode())
    return folder / "data.html"


def summary(report: DataReport) -> list[str]:
    """What matters, in words."""
    train = report.sides["train"]
    near = report.near_across / max(1, report.held_out_prompts)
    words = [
        f"{train.conversations:,} conversations to learn from ({report.kind} {', '.join(report.sources)}), "
        f"{train.multi_turn:.0%} of them with several exchanges; {train.prompts:,} distinct prompts, "
        f"{train.replies:,} distinct replies.",
        f"Split {report.split}: {report.overlap:,} of {report.held_out_prompts:,} held-out prompts are in training "
        f"too{', as it must be' if report.overlap == 0 else ': this split is broken'}; {report.near_across:,} "
        f"({near:.1%}) are nearly one that is.",
        f"In training, {report.same_in_training:,} conversations repeat another but for case and punctuation, and "
        f"{report.near_in_training:,} ({report.near_in_training / train.conversations:.1%}) are nearly another.",
    ]
    if report.duplicates_dropped or report.held_out_dropped:
        words.append(
            f"Before the split {report.duplicates_dropped:,} exact duplicates were dropped; after it, "
            f"{report.held_out_dropped:,} held-out conversations that repeat a prompt of training later on."
        )
    if report.rows:
        words.append(f"{report.rows_left_out_count:,} of {report.rows:,} rows did not fit and were left out.")
    return words


def sections(report: DataReport) -> list[Section]:
    """Its tables and samples, for the terminal and the page."""
    names = [name.replace("_", " ") for name in report.sides]
    sides = report.sides.values()
    counts = [
        ("conversations", [f"{side.conversations:,}" for side in sides]),
        ("exchanges", [f"{side.exchanges:,}" for side in sides]),
        ("with several exchanges", [f"{side.multi_turn:.1%}" for side in sides]),
        ("distinct prompts, normalized", [f"{side.prompts:,}" for side in sides]),
        ("distinct replies, normalized", [f"{side.replies:,}" for side in sides]),
        ("tokens, with the chat format", [f"{side.tokens:,}" for side in sides]),
        ("bytes of what is said", [f"{side.bytes:,}" for side in sides]),
        ("bytes per token", [f"{side.bytes_per_token:.2f}" for side in sides]),
    ]
    lengths = [(name, [f"{side.lengths[name]:,}" for side in sides]) for name in QUANTILE_NAMES]
    lengths.append(("longer than the model can see", [f"{side.beyond_context:,}" for side in sides]))
    all_topics = sum(report.topics.values())
    topics = [(name, f"{n:,}", f"{n / all_topics:.1%}") for name, n in list(report.topics.items())[:TOPICS_SHOWN]]
    longest = [Sample(f"{sum(len(text) for _, text in turns):,} characters", turns) for turns in report.longest]
    found = [
        Section("Size", tables=[Table(("", *names), [(name, *cells) for name, cells in counts], names)]),
        Section(
            "Length of a conversation, in tokens",
            tables=[Table(("", *names), [(name, *cells) for name, cells in lengths], names)],
        ),
    ]
    if topics:
        few = (
            f" (the {TOPICS_SHOWN} most frequent of {len(report.topics)})" if len(report.topics) > TOPICS_SHOWN else ""
        )
        table = Table(("topic", "conversations", "share"), topics, ("conversations", "share"))
        found.append(Section(f"Topics in training{few}", tables=[table]))
    for title, headings, pairs in (
        ("Most alike across the split", ("held-out prompt", "prompt in training"), report.near_across_pairs),
        ("Most alike in training", ("one conversation", "another"), report.near_pairs),
    ):
        rows = [(pair.one, pair.other, f"{pair.likeness:.2f}") for pair in pairs]
        if rows:
            words = [f"Normalized; alike are texts that share {NEAR:.0%} of their 3-character pieces or more."]
            found.append(Section(title, words, [Table((*headings, "alike"), rows, ("alike",))]))
    if report.rows_left_out:
        places = [(f"{row['file']}:{row['line']}", row["reason"]) for row in report.rows_left_out]
        more = f" (the first {len(places)})" if report.rows_left_out_count > len(places) else ""
        found.append(Section(f"Rows left out{more}", tables=[Table(("row", "reason"), places)]))
    return [*found, Section("The longest conversations", samples=longest)]


def _likest(pairs: Sequence[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    return sorted(pairs, key=lambda pair: -pair[2])[:PAIRS_SHOWN]


def _longest(conversations: Sequence[Conversation]) -> list[Conversation]:
    return sorted(conversations, key=lambda c: -sum(len(m.content) for m in c.messages))[:LONGEST_SHOWN]
