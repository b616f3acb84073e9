import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from barreleye.config import Sampling
from barreleye.inference.generate import TorchStream, generate_tokens
from barreleye.lens.edits import EditedDecoder, add, edit, edited, knock_out, mean, replace, zero
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
    with pytest.raises(
        ValueError, match=r"\(2, 8\) in the source and \(10, 8\) here; .* give position= that both have"
    ):
        edit(who, TEXT, {"blocks.0.attn.hook_z[head=1]": replace(shorter)})
    with pytest.raises(ValueError, match=r"\(4, 2, 2\) in the source .* give query= and key= that both have"):
        edit(who, TEXT, {"blocks.0.attn.hook_pattern": replace(shorter)})
    with pytest.raises(ValueError, match="position 0 to 1, not 5"):
        edit(who, TEXT, {"blocks.0.attn.hook_z[position=5]": replace(shorter)})
    view = edit(who, TEXT, {"blocks.0.attn.hook_z[position=1, head=2]": replace(shorter)})
    assert torch.equal(view["blocks.0.attn.hook_z"][1, 2], shorter["blocks.0.attn.hook_z"][1, 2])
    with pytest.raises(ValueError, match="position 0 to 0, not 0:3"):  # one token is not broadcast
        edit(who, TEXT, {"blocks.0.hook_resid_pre[position=0:3]": replace(look(who, "q"))})
    with pytest.raises(ValueError, match=r"\(20, 32\) in the source"):  # and a longer text is not cut
        edit(who, TEXT, {"blocks.0.hook_resid_pre": replace(look(who, OTHER + TEXT))})
    last = edit(who, TEXT, {"blocks.0.hook_resid_pre[position=-1]": replace(shorter)})  # each text's own
    assert torch.equal(last["blocks.0.hook_resid_pre"][9], shorter["blocks.0.hook_resid_pre"][1])


def test_patching_from_a_wider_model_says_so() -> None:
    wide = look(subject(d_model=64), TEXT)
    with pytest.raises(ValueError, match=r"\(10, 64\) in the source and \(10, 32\) here"):
        edit(subject(), TEXT, {"blocks.0.hook_resid_pre": replace(wide)})


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
    assert view.edited == {"blocks.0.hook_resid_mid", "blocks.1.attn.hook_z", "blocks.1.mlp.hook_post"}
    assert not plain.edited
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
        ("blocks.0.attn.hook_z[position=8:12]", zero, "position 0 to 9, not 8:12"),
        ("blocks.0.attn.hook_z[position=5:2]", zero, "position 0 to 9, not 5:2"),
        ("blocks.0.attn.hook_z[position=:0]", zero, "position 0 to 9, not :0"),
        ("blocks.0.attn.hook_z[head=7:9]", zero, "head 0 to 3, not 7:9"),
        ("blocks.0.attn.hook_z[head=1, head=2]", zero, "gives head twice"),
        ("blocks.1.attn.hook_*[position=3]", zero, "blocks.1.attn.hook_attn_scores has no axis 'position'"),
        ("blocks.0.attn.hook_z[head=0]", replace(torch.zeros(3)), r"has shape \(10, 8\); \(3,\) does not fit"),
        ("blocks.0.attn.hook_z", add(torch.zeros(3)), r"has shape \(10, 4, 8\); \(3,\) does not fit"),
        ("blocks.0.attn.hook_z", lambda x, at: torch.zeros(3), r"the change does not fit, \(3,\) to \(1, 10, 4, 8\)"),
        ("blocks.0.attn.hook_z", lambda x, at: "much", "a change gives a tensor, not 'much'"),
        ("blocks.0.attn.hook_z", 0, r"0 is no change; give zero, replace\(0\)"),
    ],
)
def test_what_cannot_be_edited_is_refused(address: str, change: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        edit(subject(), TEXT, {address: change})


def test_what_is_no_tensor_is_refused_and_a_list_is_one() -> None:
    for source in ("goodbye", None, subject()):
        with pytest.raises(ValueError, match="replace takes a view, a tensor or a number, not "):
            replace(source)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="add takes a direction, not 'up'"):
        add("up")  # type: ignore[arg-type]
    at = "blocks.0.hook_resid_post"
    listed = edit(subject(), TEXT, {at: add([1.0] * 32)}).logits_TV
    assert torch.equal(listed, edit(subject(), TEXT, {at: lambda x, at: x[at.index] + 1}).logits_TV)
    assert (edit(subject(), TEXT, {f"{at}[channel=3]": lambda x, at: 0.5})[f"{at}[channel=3]"] == 0.5).all()


