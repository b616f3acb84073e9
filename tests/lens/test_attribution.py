import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from barreleye.lens.attribution import attribute, logit_lens, output_logits
from barreleye.lens.edits import add, edit, replace, zero
from barreleye.lens.view import look

sys.path.insert(0, str(Path(__file__).parent))
from subjects import EVERY_VARIANT, PRESETS, TEXT, subject


@EVERY_VARIANT
@pytest.mark.parametrize("minus", [None, "d"])
def test_the_parts_sum_to_the_logit(variant: dict[str, Any], minus: str | None) -> None:
    who = subject(**variant)
    view = look(who, TEXT)
    for position in (0, 4, -1):
        found = attribute(view, "c", minus, position)
        logits_V = view.logits_TV[position]
        expected = logits_V[2] - (logits_V[3] if minus else 0)
        assert found.logit == pytest.approx(float(expected), abs=1e-5)
        assert float(found.parts_N.sum()) == pytest.approx(found.logit, abs=1e-4)
    parts = {f"blocks.{layer}.attn.hook_z[head={head}]" for layer in (0, 1) for head in range(4)} | {"hook_embed"}
    parts |= {"hook_pos_embed"} if variant.get("positions", "learned") in ("learned", "sinusoidal") else set()
    parts |= {"blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"} if variant.get("d_ff", 64) else set()
    has_biases = variant.get("bias", True) or variant.get("norm", "layernorm") == "layernorm"
    assert set(found.names) == parts | ({"biases"} if has_biases else set())


@PRESETS
def test_a_part_is_what_the_logit_loses_with_the_norm_as_it_was(variant: dict[str, Any]) -> None:
    """Taking it out of the last stream, the final norm's scale held, costs exactly what is attributed to it. The bias
    of a feed-forward layer is none of its part: every text has it."""
    who = subject(**variant)
    view = look(who, TEXT)
    found = attribute(view, "c")
    scale = view["ln_final.hook_scale"]

    def cost(out: torch.Tensor) -> float:
        def tap(name: str, tensor: torch.Tensor) -> torch.Tensor:
            moved = tensor - out if name == "blocks.1.hook_resid_post" else tensor
            return scale[None] if name == "ln_final.hook_scale" else moved

        with torch.no_grad():
            return float(view.logits_TV[-1, 2] - who.model(torch.tensor([view.ids]), tap=tap)[0, -1, 2])

    result = view["blocks.1.attn.hook_result"][:, 2]
    assert found["blocks.1.attn.hook_z[head=2]"] == pytest.approx(cost(result), abs=1e-4)
    for layer, block in enumerate(who.model.blocks):
        if block.has_mlp:
            out = (view[f"blocks.{layer}.mlp.hook_post"] @ block.mlp.down.weight.T).detach()
            assert found[f"blocks.{layer}.hook_mlp_out"] == pytest.approx(cost(out), abs=1e-4)
    with pytest.raises(ValueError, match=r"no part 'blocks.9.hook_attn'; did you mean|there are: hook_embed"):
        found["blocks.9.hook_attn"]


