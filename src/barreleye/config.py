"""Every knob in one place: frozen dataclasses, presets, TOML in and out.

The command line's options, the run folder's `config.toml` and the keyword arguments of `grow` are all generated from
these fields; a knob is declared once, with its help and its limits.
"""

import dataclasses
import difflib
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def knob(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that knows its own help and limits."""
    return field(default=default, metadata={"help": help, "least": least, "most": most, "choices": choices})


class Knobs:
    """Checks every field's type and limits on construction, and says which knob is wrong and what it accepts."""

    def __post_init__(self) -> None:
        for knob_field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, knob_field.name)
            if knob_field.type is float and type(value) is int and abs(value) < 2**63:
                value = float(value)
                object.__setattr__(self, knob_field.name, value)
            check_knob(knob_field, value)


def check_knob(knob_field: "dataclasses.Field[Any]", value: Any) -> None:
    name, meta = knob_field.name, knob_field.metadata
    if type(value) is not knob_field.type:
        raise ValueError(f"{name} must be {knob_field.type.__name__}, not {value!r}")  # type: ignore[union-attr]
    if meta["choices"] and value not in meta["choices"]:
        raise ValueError(f"{name} cannot be {value!r}; choose one of: {', '.join(meta['choices'])}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value}")
    if meta["least"] is not None and value < meta["least"]:
        raise ValueError(f"{name} must be at least {meta['least']}, not {value}")
    if meta["most"] is not None and value > meta["most"]:
        raise ValueError(f"{name} must be at most {meta['most']}, not {value}")


