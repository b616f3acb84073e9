import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from barreleye.data.chat_format import Message
from barreleye.lens.attribution import attribute, logit_lens
from barreleye.lens.edits import edit, zero
from barreleye.lens.neurons import neuron_output
from barreleye.lens.subject import subject_of
from barreleye.lens.view import look
from barreleye.model.transformer import masked_scores
from barreleye.studio import answers
from barreleye.studio.answers import WANTS, Question
from barreleye.studio.frames import Frame

sys.path.insert(0, str(Path(__file__).parent))
from frame import decode

SAID = {"fish": "are you a fish?", "modern": "hello", "letters": "the sea, 日本", "own": "two 🐟 blub"}
EVERY_RUN = pytest.mark.parametrize("name", SAID)
OFF = ["blocks.1.attn.hook_z[head=3]", "blocks.0.hook_attn_out"]


def asked(run, name, **question):
    return decode(answers.look(subject_of(run), SAID[name], (), Question(**question)).encode())


def same(mine, theirs):
    np.testing.assert_array_equal(mine, theirs.detach().numpy())


@EVERY_RUN
def test_probabilities_and_losses_are_those_of_the_lens(runs, name):
    header, _ = asked(runs[name], name, k=3)
    view = look(runs[name], SAID[name])
    assert [token["id"] for token in header["tokens"]] == view.ids
    assert [token["text"] for token in header["tokens"]] == view.tokens
    assert header["loss"] == [None, *view.loss_T[1:].tolist()]
    for position, row in enumerate(header["top"]):
        assert [(each["text"], each["probability"]) for each in row] == view.top(position, k=3)
        assert all(view.probs_TV[position, each["id"]] == each["probability"] for each in row)


@EVERY_RUN
def test_attention_and_residual_are_those_of_the_lens(runs, name):
    _, arrays = asked(runs[name], name, want=["pattern", "residual"])
    view = look(runs[name], SAID[name])
    same(arrays["pattern"], view["blocks.*.attn.hook_pattern"])
    assert arrays["pattern"].shape == (2, 4, len(view.ids), len(view.ids))
    same(arrays["resid_norm"][0], view["blocks.0.hook_resid_pre"].norm(dim=-1))
    same(arrays["resid_norm"][1:], view["blocks.*.hook_resid_post"].norm(dim=-1))
    same(arrays["attn_norm"], view["blocks.*.hook_attn_out"].norm(dim=-1))
    if name == "own":
        assert not arrays["mlp_norm"].any()
    else:
        same(arrays["mlp_norm"], view["blocks.*.hook_mlp_out"].norm(dim=-1))


@EVERY_RUN
def test_the_logit_lens_and_the_logits_are_those_of_the_lens(runs, name):
    header, arrays = asked(runs[name], name, want=["lens", "logits"], position=2)
    view = look(runs[name], SAID[name])
    found = logit_lens(view, k=1)
    assert [[each["id"] for each in row] for row in header["lens"]] == found.ids_NTK[..., 0].tolist()
    assert [[each["probability"] for each in row] for row in header["lens"]] == found.probs_NTK[..., 0].tolist()
    np.testing.assert_allclose(arrays["lens_probability"][:, :-1], (-found.loss_NT[:, :-1]).exp(), rtol=1e-6)
    # Read behind the last block, the lens says what the model says.
    came = view.probs_TV[:-1].gather(1, torch.tensor(view.ids[1:])[:, None])[:, 0]
    np.testing.assert_allclose(arrays["lens_probability"][-1, :-1], came, rtol=1e-4)
    assert np.isnan(arrays["lens_probability"][:, -1]).all()
    same(arrays["logits"], view.logits_TV[2])


@EVERY_RUN
def test_the_stages_of_a_head_lead_from_one_to_the_next(runs, name):
    _, arrays = asked(runs[name], name, want=["stages"], layer=1, head=3)
    view = look(runs[name], SAID[name])
    scores = torch.tensor(arrays["scores"])
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    same(scores[~later], view["blocks.1.attn.hook_attn_scores[head=3]"][~later])
    assert scores.isfinite().all() and scores[later].any()
    torch.testing.assert_close(
        scores.masked_fill(later, -math.inf).softmax(-1), torch.tensor(arrays["pattern"]), atol=1e-6, rtol=1e-5
    )
    same(arrays["pattern"], view["blocks.1.attn.hook_pattern[head=3]"])
    same(arrays["z"], view["blocks.1.attn.hook_z[head=3]"])
    same(arrays["result"], view["blocks.1.attn.hook_result[head=3]"].norm(dim=-1))


@EVERY_RUN
def test_scores_before_the_mask_are_queries_times_keys(runs, name, monkeypatch):
    """With a mask that hides nothing, the model's own scores."""
    _, arrays = asked(runs[name], name, want=["stages"], layer=0, head=2)
    whole = lambda q, k: masked_scores(q, k).masked_fill(torch.tensor(False), 0)  # noqa: E731
    q_k = {}

    def keep(q, k):
        q_k.setdefault("first", (q[0], k[0]))
        return whole(q, k)

    monkeypatch.setattr("barreleye.model.transformer.masked_scores", keep)
    look(runs[name], SAID[name])
    q_THD, k_THD = q_k["first"]
    raw = q_THD[:, 2] @ k_THD[:, 2].T / math.sqrt(q_THD.shape[-1])
    np.testing.assert_allclose(arrays["scores"], raw.detach(), atol=1e-5)


