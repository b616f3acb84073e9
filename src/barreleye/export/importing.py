"""A model that grew elsewhere -> a run: from a folder or file, or from the Hugging Face Hub by name."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from barreleye import run as runs
from barreleye.config import Config, DataConfig, ModelConfig, TrainConfig
from barreleye.data.chat_template import HOUSE, TEMPLATE_FILE, recognize
from barreleye.data.text import read_text
from barreleye.data.tokenizer import FILE_NAME, Tokenizer, learn_characters, read_tokenizer
from barreleye.export import ancestors
from barreleye.export.from_huggingface import SUPPORTED, Weights, model_config, read_json
from barreleye.export.hub import fetch
from barreleye.run import Run
from barreleye.training.device import memory_of

Say = Callable[[str], None]
GPT2 = "openai-community/gpt2"  # whose tokenizer nanoGPT uses where it does not read characters
GPT2_ROWS = (50257, 50304)  # the second is filled up to a multiple of 64
CHECKPOINTS = (".pt", ".pth", ".bin")
BEST_FIRST = ("best_model.pt", "final_model.pt", "ckpt.pt", "pytorch_model.bin")
TOKENIZER_FILES = (FILE_NAME, "tokenizer_config.json", TEMPLATE_FILE)
SMALL_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json", *TOKENIZER_FILES)
WEIGHTS = ("model.safetensors", "model-*.safetensors")


@dataclass(frozen=True)
class Found:
    """A model, and the tokenizer and chat format that came with it."""

    config: ModelConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer


def import_model(
    source: str | Path,
    name: str | None = None,
    *,
    tokenizer: str | Path | None = None,
    text: str | Path | None = None,
    context_length: int | None = None,
    say: Say = lambda line: None,
) -> Run:
    """Make a run of a Hugging Face model folder (or a name on the Hub), a GuppyLM folder, or a nanoGPT ckpt.pt.

    name: of the run, under runs/, or its path. tokenizer: the folder (or Hub name) of a tokenizer.json that is not
    beside the weights. text: what a nanoGPT by characters learned from, which gives back its characters.
    context_length: fewer positions than the model knows. Raises ValueError, in one line, for whatever cannot be read;
    nothing that is found is run.
    """
    if not str(source):
        raise ValueError("'' is neither a path nor a name on the Hub")
    if name is not None and Path(name).name in ("", ".."):
        raise ValueError(f"--name {name!r} is no name; give one, as fish, or a path, as runs/fish")
    path = Path(name) if name and len(Path(name).parts) > 1 else runs.RUNS / (name or name_of(Path(source)))
    runs.check_free(path, "--name")
    place = locate(source, SMALL_FILES)
    name_on_hub = "" if place == Path(source) else str(source)
    if name_on_hub:
        _fetch_checkpoint(name_on_hub, place)
    if text is not None and tokenizer is not None:
        raise ValueError("give --tokenizer or --text, not both")
    if not (place.is_file() or place.is_dir()):
        raise ValueError(f"{place}: is neither a folder nor a file")
    if place.is_file() or not _is_model_folder(place):
        found = _from_checkpoint(place, tokenizer, text, context_length)
    elif text is not None:
        raise ValueError(f"--text is for a nanoGPT that learned characters; {place} has a tokenizer of its own")
    else:
        found = _from_folder(place, tokenizer, context_length, say, name_on_hub)
    if found.tokenizer.chat is None:
        say("it is loaded as a model of text: barreleye generate")
    config = Config(DataConfig(kind="import", source=str(source)), found.config, TrainConfig(steps=0))
    return runs.create(path, config, found.tokenizer, None, found.weights)


def name_of(source: Path) -> str:
    """What a run of it is called. Names on the Hub may have dots: `Qwen2.5-0.5B`."""
    return source.stem if source.suffix in CHECKPOINTS else source.resolve().name


def locate(source: str | Path, files: Sequence[str] = TOKENIZER_FILES) -> Path:
    """The folder or file that is meant; of what is neither, but may be a name on the Hub, those files are fetched."""
    place = Path(source)
    try:
        if place.exists():
            return place
    except OSError:
        pass  # no path: too long, or with a NUL
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) and not str(source).startswith((".", "/")):
        return fetch(str(source), files)
    raise ValueError(f"{source}: there is no such folder or file, and it is no name on the Hub (owner/name)")


def _fetch_checkpoint(name: str, folder: Path) -> None:
    """Where the small files are none of Hugging Face's models: what GuppyLM and nanoGPT write."""
    there = folder / "config.json"
    if not there.is_file() or read_json(there).get("model_type") in (None, "guppylm"):
        fetch(name, BEST_FIRST)
    if not folder.is_dir():
        raise ValueError(f"{name}: holds neither a model nor a checkpoint ({', '.join(BEST_FIRST)})")


def _is_model_folder(folder: Path) -> bool:
    """Whether it holds what transformers writes, and not an ancestor's checkpoint."""
    there = folder / "config.json"
    config = read_json(there) if there.is_file() else {}
    return config.get("model_type") in SUPPORTED or any(folder.glob("*.safetensors*")) or not _checkpoints(folder)


# Hugging Face ------------------------------------------------------------------------------------------------------


