import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from barreleye.config import ModelConfig
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, Message, encode_chat
from barreleye.data.tokenizer import learn_bpe
from barreleye.lens import view as view_module
from barreleye.lens.edits import edit, zero
from barreleye.lens.subject import Subject
from barreleye.lens.view import look, shapes_of
from barreleye.model.transformer import Transformer

sys.path.insert(0, str(Path(__file__).parent))
from subjects import EVERY_VARIANT, LETTERS, MODERN, PRESETS, TEXT, subject


@EVERY_VARIANT
def test_recording_changes_no_bit_of_an_explicit_pass_and_little_of_the_fused_one(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    view = look(who, TEXT)
    ids = torch.tensor([LETTERS.encode(TEXT)])
    with torch.no_grad():
        assert torch.equal(view.logits_TV, who.model(ids, tap=lambda name, tensor: tensor)[0])
        torch.testing.assert_close(view.logits_TV, who.model(ids)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", [{}, MODERN, dict(qk_norm=True), dict(d_ff=0)], ids=str)
def test_recording_changes_little_of_the_fused_kernel(variant: dict[str, Any]) -> None:
    who = subject(context_length=300, **variant)
    text = "abcdefghijklmnopq" * 17
    with torch.no_grad():
        fused = who.model(torch.tensor([LETTERS.encode(text)]))[0]
    torch.testing.assert_close(look(who, text).logits_TV, fused, atol=1e-5, rtol=1e-5)


def test_the_shapes_are_those_of_the_parts_that_a_model_has_now() -> None:
    model = subject().model
    before = shapes_of(model)
    assert shapes_of(model) is before and before["blocks.1.mlp.hook_post"]
    model.blocks[1] = subject(d_ff=0).model.blocks[1]
    assert "blocks.1.mlp.hook_post" not in shapes_of(model)


@PRESETS
def test_what_is_not_held_is_computed_again_to_the_bit(
    variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    who = subject(**variant)
    everything = look(who, TEXT)
    filtered = look(who, TEXT, names="blocks.*.attn.hook_pattern")
    monkeypatch.setattr(view_module, "KEPT_BYTES", 2000)
    full_memory = look(who, TEXT)
    assert set(everything.shapes) == set(shapes_of(who.model))
    assert set(filtered._kept) == {f"blocks.{i}.attn.hook_pattern" for i in (0, 1)}
    assert 0 < sum(t.numel() * 4 for t in full_memory._kept.values()) <= 2000
    for name in everything.names:
        assert tuple(everything[name].shape) == everything.shapes.get(name, (len(TEXT), 4, 32)), name
        assert torch.equal(everything[name], filtered[name]), name
        assert torch.equal(everything[name], full_memory[name]), name


def test_addresses_slices_and_patterns() -> None:
    view = look(subject(), TEXT)
    z = view["blocks.1.attn.hook_z"]
    assert z.shape == (len(TEXT), 4, 8)
    assert torch.equal(view["blocks.1.attn.hook_z[head=3]"], z[:, 3])
    assert torch.equal(view["blocks.1.attn.hook_z[head=1:3, position=-1]"], z[-1, 1:3])
    assert torch.equal(view["blocks.1.mlp.hook_post[neuron=5]"], view["blocks.1.mlp.hook_post"][:, 5])
    patterns = view["blocks.*.attn.hook_pattern[head=2, query=4]"]
    assert torch.equal(patterns[1], view["blocks.1.attn.hook_pattern"][2, 4])
    assert patterns.sum(-1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("blocks.1.attn.hook_patern", "did you mean 'blocks.1.attn.hook_pattern'"),
        ("blocks.7.attn.hook_pattern", "did you mean"),
        ("blocks.1.attn.hook_z[head=4]", "head 0 to 3, not 4"),
        ("blocks.1.attn.hook_z[haed=3]", "did you mean 'head'"),
        ("blocks.1.attn.hook_pattern[position=3]", "has no axis 'position'"),
        ("blocks.1.attn.hook_z[head]", "no axis with an index"),
        ("blocks.1.attn.hook_z[3", "is no address"),
        ("blocks.1.*", "different shapes"),
        ("blocks.0.hook_patern_grad", "there is no activation"),
        ("blocks.1.attn.hook_z[head=2:9]", "head 0 to 3, not 2:9"),
        ("blocks.1.attn.hook_z[position=99]", "position 0 to 9, not 99"),
        ("blocks.1.attn.hook_z[position=-11:]", "position 0 to 9, not -11:"),
        ("blocks.1.attn.hook_z[position=-3:-5]", "position 0 to 9, not -3:-5"),
        ("blocks.1.attn.hook_*[head=0, query=3]", "blocks.1.attn.hook_q has no axis 'query'"),
        (3, "3 is no address"),
    ],
)
def test_a_wrong_address_is_refused_with_a_suggestion(address: Any, says: str) -> None:
    view = look(subject(), TEXT)
    with pytest.raises(ValueError, match=says):
        view[address]
    if not str(address).endswith("_grad"):
        with pytest.raises(ValueError, match=says):
            view.gradient(address, "c")


def test_what_is_given_out_is_no_part_of_the_model() -> None:
    for positions in ("learned", "sinusoidal"):
        who = subject(positions=positions)
        view = look(who, TEXT)
        before, places = view.logits_TV, view["hook_pos_embed"]
        assert not places.requires_grad
        places.zero_()
        assert torch.equal(look(who, TEXT).logits_TV, before)
        assert not look(who, TEXT, names="hook_embed")["hook_pos_embed"].requires_grad


def test_names_to_hold_are_checked_and_a_heads_result_is_its_z() -> None:
    who = subject()
    for names in ("blocks.*.attn.hook_patern", ["hook_embed", "hook_pos"], "blocks.0.attn.hook_z[head=1]"):
        with pytest.raises(ValueError, match=r"there is no activation .*did you mean"):
            look(who, TEXT, names=names)
    assert set(look(who, TEXT, names="blocks.1.attn.hook_result")._kept) == {"blocks.1.attn.hook_z"}
    assert not look(who, TEXT, names=[])._kept


@EVERY_VARIANT
def test_results_of_heads_add_up_to_what_attention_adds(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    view = look(who, TEXT)
    for layer, block in enumerate(who.model.blocks):
        total = view[f"blocks.{layer}.attn.hook_result"].sum(1)
        total = total if block.attn.out.bias is None else total + block.attn.out.bias
        torch.testing.assert_close(total, view[f"blocks.{layer}.hook_attn_out"], atol=1e-5, rtol=1e-4)


@EVERY_VARIANT
def test_gradients_are_finite_differences(variant: dict[str, Any]) -> None:
    """Of the mean loss along a random direction, at each name, in float64."""
    who = Subject(subject(**variant).model.double(), LETTERS)
    view = look(who, TEXT)
    generator = torch.Generator().manual_seed(0)

    def loss(at: str, step: torch.Tensor) -> float:
        return view_module.View(who, view.ids, tap=lambda name, x: x + step if name == at else x).loss

    for name in view.shapes:
        x = view[name]
        step = torch.randn(x.shape, generator=generator, dtype=torch.float64) * 1e-6
        step = step.masked_fill(x.isinf(), 0)
        slope = float((view[name + "_grad"] * step).nansum())
        assert (loss(name, step) - loss(name, -step)) / 2 == pytest.approx(slope, rel=1e-3, abs=1e-12), name


def test_the_gradient_of_a_heads_result_is_that_of_the_sum() -> None:
    view = look(subject(), TEXT)
    of_result, of_sum = view["blocks.0.attn.hook_result_grad"], view["blocks.0.hook_attn_out_grad"]
    assert of_result.shape == (len(TEXT), 4, 32) and torch.equal(of_result[:, 2], of_sum)
    per_head = view["blocks.*.attn.hook_z_grad[head=1]"]
    assert torch.equal(per_head[1], view["blocks.1.attn.hook_z_grad"][:, 1])
    of_logit = view.gradient("blocks.1.hook_resid_post", "c")
    assert not of_logit[:-1].any() and of_logit[-1].any()  # nothing comes after it but the head
    assert torch.equal(view.gradient("blocks.1.hook_resid_post[position=-1]", "c"), of_logit[-1])
    assert torch.equal(view.gradient("blocks.*.hook_resid_post", "c")[1], of_logit)
    less = of_logit - view.gradient("blocks.1.hook_resid_post", "d")
    torch.testing.assert_close(view.gradient("blocks.1.hook_resid_post", "c", "d"), less, atol=1e-5, rtol=1e-4)


def test_what_no_longer_reaches_the_loss_has_no_gradient() -> None:
    view = edit(subject(), TEXT, {"blocks.0.hook_attn_out": zero})
    assert not view["blocks.0.attn.hook_result_grad"].any() and view["blocks.1.attn.hook_result_grad"].any()
    assert view["blocks.0.hook_attn_out_grad"].any()  # of what the model went on with


def test_loss_surprise_entropy_and_the_likeliest() -> None:
    view = look(subject(), TEXT)
    probs = view.logits_TV.double().softmax(-1)
    expected = [-math.log(probs[t, i]) for t, i in enumerate(view.ids[1:])]
    assert math.isnan(view.loss_T[0])
    assert view.loss_T[1:].tolist() == pytest.approx(expected, rel=1e-4)
    assert view.loss == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert view.surprise_T[1:].tolist() == pytest.approx([nats / math.log(2) for nats in expected], rel=1e-4)
    assert view.entropy_T[3] == pytest.approx(float(-(probs[3] * probs[3].log2()).sum()), rel=1e-4)
    best = int(probs[2].argmax())
    assert view.top(2, k=1) == [(LETTERS.token_text(best), pytest.approx(float(probs[2, best]), rel=1e-4))]
    assert len(view.top(k=999)) == 17
    with pytest.raises(ValueError, match="k must be at least 1, not -1"):
        view.top(k=-1)
    for position in (99, -11):
        with pytest.raises(ValueError, match=f"there is no position {position}; there are 0 to 9"):
            view.top(position)


def test_a_token_that_cannot_come_adds_no_entropy() -> None:
    bias = torch.zeros(17)
    bias[3] = math.inf
    probs = (torch.zeros(17) - bias).softmax(-1)
    assert float(view_module.entropy(probs)) == pytest.approx(4, rel=1e-5)  # bits: sixteen others alike


def test_a_token_may_be_any_whole_number() -> None:
    view = look(subject(), TEXT)
    for two in (np.int64(2), torch.tensor(2)):
        assert torch.equal(view.gradient("hook_embed", two), view.gradient("hook_embed", "c"))
    with pytest.raises(ValueError, match=r"token ids, not \[1.5\]"):
        view.target(1.5)  # type: ignore[arg-type]


def test_a_view_shows_itself() -> None:
    view = look(subject(), TEXT)
    shown = repr(view)
    assert "View of 10 tokens: a b c" in shown
    assert "blocks.{i}.attn.hook_pattern" in shown and "(4, 10, 10)" in shown and "ln_final.hook_scale" in shown
    html = view._repr_html_()
    assert html.count("<span") == len(TEXT) and "bits; expected: " in html


def test_html_is_escaped() -> None:
    from barreleye.data.tokenizer import learn_characters

    tokenizer = learn_characters('abcdefghijkl<>&"m')
    html = look((subject().model, tokenizer), '<b>&"')._repr_html_()
    assert "&lt;" in html and "&amp;" in html and "<b" not in html


def test_a_look_leaves_the_model_as_it_was() -> None:
    who = subject(dropout=0.5)
    who.model.train()
    before = {name: p.clone() for name, p in who.model.named_parameters()}
    one, two = look(who, TEXT), look(who, TEXT)
    assert torch.equal(one.logits_TV, two.logits_TV)  # without dropout
    one["blocks.0.hook_resid_mid_grad"]
    assert who.model.training
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in who.model.named_parameters())


# What is read ------------------------------------------------------------------------------------------------------

BPE = learn_bpe(["user\n", "assistant\n", "hello what is water\n"], 300, CHAT_SPECIAL_TOKENS)


def chatty(system: str = "") -> Subject:
    torch.manual_seed(0)
    shape = dict(n_layers=1, n_heads=2, d_model=16, d_ff=32, context_length=64, vocab_size=BPE.vocab_size)
    return Subject(Transformer(ModelConfig(**shape)), BPE, system)


def test_a_chat_is_read_as_a_chat_reads_it() -> None:
    asked = [Message("user", "What is water?")]
    prompt = encode_chat(asked, BPE, add_generation_prompt=True)[0]
    assert look(chatty(), "What is water?").ids == prompt
    assert look(chatty(), asked).ids == prompt
    assert look(chatty(), prompt).ids == look(chatty(), torch.tensor(prompt)).ids == prompt
    assert look(chatty(), "What is water?", chat=False).ids == BPE.encode("What is water?")
    answered = [*asked, Message("assistant", "hello")]
    assert look(chatty(), answered).ids == encode_chat(answered, BPE)[0]
    told = [{"role": turn.role, "content": turn.content} for turn in answered]
    assert look(chatty(), told).ids == look(chatty(), answered).ids
    as_fish = encode_chat([Message("system", "fish"), *asked], BPE, add_generation_prompt=True)[0]
    assert look(chatty("fish"), "What is water?").ids == as_fish


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the text is empty"),
        ("a" * 25, "25 tokens, and the model sees 24"),
        ("ab!", "has not seen '!'"),
        ([0, 17], "token ids must be 0 to 16, not 0 to 17"),
        ([], "the text is empty"),
        (None, "a text, turns with role and content, or token ids, not None"),
        (["hi"], r"or token ids, not \['hi'\]"),
        ([1.7], r"or token ids, not \[1.7\]"),
        ([{"role": "user"}], r"turns with role and content"),
        ([[1, 2], [3, 4]], "or token ids, not"),
    ],
)
def test_what_cannot_be_read_is_refused(text: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        look(subject(), text)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_saying_nothing_in_a_chat_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the text is empty"):
        look(chatty(), text)
    with pytest.raises(ValueError, match="role 'robot'"):
        look(chatty(), [{"role": "robot", "content": "beep"}])


def test_only_a_run_has_steps() -> None:
    with pytest.raises(ValueError, match="only a run has steps"):
        look(subject(), TEXT, step=3)


def test_one_token_is_enough() -> None:
    view = look(subject(), "a")
    assert math.isnan(view.loss) and view.logits_TV.shape == (1, 17)
    assert "View of 1 tokens" in repr(view) and view._repr_html_()