def test_the_pattern_of_all_heads_goes_before_that_of_one(runs):
    for want in (["pattern", "stages"], ["stages", "pattern"]):
        _, arrays = asked(runs["fish"], "fish", want=want)
        assert arrays["pattern"].ndim == 4 and arrays["z"].ndim == 2


@EVERY_RUN
def test_attribution_is_that_of_the_lens_and_sums_to_the_logit(runs, name):
    view = look(runs[name], SAID[name])
    for token in (None, 5):
        header, _ = asked(runs[name], name, want=["attribution"], position=-2, token=token)
        chosen = int(view.logits_TV[-2].argmax()) if token is None else token
        found = attribute(view, chosen, position=-2)
        assert [(each["part"], each["value"]) for each in header["attribution"]] == found.largest(1000)
        assert header["attribution_of"]["id"] == chosen
        assert header["attribution_of"]["position"] == len(view.ids) - 2
        total = sum(each["value"] for each in header["attribution"])
        assert total == pytest.approx(header["attribution_of"]["logit"], abs=1e-4)


def test_neurons_are_the_most_active_and_write_what_the_lens_says(runs):
    header, _ = asked(runs["modern"], "modern", want=["neurons"], position=1, k=4)
    view = look(runs["modern"], SAID["modern"])
    for layer, row in enumerate(header["neurons"]):
        post_F = view[f"blocks.{layer}.mlp.hook_post[position=1]"]
        assert [each["neuron"] for each in row] == post_F.abs().topk(4).indices.tolist()
        for each in row:
            assert each["activation"] == post_F[each["neuron"]]
            likelier, less_likely = neuron_output(runs["modern"], layer, each["neuron"], k=5)
            assert each["writes"] == [text for text, _ in (likelier if each["activation"] > 0 else less_likely)]
    assert asked(runs["own"], "own", want=["neurons"])[0]["neurons"] == []


def test_a_part_switched_off_is_an_edit(runs):
    subject = subject_of(runs["fish"])
    want = ["pattern", "logits", "lens", "attribution"]
    header, arrays = decode(answers.look(subject, SAID["fish"], OFF, Question(want)).encode())
    view = edit(subject, SAID["fish"], dict.fromkeys(OFF, zero))
    same(arrays["logits"], view.logits_TV[-1])
    same(arrays["pattern"], view["blocks.*.attn.hook_pattern"])
    assert not torch.allclose(view.logits_TV, look(subject, SAID["fish"]).logits_TV)
    parts = {each["part"]: each["value"] for each in header["attribution"]}
    assert parts["blocks.1.attn.hook_z[head=3]"] == parts["blocks.0.hook_attn_out"] == 0


def test_turns_and_ids_are_read_as_the_lens_reads_them(runs):
    subject, turns = subject_of(runs["fish"]), [Message("user", "hello"), Message("assistant", "blub")]
    ids = look(subject, turns).ids
    for text in (turns, ids):
        assert [token["id"] for token in answers.look(subject, text).header["tokens"]] == ids


@EVERY_RUN
def test_one_pass_is_enough(runs, name, monkeypatch):
    passes, subject = [], subject_of(runs[name])
    answers.look(subject, SAID[name])  # what shapes there are is known from now on
    subject.model.register_forward_hook(lambda *_: passes.append(1))
    answers.look(subject, SAID[name], (), Question(list(WANTS)))
    assert len(passes) == 1
    subject.model._forward_hooks.clear()


def test_a_model_that_came_to_nothing_still_has_a_frame(runs):
    subject = subject_of(runs["fish"])
    model = runs["fish"].load_model()
    with torch.no_grad():
        model.embed.weight.fill_(math.nan)
    header, arrays = decode(answers.look(subject._replace(model=model), "hi", (), Question(list(WANTS))).encode())
    assert header["top"][0][0]["probability"] is None and header["loss"][1] is None
    assert np.isnan(arrays["pattern"]).any()


def test_a_picture_too_large_for_a_page_is_refused_before_it_is_computed(runs):
    config = runs["fish"].config.model
    with pytest.raises(ValueError, match="too large a picture; shorten the text"):
        answers.check_size(replace(config, n_layers=40), 400, Question(["pattern"]))
    with pytest.raises(ValueError, match="too large to be looked at here"):
        answers.check_size(config, 5000, Question())
    answers.check_size(config, 400, Question())


@pytest.mark.parametrize(
    ("question", "line"),
    [
        (dict(want=["stages"], layer=2), "there is no layer 2; there are 0 to 1"),
        (dict(want=["stages"], layer=-1), "there is no layer -1; there are 0 to 1"),
        (dict(want=["stages"], head=4), "there is no head 4; there are 0 to 3"),
        (dict(want=["logits"], position=99), "there is no position 99"),
        (dict(want=["neurons"], position=-99), "there is no position -99"),
        (dict(want=["attribution"], token=10**6), "there is no token 1000000"),
    ],
)
def test_what_is_not_there_is_refused(runs, question, line):
    with pytest.raises(ValueError, match=line):
        asked(runs["fish"], "fish", **question)


def test_a_frame_is_readable_whatever_it_holds():
    header, arrays = decode(
        Frame({"words": "日本 🐟"}, {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(0)}).encode()
    )
    assert header["words"] == "日本 🐟"
    np.testing.assert_array_equal(arrays["a"], [[0, 3], [1, 4], [2, 5]])
    assert arrays["b"].shape == (0,)
    assert decode(Frame({}).encode()) == ({"arrays": []}, {})