def _from_folder(
    folder: Path, tokenizer: str | Path | None, context_length: int | None, say: Say, name_on_hub: str = ""
) -> Found:
    theirs = read_json(folder / "config.json")
    try:
        config, absent = model_config(theirs, context_length)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    if name_on_hub:  # its weights may be gigabytes: first what can be wrong without them
        load_tokenizer(locate(tokenizer) if tokenizer else folder, folder, lambda line: None)
        check_memory(dataclasses.replace(config, context_length=context_length or config.context_length))
        fetch(name_on_hub, WEIGHTS)
    weights = Weights(folder)
    weights.check(config, absent)
    own = load_tokenizer(locate(tokenizer) if tokenizer else folder, folder, say)
    if own.vocab_size > config.vocab_size:
        raise ValueError(f"{folder}: its tokenizer has {own.vocab_size} tokens, the model {config.vocab_size} rows")
    if own.vocab_size < config.vocab_size:
        say(f"{config.vocab_size - own.vocab_size} rows of the embedding have no token, and are left out")
    context = context_length or config.context_length
    kept = dataclasses.replace(config, vocab_size=own.vocab_size, context_length=context)
    check_memory(kept)
    return Found(kept, weights.read(config, absent, kept), own)


def load_tokenizer(place: Path, model_folder: Path, say: Say) -> Tokenizer:
    """The tokenizer.json of a folder (or that file), with the model's chat template where that is known."""
    if place.is_dir() and not (place / FILE_NAME).is_file():
        raise ValueError(
            f"{place}: holds no {FILE_NAME}; --tokenizer takes the folder, or Hub name, of a model that has the same"
        )
    template = _template(model_folder)
    chat = recognize(template) if template else None
    if template and chat is None:
        say("its chat template is none of those known (docs/import.md), and is not run")
    return read_tokenizer(place, chat)


def _template(folder: Path) -> str:
    """Beside the model since transformers 4.43, before that in tokenizer_config.json; empty where there is none."""
    file = folder / TEMPLATE_FILE
    if file.is_file():
        return read_text(file)
    settings = folder / "tokenizer_config.json"
    template = read_json(settings).get("chat_template") if settings.is_file() else None
    return template if isinstance(template, str) else "" if template is None else "several"


def check_memory(config: ModelConfig) -> None:
    """Raises ValueError where the weights, in float32 and as they are written, are more than this machine holds."""
    from barreleye.model.count import count

    counted, there = count(config), memory_of("cpu")
    tables = 8 * config.context_length * config.d_head if config.positions == "rope" else 0
    needed = 3 * counted.weight_bytes + tables
    if there and needed > there:
        raise ValueError(
            f"a model of {counted.parameters:,} parameters needs {needed / 2**30:,.0f} GiB to be imported in float32, "
            f"and this machine has {there / 2**30:,.0f}; take a smaller one"
        )


# GuppyLM and nanoGPT -----------------------------------------------------------------------------------------------


def _from_checkpoint(
    place: Path, tokenizer: str | Path | None, text: str | Path | None, context_length: int | None
) -> Found:
    file = place if place.is_file() else _checkpoints(place)[0]
    if file.suffix not in CHECKPOINTS:
        raise ValueError(f"{file}: is neither a model folder nor a checkpoint ({', '.join(CHECKPOINTS)})")
    held = ancestors.read_checkpoint(file)
    is_nanogpt = ancestors.is_nanogpt(held)
    if text is not None and not is_nanogpt:
        raise ValueError(f"--text is for a nanoGPT that learned characters; {file} is none")
    try:
        if is_nanogpt:
            config, weights = ancestors.nanogpt(held)
        else:
            beside = file.with_name("config.json")
            config, weights = ancestors.guppy(held, read_json(beside) if beside.is_file() else None)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    context = context_length or config.context_length
    if context > config.context_length:
        raise ValueError(f"{file}: --context-length {context}: the model knows {config.context_length} positions")
    if is_nanogpt:
        own = _nanogpt_tokenizer(file, config, tokenizer, text)
    else:
        folder = locate(tokenizer) if tokenizer else file.parent
        if folder.is_dir() and not (folder / FILE_NAME).is_file():
            raise ValueError(f"{folder}: holds no {FILE_NAME}; --tokenizer takes where GuppyLM's data lie")
        own = read_tokenizer(folder, HOUSE)
    if own.vocab_size > config.vocab_size:
        raise ValueError(f"{file}: its tokenizer has {own.vocab_size} tokens, the model {config.vocab_size} rows")
    weights["embed.weight"] = weights["unembed.weight"] = weights["embed.weight"][: own.vocab_size].contiguous()
    weights["positions.weight"] = weights["positions.weight"][:context].contiguous()
    return Found(dataclasses.replace(config, vocab_size=own.vocab_size, context_length=context), weights, own)


def _checkpoints(folder: Path) -> list[Path]:
    """Of a folder, the one to read first: GuppyLM's best, nanoGPT's only one."""
    there = sorted(path for path in folder.iterdir() if path.suffix in CHECKPOINTS)
    return sorted(there, key=lambda path: (*BEST_FIRST, path.name).index(path.name))


def _nanogpt_tokenizer(
    file: Path, config: ModelConfig, tokenizer: str | Path | None, text: str | Path | None
) -> Tokenizer:
    """Its checkpoint has none: characters come back from the text, GPT-2's tokens from GPT-2."""
    rows = config.vocab_size
    if text is not None:
        learned = learn_characters(read_text(Path(text)))
        if learned.vocab_size != rows:
            raise ValueError(
                f"{text}: has {learned.vocab_size} characters, {file} {rows}; give the text it learned from"
            )
        return learned
    if tokenizer is None and (file.with_name("meta.pkl").is_file() or rows not in GPT2_ROWS):
        raise ValueError(
            f"{file}: its {rows} characters stand in meta.pkl, a pickle, which could run code and is not read; "
            "--text takes the text that it learned from, and has the same"
        )
    place = locate(tokenizer) if tokenizer else fetch(GPT2, (FILE_NAME,))
    return load_tokenizer(place, place, lambda line: None)
