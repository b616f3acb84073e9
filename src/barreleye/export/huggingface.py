"""Does transformers compute with a run's model folder what the run computes? Asked of transformers itself."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from barreleye.config import Sampling
from barreleye.model.huggingface import check_expressible
from barreleye.run import Run

COMPARED = 1000  # tokens
NEAR_TIE = 1e-3  # between the two best logits: there, rounding decides
LONGEST = 256  # tokens of a text
STRINGS = ("hello", "HELLO there!", "don't  you\n\nsee 3.14?", " é 🐟 naïve", "<|im_end|>", "\t日本語 ")


class Transformers:
    """A model folder as `AutoModelForCausalLM` and `AutoTokenizer` load it, read on one thread."""

    def __init__(self, folder: Path) -> None:
        import torch
        import transformers

        self.torch, self.version = torch, transformers.__version__
        transformers.logging.set_verbosity_error()
        kept = dict(local_files_only=True)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, **kept).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **kept)
        self.start()

    def start(self) -> None:
        """Forget what was read."""
        self.past: Any = None

    def read(self, tokens: Sequence[int]) -> np.ndarray[Any, Any]:
        """Go on with these; the logits after each, shape (T, V)."""
        with self.torch.inference_mode():
            said = self.model(self.torch.tensor([list(tokens)]), past_key_values=self.past, use_cache=True)
        self.past = said.past_key_values
        return np.asarray(said.logits[0].float())

    def encode(self, text: bytes) -> list[int]:
        """The ids of a text that a person typed, in which no special token is read."""
        return list(self.tokenizer(text.decode(), add_special_tokens=False, split_special_tokens=True)["input_ids"])


def check(run_path: str | Path) -> dict[str, Any]:
    """Figures of the installed transformers on a run: `program`, `difference` (largest, of logits), `agreement` (share
    of the same greedy tokens among `compared`, on texts of the model's own, given to both), `same_ids` (share of texts
    tokenized alike), `size` in bytes, `load_seconds`, `tokens_per_second` (one text, token by token).

    Raises ValueError for a model that transformers has no class for, and where it is not installed.
    """
    from barreleye.inference.generate import generate_tokens

    run = Run(run_path)
    check_expressible(run.config.model)
    model, tokenizer, folder = run.load_model(), run.tokenizer, run.path / "model"
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401 - which takes seconds, and is no loading
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed; pip install 'barreleye[peers]'") from None
    began = time.perf_counter()
    peer = Transformers(folder)
    load_seconds = time.perf_counter() - began
    length = min(LONGEST, run.config.model.context_length)
    differences, same, rng = [0.0], list[bool](), np.random.default_rng(1)
    while len(same) < COMPARED:
        begin = int(rng.integers(tokenizer.vocab_size))
        sampling = Sampling(temperature=1.0, top_p=1.0, seed=len(same))
        tokens = [begin, *generate_tokens(model, [begin], length - 1, sampling)]
        with peer.torch.inference_mode():
            ours_TV = model(peer.torch.tensor([tokens]))[0].numpy()
        peer.start()
        half = length // 2  # a prompt at once, the rest on top of it: both ways of reading are compared
        theirs_TV = np.concatenate([peer.read(part) for part in (tokens[:half], tokens[half:]) if part])
        differences.append(float(np.abs(ours_TV - theirs_TV).max()))
        second_T, best_T = np.moveaxis(np.partition(ours_TV, -2, -1)[:, -2:], -1, 0)
        same += (ours_TV.argmax(-1) == theirs_TV.argmax(-1))[(best_T - second_T) > NEAR_TIE].tolist()
        if len(differences) > 100 * COMPARED // length:
            break  # a model that is never sure
    peer.start()
    began = time.perf_counter()
    for token in tokens:
        peer.read([token])
    known = [text for text in STRINGS if _can_encode(tokenizer, text)]
    return dict(
        program=f"transformers {peer.version}",
        difference=max(differences),
        agreement=float(np.mean(same[:COMPARED])) if same else 1.0,
        compared=len(same[:COMPARED]),
        same_ids=float(np.mean([tokenizer.encode(text) == peer.encode(text.encode()) for text in known]))
        if known
        else None,
        size=sum(file.stat().st_size for file in folder.iterdir()),
        load_seconds=load_seconds,
        tokens_per_second=len(tokens) / (time.perf_counter() - began),
    )


def _can_encode(tokenizer: Any, text: str) -> bool:
    try:
        return bool(tokenizer.encode(text))
    except ValueError:
        return False
