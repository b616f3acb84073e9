"""The model card: what a run is, in figures of its own, for whoever finds its model folder."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from barreleye.config import Config, DataConfig, TrainConfig
from barreleye.data.corpus import parse_mix
from barreleye.model.count import count
from barreleye.model.huggingface import architecture

SAMPLES = 3
Json = dict[str, Any]


def card_of(
    name: str,
    config: Config,
    chats: bool,
    *,
    lines: Sequence[Json] = (),
    split: Json | None = None,
    evaluation: Json | None = None,
    data_set: str = "",
) -> str:
    """Markdown with the metadata that the Hugging Face Hub reads. chats: whether it has a chat template.

    lines: the record of its training. split: the report on what it learned from. evaluation: what `barreleye eval`
    found. data_set: the name on the Hub of what it learned from."""
    model = config.model
    kind, counted = architecture(model), count(model)
    positions = {"learned": "learned positions", "none": "no positions"}.get(
        model.positions, f"{model.positions} positions"
    )
    rows = {
        "parameters": f"{counted.parameters:,}",
        "shape": f"{model.n_layers} layers, width {model.d_model}, {model.n_heads} heads "
        f"({model.kv_heads} for keys and values), feed-forward {model.d_ff}, context {model.context_length}",
        "parts": f"{positions}, {model.norm}, {model.activation}"
        f"{', queries and keys normalized' if model.qk_norm else ''}",
        "kind": f"`{kind}`" + ("" if kind == "barreleye" else ", as transformers knows it"),
        "tokens": f"{model.vocab_size:,}",
    }
    return "\n".join(
        [
            _metadata(chats, kind != "barreleye", data_set),
            f"# {name}",
            "",
            _origin(config.data),
            "",
            *_table(rows),
            *_training(config.train, lines, split or {}),
            *_evaluation(evaluation or {}),
            *_samples(lines),
            *_use(chats, kind),
        ]
    )


def _metadata(chats: bool, loads: bool, data_set: str) -> str:
    """YAML; what a person named is written as JSON, which YAML reads."""
    tags = ["barreleye", *(["conversational"] if chats else [])]
    return "\n".join(
        [
            "---",
            *(["library_name: transformers"] if loads else []),
            "pipeline_tag: text-generation",
            f"tags: {json.dumps(tags)}",
            *([f"datasets: {json.dumps([data_set])}"] if data_set else []),
            "---",
            "",
        ]
    )


def _origin(data: DataConfig) -> str:
    names = ", ".join(map(_name, data.sources))
    if data.kind == "import":
        return f"A language model imported into Barreleye from {names}; its training is not known here."
    if data.kind == "mix":
        names = ", ".join(f"{_name(sheet)} {share:.0%}" for sheet, share in parse_mix(data.source).items())
    made = {
        "persona": f"the character sheet {names}",
        "mix": f"several character sheets ({names})",
        "text": f"a text ({names})",
        "chats": f"chats ({names})",
    }
    start = f", starting from the weights of {_name(data.from_run)}" if data.from_run else ", from scratch"
    return f"A small language model grown with Barreleye on {made[data.kind]}{start}."


def _name(source: str) -> str:
    """Not where a file lay on the machine that it came from."""
    name = Path(source).name
    return name if name not in ("", "..") else "a folder"


def _training(train: TrainConfig, lines: Sequence[Json], split: Json) -> list[str]:
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return []
    rows = {
        "steps": f"{steps[-1]['step']:,}" + (f" of {train.steps:,}" if steps[-1]["step"] < train.steps else ""),
        "tokens a step": f"{train.batch_tokens * train.accumulate:,}",
        "optimizer": f"{train.optimizer}, peak rate "
        + (
            f"{train.muon_rate:g} (matrices), {train.learning_rate:g} (the rest)"
            if train.optimizer == "muon"
            else f"{train.learning_rate:g}"
        )
        + f", {train.schedule} schedule, {train.warmup_steps} steps of warm-up",
        "computed on": f"{train.device} in {train.precision}, {steps[-1]['seconds'] / 60:.1f} minutes",
        "seed": str(train.seed),
    }
    scores = [line for line in lines if "held_out" in line]
    if scores:
        last = scores[-1]
        for part, name in (("all", "held out, all tokens"), ("replies", "held out, replies to unseen prompts")):
            if score := last["held_out"][part]:
                rows[name] = (
                    f"loss {score['loss']:.3f}, {score['bits_per_byte']:.3f} bits per byte "
                    f"({score['tokens']:,} tokens, step {last['step']:,})"
                )
    return ["", "## Training", "", *_table(rows), *_split(split)]


def _split(report: Json) -> list[str]:
    """How much there was on each side, of what was learned from."""
    sizes = {key: report[key] for key in sorted(report) if type(report[key]) is int}
    return (
        ["", "The split: " + "; ".join(f"{key.replace('_', ' ')} {n:,}" for key, n in sizes.items()) + "."]
        if sizes
        else []
    )


def _evaluation(found: Json) -> list[str]:
    """The figures of `barreleye eval`, where it was asked for."""
    try:
        rows = {
            f"bits per byte, {name}": _interval(scored["model"])
            for name, scored in found["parts"]["scores"]["sets"].items()
        }
        for name, manner in found["parts"].get("manners", {}).items():
            rows[f"{name}, in character"] = _interval(manner["in_character"]["share"])
            rows[f"{name}, on the topic asked"] = _interval(manner["relevance"]["share"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return ["", "## Evaluation", "", "`barreleye eval`; in brackets the bootstrap 95% interval.", "", *_table(rows)]


def _interval(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _samples(lines: Sequence[Json]) -> list[str]:
    said = [line["samples"] for line in lines if line.get("samples")]
    shown = [f"> {_quoted(s['prompt'])}\n\n{_quoted(s['reply'])}\n" for s in said[-1][:SAMPLES]] if said else []
    return ["", "## Samples", "", *shown] if shown else []


def _quoted(text: str) -> str:
    """In one line, as code: what a model says is no markup."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if text else "(nothing)"


def _use(chats: bool, kind: str) -> list[str]:
    if kind == "barreleye":
        return ["", "No class of transformers computes this model; Barreleye loads it from its run folder."]
    asked = '[{"role": "user", "content": "hello"}]' if chats else '"\\n"'
    return [
        "",
        "## Use",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        'talk = pipeline("text-generation", model=".")  # this folder, or its name on the Hub',
        f"print(talk({asked}, max_new_tokens=64))",
        "```",
        "",
    ]


def _table(rows: dict[str, str]) -> list[str]:
    def cell(text: str) -> str:
        return " ".join(text.split()).replace("|", "\\|")

    return ["| | |", "|---|---|", *(f"| {cell(name)} | {cell(value)} |" for name, value in rows.items())]
