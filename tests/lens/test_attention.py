import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from barreleye.lens.attention import (
    HeadScores,
    attention_patterns,
    classify_heads,
    head_scores,
    in_context_loss,
    repeated_tokens,
    rollout,
)
from barreleye.lens.edits import edit, replace, zero
from barreleye.lens.view import View, look

sys.path.insert(0, str(Path(__file__).parent))
from subjects import PRESETS, TEXT, subject


def looking_at(keys: dict[str, Tensor]) -> View:
    """A look whose heads of layer 0 attend where they are told."""
    who = subject()
    scores = torch.full((4, len(TEXT), len(TEXT)), -30.0).tril() + torch.zeros(len(TEXT), len(TEXT)).triu(1)
    for head, at in enumerate(keys.values()):
        scores[head][at] = 30
    change = replace(scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf))
    return edit(who, TEXT, {"blocks.0.attn.hook_attn_scores": change})


def edges(*pairs: tuple[int, int]) -> Tensor:
    at = torch.zeros(len(TEXT), len(TEXT), dtype=torch.bool)
    for query, key in pairs:
        at[query, key] = True
    return at


def test_each_kind_of_head_is_known_by_where_it_looks() -> None:
    """The text is a b c a d e a b c q: a stands at 0, 3, 6; b at 1, 7; c at 2, 8."""
    keys = {
        "previous token": edges(*((q, q - 1) for q in range(1, 10))),
        "induction": edges((3, 1), (6, 1), (6, 4), (7, 2), (8, 3)),
        "duplicate token": edges((3, 0), (6, 0), (6, 3), (7, 1), (8, 2)),
        "first token": edges(*((q, 0) for q in range(1, 10))),
    }
    found = head_scores(looking_at(keys))
    assert found.kinds[0] == list(keys)
    for head, kind in enumerate(keys):
        assert found.scores[kind][0, head] == pytest.approx(1, abs=1e-4)
    assert found.scores["induction"][0, 2] == pytest.approx(0, abs=1e-4)
    # The one at 3 looks at 0, the one at 6 at 0 and 3, and those that were told nothing look everywhere.
    assert found.scores["first token"][0, 2] == pytest.approx((1 + 1 / 2 + sum(1 / n for n in (2, 3, 5, 6, 10))) / 9)
    assert repr(found).count("\n") == 7 and "blocks.0.attn.hook_z[head=1] induction" in repr(found)


def test_a_small_score_is_mixed_and_a_fixed_pattern_positional() -> None:
    scores = {kind: torch.tensor([[0.1, 0.1, 0.5]]) for kind in ("previous token", "induction")}
    scores["positional"] = torch.tensor([[0.2, 0.9, 0.9]])
    assert HeadScores(scores).kinds == [["mixed", "positional", "previous token"]]


@PRESETS
def test_classification_is_of_random_repetitions_and_position_is_what_rows_share(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    found = classify_heads(who)
    assert found.scores["induction"].shape == (2, 4)
    ids = repeated_tokens(who.model, 8, 64)
    assert ids.shape == (8, 24)
    pattern = attention_patterns(who.model, ids)
    total = sum(1 - (pattern[1, a, 2, 1:] - pattern[1, a + 1, 2, 1:]).abs().sum(-1).mean() / 2 for a in range(7))
    assert found.scores["positional"][1, 2] == pytest.approx(float(total) / 7, abs=1e-4)


def test_heads_are_classified_under_edits() -> None:
    who = subject()
    plain = classify_heads(who)
    deaf = classify_heads(who, edits={"blocks.0.hook_attn_out": zero})
    assert torch.equal(deaf.scores["induction"][0], plain.scores["induction"][0])  # which reads nothing of what was cut
    assert not torch.allclose(deaf.scores["induction"][1], plain.scores["induction"][1], atol=1e-3)
    blind = classify_heads(who, edits={"blocks.1.attn.hook_pattern[head=2]": zero})
    assert not any(score[1, 2] for score in blind.scores.values())


def test_rows_repeat_with_periods_of_their_own_and_without_special_tokens() -> None:
    ids = repeated_tokens(subject(context_length=48).model, 40, 48, without=frozenset({0, 5}))
    periods = []
    for row in ids.tolist():
        assert not {0, 5} & set(row)
        periods.append(next(p for p in range(1, 48) if row[p:] == row[:-p]))
    assert min(periods) >= 12 and max(periods) <= 24 and len(set(periods)) > 6
    with pytest.raises(ValueError, match="too short"):
        repeated_tokens(subject(context_length=3).model, 2, 48)


def test_a_text_of_one_token_is_refused() -> None:
    with pytest.raises(ValueError, match="one token"):
        head_scores(look(subject(), "a"))


@PRESETS
def test_rollout_is_what_flows_through_residual_and_heads(variant: dict[str, Any]) -> None:
    view = look(subject(**variant), TEXT)
    flow = rollout(view)
    assert flow.shape == (2, 10, 10)
    torch.testing.assert_close(flow.sum(-1), torch.ones(2, 10))
    assert not flow.triu(1).any()
    first, second = ((view[f"blocks.{i}.attn.hook_pattern"].mean(0) + torch.eye(10)) / 2 for i in (0, 1))
    torch.testing.assert_close(flow[0], first)
    torch.testing.assert_close(flow[1, 7, 2], sum(second[7, m] * first[m, 2] for m in range(10)))


def test_in_context_loss_parts_what_was_there_before_from_what_was_not() -> None:
    model = subject().model
    ids = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    with torch.no_grad():
        log_probs = model(ids[:, :-1]).log_softmax(-1)[0]
    losses = [-float(log_probs[t, i]) for t, i in enumerate(ids[0, 1:].tolist())]
    new, known = in_context_loss(model, ids)
    assert known == pytest.approx(sum(losses[3:5]) / 2, rel=1e-4)
    assert new == pytest.approx((sum(losses[:3]) + losses[5]) / 4, rel=1e-4)