def test_edits_of_one_place_apply_in_the_order_given() -> None:
    at, later = "blocks.0.hook_resid_post", "blocks.*.hook_resid_post"
    after = edit(subject(), TEXT, {at: zero, later: add(1.0)})[at]
    assert (after == 1).all()
    assert not edit(subject(), TEXT, {later: add(1.0), at: zero})[at].any()


# Generation --------------------------------------------------------------------------------------------------------

GREEDY = Sampling(temperature=0)


def continued(who: Subject, tap: Any, n: int) -> list[int]:
    """The likeliest tokens one after another, the whole text read anew for each, edited by hand."""
    ids = LETTERS.encode(TEXT)
    with torch.no_grad():
        for _ in range(n):
            ids.append(int(who.model(torch.tensor([ids]), tap=tap)[0, -1].argmax()))
    return ids[len(TEXT) :]


STEERED, ROWS = torch.linspace(-3, 3, 32), torch.linspace(-9, 9, 4 * 32).reshape(4, 32)


def source() -> View:
    return look(subject(), OTHER + "abcd")


def by_hand(at: str) -> Any:
    """What the edit of GENERATED at this address does, written out as a tap over the whole text."""

    def tap(name: str, x: torch.Tensor) -> torch.Tensor:
        x, end = x.clone(), x.shape[-2 if name.endswith(("scores", "pattern")) else 1]
        if at == "a head" and name == "blocks.0.attn.hook_z":
            x[:, :, 1] = 0
        if at == "steering" and name == "blocks.1.hook_resid_post":
            x += STEERED
        if at == "a place" and name == "blocks.0.hook_resid_pre":
            x[:, 4] = 0
        if at == "a range" and name == "blocks.0.hook_attn_out":
            x[:, 9:14] = 1
        if at == "an edge" and name.endswith("hook_attn_scores") and end > 8:
            x[:, 2, 8:24, 1] = -torch.inf
        if at == "a key" and name.endswith("hook_k"):
            x[:, 3, 0] = 0
        if at == "rows" and name == "blocks.0.hook_resid_post":
            x[:, 8:12] = ROWS[: end - 8]
        if at == "rows added" and name == "blocks.0.hook_resid_post":
            x[:, 8:12] += ROWS[: end - 8]
        if at == "patched" and name == "blocks.0.hook_resid_post":
            x[:, 8:12] = source()["blocks.0.hook_resid_post"][8 : min(12, end)]
        if at == "a patched query" and name == "blocks.0.attn.hook_pattern":
            x[:, :, 1, :2] = source()["blocks.0.attn.hook_pattern"][:, 1, :2]
        if at == "patched keys" and name == "blocks.0.attn.hook_pattern":
            x[:, 1:3, 8:12, 1:5] = source()["blocks.0.attn.hook_pattern"][1:3, 8 : min(12, end), 1:5]
        if at == "the final norm" and name == "ln_final.hook_scale" and end > 11:
            x[:, 11] = 0.01
        return x

    return tap