@PRESETS
def test_under_edits_what_the_parts_cannot_account_for_is_named(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    ablated = attribute(edit(who, TEXT, {"blocks.0.attn.hook_z[head=1]": zero}), "c")
    assert ablated["blocks.0.attn.hook_z[head=1]"] == 0 and ablated["edits"] == pytest.approx(0, abs=1e-4)
    broken = attribute(edit(who, TEXT, {"blocks.1.hook_resid_post": zero}), "c")
    assert abs(broken["edits"]) > 1e-2
    assert float(broken.parts_N.sum()) == pytest.approx(broken.logit, abs=1e-4)


@PRESETS
def test_a_head_whose_output_went_nowhere_is_given_no_credit(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    sums = {"blocks.0.hook_attn_out": zero, "blocks.1.hook_attn_out": add(torch.ones(32))}
    sums |= {"blocks.0.hook_mlp_out": zero} if who.model.config.d_ff else {}
    view = edit(who, TEXT, sums)
    found = attribute(view, "c")
    assert not any("hook_z" in name for name in found.names)
    assert found["blocks.0.hook_attn_out"] == 0 != found["blocks.1.hook_attn_out"]
    assert not who.model.config.d_ff or found["blocks.0.hook_mlp_out"] == 0 != found["blocks.1.hook_mlp_out"]
    assert found["edits"] == pytest.approx(0, abs=1e-4)  # all is accounted for, biases too
    assert float(found.parts_N.sum()) == pytest.approx(found.logit, abs=1e-4)
    partly = attribute(edit(who, TEXT, {"blocks.0.hook_attn_out[position=3]": zero}), "c")
    assert partly["edits"] == pytest.approx(0, abs=1e-4) and "blocks.1.attn.hook_z[head=0]" in partly.names


def test_tokens_are_named_or_refused() -> None:
    view = look(subject(), TEXT)
    assert attribute(view, "c").parts_N.tolist() == attribute(view, 2).parts_N.tolist()
    assert "logit of 'c' minus 'd' after 'q' (position 9)" in repr(attribute(view, "c", "d"))
    with pytest.raises(ValueError, match=r"'cd' is 2 tokens \('c', 'd'\)"):
        attribute(view, "cd")
    with pytest.raises(ValueError, match="no token 17"):
        attribute(view, 17)
    with pytest.raises(ValueError, match="there is no position 99; there are 0 to 9"):
        attribute(view, "c", position=99)


def test_a_norm_of_ones_own_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor, tap: Any = None) -> torch.Tensor:
            return x

    who = subject()
    who.model.ln_final = Odd()
    with pytest.raises(ValueError, match="Odd may not be linear"):
        attribute(look(who, TEXT), "c")


@PRESETS
def test_the_last_place_of_the_logit_lens_is_the_model(variant: dict[str, Any]) -> None:
    view = look(subject(**variant), TEXT)
    lens = logit_lens(view, sublayers=True, k=3)
    middles = 2 if variant.get("d_ff", 64) else 0
    assert len(lens.names) == 3 + middles and lens.ids_NTK.shape == (3 + middles, len(TEXT), 3)
    torch.testing.assert_close(lens.probs_NTK[-1], view.probs_TV.topk(3).values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(lens.loss_NT[-1, :-1], view.loss_T[1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(lens.entropy_NT[-1], view.entropy_T, atol=1e-5, rtol=1e-4)
    assert lens.loss_NT[:, -1].isnan().all()
    assert len(logit_lens(view).names) == 3
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        logit_lens(view, k=0)


@PRESETS
@torch.no_grad()
def test_each_place_of_the_logit_lens_is_read_as_the_last_one_is(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    view = look(who, TEXT)
    lens = logit_lens(view, sublayers=True, k=3)
    assert len(set(lens.names)) == len(lens.names) and ("blocks.1.hook_resid_mid" in lens.names) == (
        len(lens.names) == 5
    )
    for name, ids_TK, probs_TK in zip(lens.names, lens.ids_NTK, lens.probs_NTK, strict=True):
        logits = edit(who, TEXT, {"blocks.1.hook_resid_post": replace(view[name])}).logits_TV
        assert torch.equal(ids_TK, logits.topk(3).indices), name
        torch.testing.assert_close(probs_TK, logits.softmax(-1).topk(3).values, atol=1e-5, rtol=1e-4)


@PRESETS
def test_the_first_place_of_the_logit_lens_is_a_model_without_blocks(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    view = look(who, TEXT)
    lens = logit_lens(view, k=1)
    with torch.no_grad():
        who.model.blocks = nn.ModuleList()
        logits = who.model(torch.tensor([view.ids]))[0]
    assert torch.equal(lens.ids_NTK[0, :, 0], logits.argmax(-1))


@PRESETS
@torch.no_grad()
def test_a_direction_added_to_the_stream_moves_logits_as_said(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    view = look(who, TEXT)
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    scale = view["ln_final.hook_scale"]

    def tap(name: str, tensor: torch.Tensor) -> torch.Tensor:
        moved = tensor + direction if name == "blocks.1.hook_resid_post" else tensor
        return scale[None] if name == "ln_final.hook_scale" else moved

    moved = who.model(torch.tensor([view.ids]), tap=tap)[0] - view.logits_TV
    torch.testing.assert_close(moved[3], output_logits(who.model, direction) / scale[3], atol=1e-4, rtol=1e-4)
