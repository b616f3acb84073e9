import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from barreleye import Run, grow
from barreleye.data.batches import IGNORE
from barreleye.lens import neurons as neurons_module
from barreleye.lens.neurons import collect, first_tokens, neuron_output, top_activations
from barreleye.lens.view import look
from barreleye.training.material import make_batches

sys.path.insert(0, str(Path(__file__).parent))
from subjects import LETTERS, MODERN, subject

SHAPE: dict[str, Any] = dict(n_layers=2, n_heads=2, d_model=16, d_ff=24, context_length=16, preset="tiny", quiet=True)
GROWN = SHAPE | dict(steps=2, batch_tokens=64, device="cpu", threads=1, precision="float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("grown")
    text = "".join(f"the fish {n} swam by\n{n} crabs slept, {7 * n % 11} did not\n" for n in range(60))
    (folder / "sea.txt").write_text(text)
    return grow(text=str(folder / "sea.txt"), out=folder / "run", **GROWN)


@pytest.mark.parametrize("variant", [{}, MODERN], ids=["vanilla", "modern"])
def test_the_largest_of_all_batches_are_kept_in_order(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(17, (3, 15), generator=generator) for _ in range(4)]
    batches = [(row[:, :-1], row[:, 1:].clone()) for row in rows]
    batches[1][1][2, 9:] = IGNORE  # padding wakes nobody
    values, contexts = collect(who.model, batches, k=5)
    everything = []
    for tokens, targets in batches:
        for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
            post = look(who, row)["blocks.1.mlp.hook_post"]
            everything += [(float(post[t, 7]), row[max(0, t - 11) : t + 1]) for t in range(14) if wanted[t] != IGNORE]
    best = sorted(everything, key=lambda item: -item[0])[:5]
    assert values[1, 7].tolist() == pytest.approx([value for value, _ in best], rel=1e-4)
    assert [[i for i in window if i >= 0] for window in contexts[1, 7].tolist()] == [window for _, window in best]


def test_a_small_batch_gives_what_it_has() -> None:
    values, _ = collect(subject().model, [(torch.tensor([[1, 2]]), torch.tensor([[2, 3]]))], k=5)
    assert values[0, 0].isfinite().tolist() == [True, True, False, False, False]


def test_top_activations_of_a_run_are_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = top_activations(run, 1, 3, k=4)
    values = [each.value for each in found]
    assert len(found) == 4 and values == sorted(values, reverse=True)
    best = found[0]
    read = best.before + best.token.replace("␣", " ").replace("↵", "\n")
    text = run.corpus().train
    assert isinstance(text, str) and len(read) > 1 and read in text
    with monkeypatch.context() as patched:
        patched.setattr(neurons_module, "collect", None)  # not read a second time
        assert top_activations(str(run.path), 1, 3, k=4) == found
        assert len(top_activations(run, 0, 23)) == neurons_module.KEPT
    weights = run.load_model().state_dict()
    weights["blocks.1.mlp.up.bias"] += 1
    run.save_model(weights)  # other weights of the same step
    assert top_activations(run, 1, 3, k=4) != found


def test_prompts_wake_neurons_too(tmp_path: Path) -> None:
    """Where only replies are learned, what the person said has no target, and is read all the same."""
    turns = [[("user", f"what of {n}?"), ("assistant", f"{n} fish")] for n in range(40)]
    chats = [{"messages": [{"role": role, "content": content} for role, content in chat]} for chat in turns]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    shape = GROWN | dict(context_length=32, vocab=300, loss_on="replies")
    run = grow(chats=str(tmp_path / "chats.jsonl"), out=tmp_path / "run", **shape)
    woken = {each.token for neuron in range(24) for each in top_activations(run, 0, neuron)}
    assert "?" in woken


def test_only_as_many_tokens_as_told_are_read(run: Run) -> None:
    batches = make_batches(run.corpus(), run.tokenizer, run.config, run.path / "cache")
    read = sum(int((targets != IGNORE).sum()) for _, targets in first_tokens(batches, 100))
    assert 100 <= read < 100 + 64
    everything = sum(1 for _ in first_tokens(batches, 10**9))
    assert everything == batches.per_epoch


def test_a_neuron_that_is_not_there_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="no neuron 24; there are 0 to 23"):
        top_activations(run, 0, 24)
    for k in (0, 13):
        with pytest.raises(ValueError, match=f"k must be 1 to 12, which are kept of each neuron, not {k}"):
            top_activations(run, 0, 0, k=k)
    with pytest.raises(ValueError, match="only a run has text that it learned from"):
        top_activations(subject(), 0, 0)
    with pytest.raises(ValueError, match="no layer 2"):
        top_activations(run, 2, 0)
    with pytest.raises(ValueError, match="no feed-forward layers"):
        neuron_output(subject(d_ff=0), 0, 0)


@torch.no_grad()
def test_what_a_neuron_says_is_what_its_waking_does() -> None:
    who = subject()
    up, down = neuron_output(who, 1, 5, k=3)
    view = look(who, "abcade")
    scale = view["ln_final.hook_scale"]

    def tap(name: str, x: torch.Tensor) -> torch.Tensor:
        if name == "blocks.1.mlp.hook_post":
            x = x.clone()
            x[..., 5] += 1
        return scale[None] if name == "ln_final.hook_scale" else x

    moved = (who.model(torch.tensor([view.ids]), tap=tap)[0] - view.logits_TV)[-1] * scale[-1]
    assert [token for token, _ in up] == [LETTERS.token_text(i) for i in moved.topk(3).indices.tolist()]
    assert [x for _, x in down] == pytest.approx(sorted(moved.tolist())[:3], abs=1e-3)


# A run, seen from the lens -----------------------------------------------------------------------------------------


def test_a_run_is_opened_once_and_anew_when_its_weights_change(run: Run) -> None:
    one, two = look(run, "the fish"), look(str(run.path), "the fish")
    assert one.model is two.model
    weights = run.load_model().state_dict()
    weights["blocks.0.attn.out.weight"] += 1
    run.save_model(weights)
    changed = look(run, "the fish")
    assert changed.model is not one.model and not torch.equal(changed.logits_TV, one.logits_TV)


def test_a_step_is_looked_back_at(run: Run) -> None:
    weights = run.load_model().state_dict()
    run.save_snapshot(1, {name: torch.zeros_like(tensor) for name, tensor in weights.items()})
    then = look(run, "the fish", step=1)
    assert then.top(k=1)[0][1] == pytest.approx(1 / run.tokenizer.vocab_size)
    assert look(run, "the fish").top(k=1)[0][1] > 1 / run.tokenizer.vocab_size
    with pytest.raises(ValueError, match="no snapshot of step 7"):
        look(run, "the fish", step=7)
    run.save_snapshot(1, weights)  # by a training that was resumed from before it
    assert look(run, "the fish", step=1).top(k=1)[0][1] > 1 / run.tokenizer.vocab_size
