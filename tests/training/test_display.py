import io

import pytest
from rich.console import Console

from barreleye.config import Config, TrainConfig
from barreleye.training.display import BARS, Display, describe, mean_of_last, sparkline

CONFIG = Config(train=TrainConfig(steps=100))
SCORE = {"loss": 1.25, "bits_per_byte": 0.9, "tokens": 10}


def line(step: int, loss: float = 2.0, grad_norm: float | None = 0.5) -> dict[str, object]:
    return {
        "step": step, "loss": loss, "rate": 0.5, "grad_norm": grad_norm, "tokens": step * 2048, "seconds": step * 0.5,
    }  # fmt: skip


def show(terminal: bool, lines: list[dict[str, object]], title: str = "sea", width: int = 100) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, highlight=False, color_system=None)
    with Display(CONFIG, title, console=console) as display:
        for each in lines:
            display.show(each)
    return file.getvalue()


def everything() -> list[dict[str, object]]:
    lines: list[dict[str, object]] = [{"step": 0, "held_out": {"all": SCORE, "replies": SCORE}}]
    lines += [
        {"step": 0, "samples": [{"prompt": "why [b]?", "reply": "be\ncause [red]"}, {"prompt": "x", "reply": ""}]}
    ]
    whole = {"step": 100, "held_out_whole": {"all": SCORE | {"loss": 1.5}, "replies": None}}
    finding = {"name": "bad", "evidence": "seen", "advice": "less", "is_note": False}
    return [*lines, *(line(step) for step in range(1, 101)), {"step": 100, "finding": finding}, whole]


def test_a_plain_log_is_about_twenty_lines_and_says_the_last() -> None:
    text = show(False, everything())
    rows = text.splitlines()
    assert rows[0] == "sea" and "\x1b" not in text
    steps = [row for row in rows if row.startswith("step ") and "tokens/s" in row]
    assert len(steps) == 20 and steps[-1].startswith("step 100/100  loss 2.000  4,096 tokens/s")
    assert "step 0: held-out replies: loss 1.2500, perplexity 3.49, 0.900 bits per byte" in rows
    assert "step 100: all of it: held-out text: loss 1.5000, perplexity 4.48, 0.900 bits per byte" in rows
    assert "step 100: doctor: bad: seen; try: less" in rows
    assert "  > why [b]?  ·  be cause [red]" in rows and "  > x  ·  (says nothing yet)" in rows


def test_utilization_is_a_share_of_the_peak() -> None:
    display = Display(CONFIG, "sea", peak=8192.0, console=Console(file=io.StringIO()))
    display.show(line(10))
    assert "4,096 tokens/s (50% MFU)" in display.figures()


def test_the_speed_is_that_of_recent_steps_without_the_pauses_between() -> None:
    display = Display(CONFIG, "sea", console=Console(file=io.StringIO()))
    for step in range(1, 31):
        display.show(line(step) | {"seconds": step * 0.5 + (60.0 if step > 25 else 0.0)})
    assert "4,096 tokens/s" in display.figures()


def test_a_terminal_shows_a_panel_and_is_given_back() -> None:
    text = show(True, everything())
    assert "100/100 steps" in text and "all of it: held-out text" in text and "be cause [red]" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden, and comes back


def test_a_terminal_is_given_back_after_an_error() -> None:
    file = io.StringIO()
    display = Display(CONFIG, "sea", console=Console(file=file, force_terminal=True, width=80))
    with pytest.raises(KeyboardInterrupt), display:
        raise KeyboardInterrupt
    assert file.getvalue().count("\x1b[?25h") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_brackets_in_a_name_are_shown_as_they_are(terminal: bool) -> None:
    assert "runs/[red]sea[/b]" in show(terminal, [line(1)], title="runs/[red]sea[/b]")


def test_before_the_first_step_there_are_no_figures() -> None:
    assert Display(CONFIG, "sea").figures() == "..."
    assert "100" in show(True, [])


def test_an_overflow_and_a_clock_that_stands_still() -> None:
    assert "gradient norm overflow" in show(False, [line(5, grad_norm=None)])
    assert "tokens/s" in show(False, [line(5) | {"seconds": 0.0}])


def test_scores() -> None:
    assert describe({"all": SCORE, "replies": None}).startswith("held-out text: loss 1.2500")
    assert "perplexity" in describe({"all": SCORE | {"loss": 1e6}, "replies": None})


@pytest.mark.parametrize("n", [2, 59, 60, 61, 119, 120, 5000])
def test_a_sparkline_fits_its_width_and_falls_with_the_loss(n: int) -> None:
    bars = sparkline([float(n - i) for i in range(n)])
    assert 2 <= len(bars) <= 60 and set(bars) <= set(BARS)
    assert bars[0] == BARS[-1] and bars[-1] == BARS[0]


def test_sparklines_of_little() -> None:
    assert sparkline([]) == sparkline([1.0]) == ""
    assert sparkline([1.0, 1.0]) == BARS[0] * 2
    assert mean_of_last([]) == 0 and mean_of_last([1.0, 2.0, 3.0], 2) == 2.5