GENERATED = {
    "a head": lambda: {"blocks.0.attn.hook_z[head=1]": zero},
    "steering": lambda: {"blocks.1.hook_resid_post": add(STEERED)},
    "a place": lambda: {"blocks.0.hook_resid_pre[position=4]": zero},
    "a range": lambda: {"blocks.0.hook_attn_out[position=9:14]": replace(1.0)},
    "an edge": lambda: {"blocks.*.attn.hook_attn_scores[head=2, query=8:, key=1]": knock_out},
    "a key": lambda: {"blocks.*.attn.hook_k[head=0, position=3]": zero},
    "rows": lambda: {"blocks.0.hook_resid_post[position=8:12]": replace(ROWS)},
    "rows added": lambda: {"blocks.0.hook_resid_post[position=8:12]": add(ROWS)},
    "patched": lambda: {"blocks.0.hook_resid_post[position=8:12]": replace(source())},
    "a patched query": lambda: {"blocks.0.attn.hook_pattern[query=1, key=0:2]": replace(source())},
    "patched keys": lambda: {"blocks.0.attn.hook_pattern[head=1:3, query=8:12, key=1:5]": replace(source())},
    "the final norm": lambda: {"ln_final.hook_scale[position=11]": replace(0.01)},
}


@PRESETS
@pytest.mark.parametrize("at", GENERATED)
def test_generation_under_edits_is_the_edited_pass_again_and_again(variant: dict[str, Any], at: str) -> None:
    """The prompt ends, and so the first piece, in the middle of most of these ranges."""
    who = subject(**variant)
    n = CONTEXT - len(TEXT)
    tokens = list(generate_tokens(edited(who, GENERATED[at]()), LETTERS.encode(TEXT), n, GREEDY))
    assert tokens == continued(who, by_hand(at), n)


@PRESETS
def test_each_logit_under_edits_is_that_of_the_edited_pass(variant: dict[str, Any]) -> None:
    """Tokens alone would hide what changes no likeliest one."""
    who = subject(**variant)
    ids = (LETTERS.encode(TEXT + OTHER) * 2)[:CONTEXT]
    for at, edits in GENERATED.items():
        stream = edited(who, edits()).stream()
        with torch.no_grad():
            whole = who.model(torch.tensor([ids]), tap=by_hand(at))[0]
        stream.start(ids[:10])
        for position, token in enumerate(ids[10:], 9):
            torch.testing.assert_close(stream.logits_BV[0], whole[position], atol=1e-4, rtol=1e-4, msg=at)
            stream.read(token)
        assert not torch.allclose(whole, look(who, ids).logits_TV, atol=1e-3), at


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
        ({"blocks.*.attn.hook_pattern[query=-2:]": zero}, "has no end yet"),
        ({"blocks.0.attn.hook_y": zero}, "there is no activation"),
        ({"blocks.0.attn.hook_z[head=99]": zero}, "head 0 to 3, not 99"),
        ({"blocks.0.attn.hook_z[position=0:0]": zero}, "position 0 to 23, not 0:0"),
        ({"blocks.0.attn.hook_z[position=20:30]": zero}, "position 0 to 23, not 20:30"),
        ({"blocks.0.attn.hook_*[position=1]": zero}, "has no axis 'position'"),
        ({"blocks.0.attn.hook_z[head=1]": add(torch.ones(5))}, "does not fit"),
        ({"blocks.0.hook_resid_pre": replace(torch.ones(10, 32))}, r"shape \(24, 32\); \(10, 32\) does not fit"),
        ({"blocks.0.attn.hook_z[head=1]": 0}, "is no change"),
        ({"blocks.0.attn.hook_attn_scores[query=0:3]": knock_out}, "no key to attend to"),
    ],
)
def test_what_generation_cannot_do_is_refused_before_it_begins(edits: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        edited(subject(), edits)


def test_generation_from_the_source_takes_the_positions_that_it_has() -> None:
    who = subject()
    for at in ("hook_resid_pre", "attn.hook_pattern[query=1]"):
        with pytest.raises(ValueError, match=r"in the source and .* here; for texts of different lengths give"):
            edited(who, {f"blocks.0.{at}": replace(look(who, TEXT))})


def test_every_name_can_be_edited() -> None:
    who = subject()
    plain = look(who, TEXT)
    for name, head in itertools.product(plain.shapes, (0, 3)):
        at = f"{name}[head={head}]" if ".attn." in name else name
        change = knock_out if name.endswith("scores") else add(torch.ones(()))
        at = at.replace("]", ", query=5, key=1]") if change is knock_out else at
        assert not torch.equal(edit(who, TEXT, {at: change}).logits_TV, plain.logits_TV), at
