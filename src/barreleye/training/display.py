"""What a person sees while a model learns: a live panel on a terminal, plain lines elsewhere."""

import math
import statistics
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from barreleye.config import Config

BARS = "▁▂▃▄▅▆▇█"
RECENT = 20  # steps that the figures are of
PLAIN_LINES = 20  # a plain log shows about this many steps


class Display:
    """Shows the recorder's lines. Use as a context: the terminal is given back at the end.

    peak: tokens per second if the device did nothing but the model's matrix products, at their best. What is reached of
    it is the model FLOPs utilization (Chowdhery et al. 2022, PaLM, appendix B; attention's own products not counted).
    """

    def __init__(
        self, config: Config, title: str, start: int = 0, peak: float = math.inf, console: Console | None = None
    ) -> None:
        self.steps, self.title, self.peak = config.train.steps, title, peak
        self.console = console or Console(highlight=False, emoji=False)
        self.losses: list[float] = []
        self.speeds: list[float] = []  # tokens per second, of each step
        self.latest: dict[str, Any] = {}
        self.held_out = ""
        self.samples: list[dict[str, str]] = []
        self.findings: list[str] = []
        self.progress = Progress(
            TextColumn("{task.completed}/{task.total} steps"), BarColumn(None), TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(), console=self.console,
        )  # fmt: skip
        self.task = self.progress.add_task("", total=self.steps, completed=start)
        self.live = Live(console=self.console, refresh_per_second=4, get_renderable=self.render)
        self.on_terminal = self.console.is_terminal

    def __enter__(self) -> Self:
        if self.on_terminal:
            self.live.start()
        else:
            self.console.print(Text(self.title), soft_wrap=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.on_terminal:
            self.live.stop()

    def show(self, line: dict[str, Any]) -> None:
        """Take in one line of the record."""
        if "loss" in line:
            before = self.latest or {"tokens": 0, "seconds": 0.0}
            spent = line["seconds"] - before["seconds"]
            self.speeds.append((line["tokens"] - before["tokens"]) / max(spent, 1e-9))
            self.losses.append(line["loss"])
            self.latest = line
            self.progress.update(self.task, completed=line["step"])
            every = max(1, self.steps // PLAIN_LINES)
            if not self.on_terminal and (line["step"] % every == 0 or line["step"] == self.steps):
                self.console.print(self.figures(), soft_wrap=True)
        elif score := line.get("held_out") or line.get("held_out_whole"):
            self.held_out = ("all of it: " if "held_out_whole" in line else "") + describe(score)
            if not self.on_terminal:
                self.console.print(f"step {line['step']}: {self.held_out}", soft_wrap=True, markup=False)
        elif "samples" in line:
            self.samples = line["samples"]
            if not self.on_terminal:
                for sample in self.samples:
                    self.console.print(f"  {as_line(sample)}", soft_wrap=True, markup=False)
        elif "finding" in line:
            found = line["finding"]
            who = "note" if found["is_note"] else "doctor"
            self.findings.append(f"{who}: {found['name']}: {found['evidence']}; try: {found['advice']}")
            if not self.on_terminal:
                self.console.print(f"step {line['step']}: {self.findings[-1]}", soft_wrap=True, markup=False)

    def figures(self) -> str:
        line = self.latest
        if not line:
            return "..."
        speed = statistics.median(self.speeds[-RECENT:])  # the pauses for looks and saves are not the training's
        utilization = f" ({speed / self.peak:.0%} MFU)" if self.peak < math.inf else ""
        norm = "overflow" if line["grad_norm"] is None else f"{line['grad_norm']:.2f}"
        return (
            f"step {line['step']}/{self.steps}  loss {mean_of_last(self.losses):.3f}"
            f"  {speed:,.0f} tokens/s{utilization}  rate {line['rate']:.0%} of peak  gradient norm {norm}"
        )

    def render(self) -> Panel:
        parts: list[Any] = [
            self.progress,
            Text(self.figures()),
            Text("loss " + sparkline(self.losses), style="cyan"),
        ]
        if self.held_out:
            parts.append(Text(self.held_out, style="green"))
        parts += [Text(as_line(sample), style="italic") for sample in self.samples]
        parts += [Text(finding, style="yellow") for finding in self.findings]
        return Panel(Group(*parts), title=Text(self.title), border_style="blue")


def describe(held_out: dict[str, Any]) -> str:
    """A held-out score in a line."""
    score, name = (
        (held_out["replies"], "held-out replies") if held_out["replies"] else (held_out["all"], "held-out text")
    )
    perplexity = math.exp(min(score["loss"], 700))
    return f"{name}: loss {score['loss']:.4f}, perplexity {perplexity:.2f}, {score['bits_per_byte']:.3f} bits per byte"


def as_line(sample: dict[str, str]) -> str:
    reply = " ".join(sample["reply"].split())
    return f"> {sample['prompt']}  ·  {reply or '(says nothing yet)'}"


def mean_of_last(values: list[float], n: int = RECENT) -> float:
    recent = values[-n:]
    return sum(recent) / max(1, len(recent))


def sparkline(values: list[float], width: int = 60) -> str:
    """The course of a loss in one line of bars."""
    if len(values) < 2:
        return ""
    per_bar = -(-len(values) // width)
    means = [mean_of_last(values[i : i + per_bar], per_bar) for i in range(0, len(values), per_bar)]
    low, high = min(means), max(means)
    return "".join(BARS[int((v - low) / max(high - low, 1e-9) * (len(BARS) - 1))] for v in means)
