"""Tables for the terminal: what the command line prints of counts, runs and character sheets."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from barreleye.config import ModelConfig, TrainConfig
from barreleye.data.persona import PersonaCheck
from barreleye.model.count import Count
from barreleye.model.huggingface import architecture
from barreleye.run import Run


def count_table(name: str, model: ModelConfig, train: TrainConfig, count: Count) -> None:
    """Every component of a model, then FLOPs and memory."""
    table = Table(title=f"{name}: {count.parameters:,} parameters ({architecture(model)})")
    for heading in ("component", "shape", "copies", "parameters", "share"):
        table.add_column(heading, justify="left" if heading == "component" else "right")
    for part in count.components:
        shape = " x ".join(f"{n:,}" for n in part.shape)
        share = f"{part.parameters / count.parameters:.1%}"
        table.add_row(part.name, shape, str(part.copies), f"{part.parameters:,}", share)
    console = Console()
    console.print(table)
    console.print(f"vocabulary {model.vocab_size:,}, context {model.context_length:,}")
    console.print(
        f"FLOPs per token: {count.flops_forward / 1e6:,.1f} million forward, {count.flops_training / 1e6:,.1f} to train"
    )
    memory = {
        "weights": count.weight_bytes,
        "gradients": count.gradient_bytes,
        f"optimizer ({train.optimizer})": count.optimizer_bytes,
        f"activations of {train.batch_tokens:,} tokens": count.activation_bytes,
        "key/value cache": count.cache_bytes,
    }
    console.print("memory in float32: " + ", ".join(f"{what} {size / 2**20:,.1f} MiB" for what, size in memory.items()))


def runs_table(runs: Sequence[Run]) -> None:
    """The runs of a folder, and how far each has come."""
    table = Table()
    for heading in ("run", "learned from", "model", "step", "loss", "held out", ""):
        table.add_column(heading)
    for run in runs:
        lines = run.metrics()
        losses = [line["loss"] for line in lines if "loss" in line]
        scores = [line["held_out"] for line in lines if "held_out" in line]
        score = (scores[-1]["replies"] or scores[-1]["all"]) if scores else None
        model, data, live = run.config.model, run.config.data, run.is_live
        state = "learning" if live else "" if run.step >= run.config.train.steps else "stopped"
        table.add_row(
            run.name,
            f"{data.kind} {data.source}",
            f"{model.n_layers} x {model.d_model}",
            f"{run.step}/{run.config.train.steps}",
            f"{losses[-1]:.3f}" if losses else "",
            f"{score['loss']:.3f}" if score else "",
            state,
        )
    Console().print(table if runs else "no runs here yet; `barreleye train` grows one")


def persona_report(check: PersonaCheck) -> None:
    """What a character sheet holds, and what is worth another look."""
    console = Console(highlight=False)
    console.print(check)
