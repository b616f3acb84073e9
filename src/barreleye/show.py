"""Tables for the terminal: what the command line prints of counts, runs and character sheets."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from barreleye.config import ModelConfig, TrainConfig
from barreleye.data.chat_format import Conversation
from barreleye.data.persona_check import PersonaCheck
from barreleye.data.sheet import Persona
from barreleye.reports.page import Section
from barreleye.run import Run, latest_score

if TYPE_CHECKING:  # a list of runs or characters does not wait for torch
    from barreleye.export.check import Parity
    from barreleye.model.count import Count
    from barreleye.training.record import Finding

PIPE_WIDTH = 10_000  # a pipe or a file gets each line whole


def screen() -> Console:
    """Standard output, printed to as it is: what a person named [so] is no markup."""
    plain = Console(highlight=False, markup=False, emoji=False)
    if not plain.is_terminal:
        plain.width = PIPE_WIDTH
    return plain


def table_of(*headings: str, numbers: Sequence[str] = (), title: str | None = None) -> Table:
    """An empty table; the columns of `numbers` are set flush right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        number = heading in numbers
        table.add_column(heading, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def count_table(name: str, model: ModelConfig, train: TrainConfig, count: "Count") -> None:
    """Every component of a model, then FLOPs and memory."""
    from barreleye.model.huggingface import architecture

    title = f"{name}: {count.parameters:,} parameters ({architecture(model)})"
    numbers = ("shape", "copies", "parameters", "share")
    table = table_of("component", *numbers, numbers=numbers, title=title)
    for part in count.components:
        shape = " x ".join(f"{n:,}" for n in part.shape)
        share = f"{part.parameters / count.parameters:.1%}"
        table.add_row(part.name, shape, str(part.copies), f"{part.parameters:,}", share)
    console = screen()
    console.print(table)
    facts = {
        "vocabulary": f"{model.vocab_size:,}",
        "context": f"{model.context_length:,} tokens",
        "FLOPs per token": f"{millions(count.flops_forward)} forward, {millions(count.flops_training)} to train",
        "memory in float32": "",
        "  weights": mebibytes(count.weight_bytes),
        "  gradients": mebibytes(count.gradient_bytes),
        f"  optimizer, {train.optimizer}": mebibytes(count.optimizer_bytes),
        f"  activations of {train.batch_tokens:,} tokens": mebibytes(count.activation_bytes),
        "  key/value cache": mebibytes(count.cache_bytes),
    }
    console.print(pairs(facts))


def runs_table(runs: Sequence[Run]) -> None:
    """The runs of a folder, and how far each has come."""
    if not runs:
        screen().print("no runs here yet; `barreleye train` grows one")
        return
    numbers = ("model", "step", "loss", "held out")
    table = table_of("run", "learned from", *numbers, "", numbers=numbers)
    for run in runs:
        lines = run.metrics()
        losses = [line["loss"] for line in lines if "loss" in line]
        scores = latest_score(lines)
        score = (scores["replies"] or scores["all"]) if scores else None
        model, data = run.config.model, run.config.data
        state = "learning" if run.is_live else "" if run.step >= run.config.train.steps else "stopped"
        table.add_row(
            run.name,
            f"{data.kind} {', '.join(Path(source).name for source in data.sources)}",
            f"{model.n_layers} x {model.d_model}",
            f"{run.step}/{run.config.train.steps}",
            f"{losses[-1]:.3f}" if losses else "",
            f"{score['loss']:.3f}" if score else "",
            state,
        )
    screen().print(table)


def personas_table(personas: Iterable[tuple[str, Persona]]) -> None:
    """The characters that there are, and what they are like."""
    screen().print(pairs({name: persona.description for name, persona in personas}))


def show_conversations(conversations: Iterable[Conversation]) -> None:
    """Each conversation under its topic: what is asked after `>`, what is answered below it."""
    console = screen()
    for conversation in conversations:
        console.print(Text(f"-- {conversation.topic}", "dim"))
        for message in conversation.messages:
            asked = message.role == "user"
            # Where a line is wrapped, it goes on below its own beginning.
            line = Table.grid()
            line.add_row("> " if asked else "  ", Text(message.content, "bold" if asked else ""))
            console.print(line)


def persona_report(check: PersonaCheck) -> None:
    """What a character sheet can say, how it talks, and what is worth another look."""
    console = screen()
    console.print(Text(check.name, "bold"))
    counts = {
        "topics": f"{check.topics:,}",
        "asks": f"{check.asks:,}, which make {check.prompts:,} prompts",
        "replies": f"{check.replies:,}, which make {check.reply_texts:,} texts",
        "conversations": f"about {check.conversations:,} of one exchange, and those of several",
    }
    if check.routed is not None:
        counts["key words"] = f"{check.routed:.0%} of the asks, left out, are found by the other asks of their topic"
    console.print(Padding(pairs(counts), (0, 0, 0, 2), expand=False))
    console.print()
    show_conversations(check.samples)
    console.print()
    for stray in check.strays:
        console.print(stray, style="dim")
    for finding in check.findings:
        console.print(finding, style="yellow")
    findings = {0: "no finding: the sheet is in order", 1: "1 finding"}
    console.print(Text(findings.get(len(check.findings), f"{len(check.findings):,} findings"), "bold"))


def show_findings(findings: Sequence["Finding"], unseen: Sequence[str], usual: str) -> None:
    """What the doctor found, the cause first: what it is, how one can see it, what to try. `unseen`: what it could not
    look at; `usual`: whether the loss is what it usually is."""
    console = screen()
    for finding in findings:
        console.print(Text(f"note: {finding.name}" if finding.is_note else finding.name, "bold"))
        console.print(Padding(pairs({"seen": finding.evidence, "try": finding.advice}), (0, 0, 0, 2), expand=False))
    for limit in unseen:
        console.print(limit)
    if not unseen and all(finding.is_note for finding in findings):
        console.print("nothing is wrong, as far as the record shows")
    console.print(usual)


def parity_table(name: str, rows: "Sequence[Parity]") -> None:
    """What other programs compute with a run's exports, a line for each format."""
    numbers = ("logits differ by", "same token", "same ids", "size", "loads in", "tokens/s")
    table = table_of("format", "program", *numbers, numbers=numbers, title=f"{name}, beside torch")
    for row in rows:
        if row.problem:
            table.add_row(row.format, row.program, *["-"] * len(numbers))
            continue
        ids = "-" if row.same_ids is None else f"{row.same_ids:.1%}"
        agreement = f"{row.agreement:.1%} of {row.compared:,}"
        figures = (f"{row.difference:.1e}", agreement, ids, mebibytes(row.size), f"{row.load_seconds:.2f} s")
        table.add_row(row.format, row.program, *figures, f"{row.tokens_per_second:,.0f}")
    console = screen()
    console.print(table)
    for row in rows:
        if row.problem:
            console.print(f"{row.format}, {row.program}: {row.problem}")


def show_report(summary: Iterable[str], sections: Iterable[Section]) -> None:
    """The words and tables of a report; figures and samples are for its page."""
    console = screen()
    for line in summary:
        console.print(line)
    for section in sections:
        if section.tables:
            console.print(Text(f"\n{section.title}", "bold"))
            console.print(Text("\n".join(section.words), "dim"))
        for table in section.tables:
            printed = table_of(*table.headings, numbers=table.numbers)
            for row in table.rows:
                printed.add_row(*map(Text, row))
            console.print(printed)


def pairs(facts: dict[str, str]) -> Table:
    """Names and what is to be said of them, in two columns."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, fact in facts.items():
        table.add_row(Text(name, "bold" if fact else ""), fact)
    return table


def mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def millions(number: int) -> str:
    return f"{number / 1e6:,.1f} million"