@dataclass(frozen=True)
class ModelConfig(Knobs):
    """The shape of a model. The default is GPT-2's block, four of them: what `GPT2LMHeadModel` computes."""

    n_layers: int = knob(4, "transformer blocks", least=1, most=1000)
    n_heads: int = knob(6, "attention heads", least=1, most=1000)
    n_kv_heads: int = knob(0, "key/value heads shared by the query heads (0: as many as heads)", least=0, most=1000)
    d_model: int = knob(384, "width of the residual stream", least=1, most=100_000)
    head_dim: int = knob(0, "channels per head (0: d_model / n_heads)", least=0, most=10_000)
    d_ff: int = knob(1536, "width of the feed-forward layer (0: attention only)", least=0, most=1_000_000)
    context_length: int = knob(256, "how many tokens the model can see", least=1, most=1_000_000)
    vocab_size: int = knob(0, "rows of the embedding (0: as many as the tokenizer has)", least=0, most=10_000_000)
    positions: str = knob("learned", "learned, sinusoidal, rope or none")
    rope_theta: float = knob(10_000.0, "rope: the longest wavelength is about 2 pi theta", least=1, most=1e12)
    norm: str = knob("layernorm", "layernorm or rmsnorm")
    norm_eps: float = knob(1e-5, "added to the variance under the root of a norm", least=0, most=1)
    activation: str = knob("gelu", "gelu (by tanh, as in GPT-2), gelu_erf (exact), relu, relu2 or swiglu")
    tie_embeddings: bool = knob(True, "the output head is the embedding, transposed")
    bias: bool = knob(True, "linear layers add a bias")
    qk_norm: bool = knob(False, "normalize queries and keys per head (RMSNorm)")
    dropout: float = knob(0.0, "share of activations dropped while training", least=0, most=0.99)
    init_std: float = knob(0.0, "standard deviation of initial weights (0: 1 / sqrt(d_model))", least=0, most=100)
    embed_std: float = knob(0.02, "that of embeddings and positions (0: as of the others)", least=0, most=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.n_heads and not self.head_dim:
            fitting = [n for n in range(1, self.d_model + 1) if self.d_model % n == 0]
            nearest = min(fitting, key=lambda n: (abs(n - self.n_heads), n))
            raise ValueError(
                f"n_heads {self.n_heads} does not divide d_model {self.d_model}; the nearest that does is {nearest}"
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_kv_heads {self.n_kv_heads} does not divide n_heads {self.n_heads}")
        if self.positions == "rope" and self.d_head % 2:
            raise ValueError(f"rope turns pairs of channels: those per head must be even, not {self.d_head}")

    @property
    def d_head(self) -> int:
        return self.head_dim or self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def matrix_std(self) -> float:
        """By default so that a matrix hands on a normalized vector at about its length."""
        return self.init_std or self.d_model**-0.5

    @property
    def embedding_std(self) -> float:
        return self.embed_std or self.matrix_std


@dataclass(frozen=True)
class TrainConfig(Knobs):
    """How a model learns. `auto` is resolved once, when training starts, and the answer is kept with the run."""

    steps: int = knob(850, "optimizer steps", least=0, most=100_000_000)
    batch_tokens: int = knob(2048, "tokens in a batch, padding included", least=1, most=100_000_000)
    accumulate: int = knob(1, "batches whose gradients are summed into one step", least=1, most=100_000)
    optimizer: str = knob("muon", "muon (on the block matrices, AdamW on the rest) or adamw", choices=("muon", "adamw"))
    learning_rate: float = knob(3e-3, "peak rate of AdamW", least=0, most=1e6)
    muon_rate: float = knob(
        0.014, "peak rate of Muon: how far a block matrix moves, as a spectral norm", least=0, most=1e6
    )
    schedule: str = knob(
        "linear",
        "how the rate falls after warm-up: linear, cosine, wsd (stay, then fall in the last fifth), constant",
        choices=("linear", "cosine", "wsd", "constant"),
    )
    warmup_steps: int = knob(40, "steps over which the rate rises from zero", least=0, most=100_000_000)
    final_rate: float = knob(0.0, "rate at the end, as a share of the peak", least=0, most=1)
    weight_decay: float = knob(0.01, "of matrices: a step takes this times the rate off them", least=0, most=100)
    clip: float = knob(1.0, "largest gradient norm (0: no clipping)", least=0, most=1e9)
    loss_on: str = knob("all", "which tokens of a chat are learned: all, replies", choices=("all", "replies"))
    seed: int = knob(1, "seed of data, weights and batches", least=0, most=2**31 - 1)
    device: str = knob("auto", "auto, cpu, cuda or mps")
    precision: str = knob(
        "auto", "auto, float32, bfloat16 or float16", choices=("auto", "float32", "bfloat16", "float16")
    )
    threads: int = knob(0, "CPU threads (0: as torch chooses)", least=0, most=4096)
    eval_every: int = knob(100, "steps between looks at the held-out loss", least=1)
    sample_every: int = knob(200, "steps between sample replies", least=1)
    save_every: int = knob(200, "steps between saves", least=1)
    record_every: int = knob(50, "steps between looks at gradients and activations (0: none)", least=0)
    snapshots: int = knob(20, "weights kept on the way, for looking back (0: none)", least=0, most=1000)


@dataclass(frozen=True)
class DataConfig(Knobs):
    """What the model learns from."""

    kind: str = knob(
        "persona",
        "persona, mix, text, chats or import (its weights came from elsewhere)",
        choices=("persona", "mix", "text", "chats", "import"),
    )
    source: str = knob("fish", "character, mix of characters, or file; several files of chats: one a line")
    conversations: int = knob(
        60_000, "training conversations composed from a character sheet", least=1, most=10_000_000
    )
    held_out: float = knob(
        0.05, "share of clean prompts (chats) held out; text holds out its last tenth", least=0.001, most=0.5
    )
    chat_format: str = knob(
        "auto",
        "how rows of chats are written: messages, sharegpt, prompt, instruction, input (auto: by their keys)",
        choices=("auto", "messages", "sharegpt", "prompt", "instruction", "input"),
    )
    from_run: str = knob("", "the run whose weights and tokenizer it started from")
    tokenizer: str = knob(
        "auto",
        "bpe or characters (auto: bpe for chats, characters for text)",
        choices=("auto", "bpe", "characters"),
    )
    vocab: int = knob(4096, "largest vocabulary that BPE may learn", least=257, most=1_000_000)

    @property
    def sources(self) -> list[str]:
        """Each file of chats."""
        return self.source.split("\n")


@dataclass(frozen=True)
class Sampling(Knobs):
    """How the next token is drawn from the logits."""

    temperature: float = knob(0.7, "0 takes the likeliest token, 1 samples as learned", least=0, most=100)
    top_k: int = knob(0, "keep only the k likeliest tokens (0: all)", least=0)
    top_p: float = knob(0.9, "keep the likeliest tokens that together have probability p (1: all)", least=0, most=1)
    repetition_penalty: float = knob(1.0, "divide the logits of tokens already there (1: off)", least=0.01, most=100)
    seed: int = knob(-1, "seed of the draw (-1: another each time)", least=-1, most=2**31 - 1)


@dataclass(frozen=True)
class Config:
    """All that is needed to repeat a run: what `config.toml` holds."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()

    def to_toml(self) -> str:
        import tomli_w

        return tomli_w.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_toml(path: Path) -> "Config":
        """Read a `config.toml`; raises ValueError with the file and the knob that is wrong."""
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
            unknown = set(tables) - set(SECTIONS)
            if unknown:
                raise ValueError(f"unknown section [{min(unknown)}]; a config has {', '.join(SECTIONS)}")
            return Config(**{name: from_dict(kind, tables.get(name, {}), name) for name, kind in SECTIONS.items()})
        except RecursionError:
            raise ValueError(f"{path}: is nested too deeply for a config; see its brackets") from None
        except ValueError as error:  # a TOMLDecodeError or UnicodeDecodeError too
            raise ValueError(f"{path}: {error}") from None


SECTIONS: dict[str, type] = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}


def from_dict(kind: type[T], values: Any, section: str) -> T:
    if not isinstance(values, dict):
        raise ValueError(f"[{section}] must be a table, not {values!r}")
    known = [knob_field.name for knob_field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ValueError(f"[{section}] has no knob {name!r}{did_you_mean(name, known)}")
    return kind(**values)


def did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}"


@dataclass(frozen=True)
class Preset:
    model: ModelConfig
    train: TrainConfig
    about: str
    usual_vocab: int  # what `count` counts with; a run has as many rows as its tokenizer has tokens


CHARACTERS = 65  # tiny Shakespeare's


def _preset(
    about: str,
    model: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    usual_vocab: int = 4096,
) -> Preset:
    return Preset(ModelConfig(**(model or {})), TrainConfig(**(train or {})), about, usual_vocab)


PRESETS: dict[str, Preset] = {
    "fish": _preset("the default character: GPT-2's block, four times"),
    "modern": _preset(
        "the fish's size, built as Llama is: RoPE, RMSNorm, SwiGLU, grouped heads",
        dict(n_kv_heads=2, d_ff=1152, positions="rope", norm="rmsnorm", activation="swiglu", bias=False),
    ),
    "tiny": _preset(
        "half a million: text by characters in a minute or two",
        dict(n_heads=4, d_model=96, d_ff=384, context_length=128),
        dict(steps=1000),
        CHARACTERS,
    ),
    "small": _preset(
        "four million: text by characters",
        dict(n_heads=8, d_model=288, d_ff=1152, context_length=256),
        dict(steps=2000, batch_tokens=4096),
        CHARACTERS,
    ),
    "medium": _preset(
        "ten million: the workshop's largest",
        dict(n_layers=6, d_ff=1536, dropout=0.1),
        dict(steps=3000, batch_tokens=8192),
        CHARACTERS,
    ),
    "stories15m": _preset(
        "fifteen million: the size that tells short stories",
        dict(
            n_layers=6,
            d_model=288,
            n_heads=6,
            d_ff=768,
            positions="rope",
            norm="rmsnorm",
            activation="swiglu",
            bias=False,
        ),
        dict(steps=20_000, batch_tokens=16_384),
        usual_vocab=32_000,
    ),
    "gpt2": _preset(
        "124 million: GPT-2 as released",
        dict(n_layers=12, n_heads=12, d_model=768, d_ff=3072, context_length=1024),
        dict(steps=20_000, batch_tokens=16_384),
        usual_vocab=50_257,
    ),
}


def preset(name: str) -> Preset:
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}{did_you_mean(name, list(PRESETS))}")
    return PRESETS[name]
