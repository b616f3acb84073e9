"""Our activations against those of TransformerLens, from the same weights: `make test-peers`.

It brings many packages along, so it has an environment of its own.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS
from barreleye.data.tokenizer import learn_characters
from barreleye.files import to_json
from barreleye.lens.subject import Subject
from barreleye.lens.view import look
from barreleye.model.huggingface import small_files, to_huggingface

sys.path.insert(0, str(Path(__file__).parent))
from subjects import MODERN, subject

transformer_lens = pytest.importorskip("transformer_lens", reason="transformer_lens is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of packages of theirs

CHARACTERS = learn_characters("abcdefghijklmno", CHAT_SPECIAL_TOKENS)


def model_folder(who: Subject, path: Path) -> Path:
    """What a run saves: the bridge reads it without a line of ours."""
    from safetensors.torch import save_file

    for name, content in small_files(who.model.config, CHARACTERS).items():
        (path / name).write_bytes(content if isinstance(content, bytes) else to_json(content))
    CHARACTERS.save(path)
    weights = to_huggingface(who.model.state_dict(), who.model.config)
    theirs = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
    save_file(theirs, path / "model.safetensors", {"format": "pt"})
    return path


@pytest.mark.parametrize("variant", [{}, dict(activation="relu"), MODERN], ids=["vanilla", "relu", "modern"])
def test_every_activation_is_that_of_transformer_lens(
    variant: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformer_lens.model_bridge import TransformerBridge

    who = Subject(subject(**variant).model, CHARACTERS)
    view = look(who, "abcadeabcnomab", chat=False)
    bridge = TransformerBridge.boot_transformers(str(model_folder(who, tmp_path)))
    bridge.set_use_attn_result(True)
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(torch.tensor([view.ids]))
    torch.testing.assert_close(view.logits_TV, logits[0], atol=1e-4, rtol=0)
    assert len(view.names) > len(view.shapes)  # the results of heads, which are made of others
    for name in view.names:
        ours, theirs = view[name], cache[name][0]
        # They say "nothing" with the smallest number there is, we with minus infinity.
        hidden = ours.isinf()
        assert (theirs[hidden] < -1e30).all()
        theirs = theirs.reshape(ours.shape)
        torch.testing.assert_close(ours[~hidden], theirs[~hidden], atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
