import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from barreleye.config import Sampling
from barreleye.inference.generate import TorchStream, generate_tokens
from barreleye.lens.edits import EditedDecoder, EditTap, add, edit, edited, knock_out, mean, replace, zero
from barreleye.lens.subject import Subject
from barreleye.lens.view import View, look

sys.path.insert(0, str(Path(__file__).parent))
from subjects import CONTEXT, EVERY_VARIANT, LETTERS, OTHER, PRESETS, TEXT, subject


@EVERY_VARIANT
@torch.no_grad()
def test_ablation_by_edit_is_ablation_by_zeroing_the_weights(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    head = edit(who, TEXT, {"blocks.1.attn.hook_z[head=3]": zero}).logits_TV
    assert not torch.allclose(head, look(who, TEXT).logits_TV, atol=1e-3)
    who.model.blocks[1].attn.out.weight[:, 3 * 8 :] = 0
    torch.testing.assert_close(head, look(who, TEXT).logits_TV, atol=1e-5, rtol=1e-5)
    if who.model.config.d_ff:
        mlp = edit(who, TEXT, {"blocks.0.mlp.hook_post[neuron=5:20]": zero}).logits_TV
        who.model.blocks[0].mlp.down.weight[:, 5:20] = 0
        torch.testing.assert_close(mlp, look(who, TEXT).logits_TV, atol=1e-5, rtol=1e-5)


@EVERY_VARIANT
def test_a_prompt_patched_with_itself_is_the_same_to_the_bit(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    view = look(who, TEXT)
    patched = edit(who, TEXT, {name: replace(view) for name in view.shapes})
    assert torch.equal(patched.logits_TV, view.logits_TV)
    partly = {"blocks.*.attn.hook_z[head=1:3, position=2]": replace(view), "blocks.0.hook_resid_pre": replace(view)}
    assert torch.equal(edit(who, TEXT, partly).logits_TV, view.logits_TV)


@PRESETS
def test_patching_the_whole_stream_is_reading_the_other_text(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    other = look(who, OTHER)
    patched = edit(who, TEXT, {"blocks.1.hook_resid_pre": replace(other)})
    assert torch.equal(patched.logits_TV, other.logits_TV)
    at_last = edit(who, TEXT, {"blocks.1.hook_resid_post[position=-1]": replace(other)})
    assert torch.equal(at_last.logits_TV[:-1], look(who, TEXT).logits_TV[:-1])
    torch.testing.assert_close(at_last.logits_TV[-1], other.logits_TV[-1])


def test_patching_from_a_text_of_another_length_takes_a_position() -> None:
    who = subject()
    shorter = look(who, "qb")
    with pytest.raises(ValueError, match="that text has 2 tokens"):
        edit(who, TEXT, {"blocks.0.attn.hook_z[head=1]": replace(shorter)})
    with pytest.raises(ValueError, match="position 0 to 1, not 5"):
        edit(who, TEXT, {"blocks.0.attn.hook_z[position=5]": replace(shorter)})
    view = edit(who, TEXT, {"blocks.0.attn.hook_z[position=1, head=2]": replace(shorter)})
    assert torch.equal(view["blocks.0.attn.hook_z"][1, 2], shorter["blocks.0.attn.hook_z"][1, 2])


def test_a_view_under_edits_holds_what_the_model_went_on_with() -> None:
    who, plain = subject(), look(subject(), TEXT)
    direction = torch.arange(32.0)
    view = edit(
        who,
        TEXT,
        {
            "blocks.0.hook_resid_mid[position=3]": add(direction, 0.5),
            "blocks.1.attn.hook_z[head=0]": mean,
            "blocks.1.mlp.hook_post[neuron=2]": replace(7.0),
        },
        names="hook_embed",
    )
    assert view.is_edited and not plain.is_edited
    moved = view["blocks.0.hook_resid_mid"] - plain["blocks.0.hook_resid_mid"]
    torch.testing.assert_close(moved[3], 0.5 * direction)
    assert not moved[:3].any() and not moved[4:].any()
    z = view["blocks.1.attn.hook_z[head=0]"]
    assert (z == z[0]).all()
    assert (view["blocks.1.mlp.hook_post[neuron=2]"] == 7).all()
    assert not view["blocks.1.mlp.hook_post_grad"].isnan().any()


def test_mean_is_over_the_positions_before_the_edit() -> None:
    who = subject()
    view = edit(who, TEXT, {"blocks.0.hook_attn_out[position=4]": mean})
    plain = look(who, TEXT)["blocks.0.hook_attn_out"]
    torch.testing.assert_close(view["blocks.0.hook_attn_out"][4], plain.mean(0))
    assert torch.equal(view["blocks.0.hook_attn_out"][5], plain[5])


def test_a_knocked_out_edge_is_dark_and_the_rest_grows_in_proportion() -> None:
    who = subject()
    plain = look(who, TEXT)["blocks.0.attn.hook_pattern"]
    view = edit(who, TEXT, {"blocks.0.attn.hook_attn_scores[head=1, query=5, key=2]": knock_out})
    row, before = view["blocks.0.attn.hook_pattern"][1, 5], plain[1, 5].clone()
    before[2] = 0
    torch.testing.assert_close(row, before / before.sum())
    assert torch.equal(view["blocks.0.attn.hook_pattern"][0], plain[0])


@pytest.mark.parametrize(
    ("address", "change", "says"),
    [
        ("blocks.0.attn.hook_pattern[head=1, query=5, key=2]", knock_out, "are knocked out of"),
        ("blocks.0.attn.hook_attn_scores[query=0]", knock_out, "no key to attend to"),
        ("blocks.0.attn.hook_attn_scores", mean, "see later keys"),
        ("blocks.0.attn.hook_result[head=0]", zero, "edit that"),
        ("blocks.0.attn.hook_zz", zero, "did you mean 'blocks.0.attn.hook_z'"),
        ("blocks.0.attn.hook_z[position=10]", zero, "position 0 to 9, not 10"),
        ("blocks.0.attn.hook_z[head=0]", replace(torch.zeros(3)), "does not fit"),
    ],
)
def test_what_cannot_be_edited_is_refused(address: str, change: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        edit(subject(), TEXT, {address: change})


# Generation --------------------------------------------------------------------------------------------------------

GREEDY = Sampling(temperature=0)


def continued(who: Subject, edits: dict[str, Any], n: int) -> list[int]:
    """The likeliest tokens one after another, the whole text read anew for each; what is not there yet is left."""
    ids = LETTERS.encode(TEXT)
    for _ in range(n):
        ids.append(int(View(who, ids, tap=EditTap(who.model, edits, lambda: 0)).logits_TV[-1].argmax()))
    return ids[len(TEXT) :]


@PRESETS
@pytest.mark.parametrize(
    "edits",
    [
        {"blocks.0.attn.hook_z[head=1]": zero},
        {"blocks.1.hook_resid_post": add(torch.linspace(-3, 3, 32))},
        {"blocks.0.hook_resid_pre[position=4]": zero},
        {"blocks.0.hook_attn_out[position=9:14]": replace(1.0)},
        {"blocks.*.attn.hook_attn_scores[head=2, query=8:30, key=1]": knock_out},
        {"blocks.*.attn.hook_k[head=0, position=3]": zero},
    ],
    ids=lambda edits: next(iter(edits)),
)
def test_generation_under_edits_is_the_edited_pass_again_and_again(
    variant: dict[str, Any], edits: dict[str, Any]
) -> None:
    who = subject(**variant)
    n = CONTEXT - len(TEXT)
    tokens = list(generate_tokens(edited(who, edits), LETTERS.encode(TEXT), n, GREEDY))
    assert tokens == continued(who, edits, n)


@PRESETS
def test_generation_without_edits_is_plain_generation(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    plain = list(generate_tokens(who.model, LETTERS.encode(TEXT), 40, GREEDY))
    assert list(generate_tokens(edited(who, {}), LETTERS.encode(TEXT), 40, GREEDY)) == plain
    without = list(generate_tokens(edited(who, {"blocks.*.hook_attn_out": zero}), LETTERS.encode(TEXT), 40, GREEDY))
    assert without != plain


def test_two_streams_do_not_share_a_position() -> None:
    decoder = EditedDecoder(subject().model, {"blocks.0.hook_resid_pre[position=2]": zero})
    one, two = decoder.stream(), decoder.stream()
    assert isinstance(one, TorchStream)
    one.start([1, 2, 3, 4])
    two.start([1])
    for token in (2, 3, 4):
        two.read(token)
    torch.testing.assert_close(one.logits_BV, two.logits_BV)


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ({"blocks.0.attn.hook_z": mean}, "has no mean yet"),
        ({"blocks.0.attn.hook_z[position=-1]": zero}, "has no end yet"),
        ({"ln_final.hook_scale[position=1]": zero}, "leave out the position"),
        ({"blocks.0.attn.hook_y": zero}, "there is no activation"),
    ],
)
def test_what_generation_cannot_do_is_refused_before_it_begins(edits: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        edited(subject(), edits)


def test_every_name_can_be_edited() -> None:
    who = subject()
    plain = look(who, TEXT)
    for name, head in itertools.product(plain.shapes, (0, 3)):
        at = f"{name}[head={head}]" if ".attn." in name else name
        change = knock_out if name.endswith("scores") else add(torch.ones(()))
        at = at.replace("]", ", query=5, key=1]") if change is knock_out else at
        assert not torch.equal(edit(who, TEXT, {at: change}).logits_TV, plain.logits_TV), at
