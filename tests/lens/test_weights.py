import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from barreleye.lens import weights as weights_module
from barreleye.lens.view import look
from barreleye.lens.weights import neighbours, ov_circuit, pca, qk_circuit, spectra

sys.path.insert(0, str(Path(__file__).parent))
from subjects import MODERN, PRESETS, subject

ALONE = pytest.mark.parametrize(
    "knobs",
    [dict(), dict(qk_norm=True), MODERN, MODERN | dict(d_ff=0)],
    ids=["vanilla", "qk_norm", "modern", "attention only"],
)


def test_neighbours_are_by_angle() -> None:
    who = subject()
    with torch.no_grad():
        who.model.embed.weight[4] = 5 * who.model.embed.weight[2]
    found = neighbours(who, "c", k=3)
    assert found[0] == ("e", pytest.approx(1, abs=1e-5))
    assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)
    assert "c" not in [token for token, _ in neighbours(who, "c", k=99)]


def test_pca_finds_the_axes_of_a_flat_cloud() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([9.0, 3.0, 0.01])
    cloud = torch.randn(500, 3, generator=generator) * spread
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    found = pca(cloud @ turn + 7)
    centred = cloud - cloud.mean(0)
    agree = F.cosine_similarity(found.coordinates_NK, centred[:, :2], dim=0).abs()
    assert (agree > 0.98).all()
    assert found.share_K.sum() == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="have 1 to 3 components, not 4"):
        pca(cloud, 4)


def test_spectra_are_of_every_matrix() -> None:
    who = subject(tie_embeddings=False)
    found = {each.name: each for each in spectra(who)}
    others = {name for name, p in who.model.named_parameters() if p.ndim == 2 and not name.endswith("qkv.weight")}
    assert set(found) == others | {f"blocks.{layer}.attn.W_{each}" for layer in (0, 1) for each in "QKV"}
    one = found["blocks.0.attn.out.weight"]
    assert one.norm == pytest.approx(float(one.values.square().sum().sqrt()), rel=1e-4)
    with torch.no_grad():
        who.model.blocks[0].attn.out.weight.copy_(torch.eye(32))
        who.model.blocks[1].attn.out.weight.copy_(torch.ones(32, 32))
        who.model.blocks[0].mlp.down.weight.zero_()  # as every fresh block begins
    found = {each.name: each for each in spectra(who)}
    assert found["blocks.0.attn.out.weight"].rank == pytest.approx(32, rel=1e-4)
    assert found["blocks.1.attn.out.weight"].rank == pytest.approx(1, rel=1e-2)
    assert found["blocks.0.mlp.down.weight"].rank == 0 == found["blocks.0.mlp.down.weight"].norm


@PRESETS
def test_queries_keys_and_values_have_spectra_of_their_own(variant: dict[str, Any]) -> None:
    who = subject(**variant)
    attn = who.model.blocks[1].attn
    with torch.no_grad():
        attn.qkv.weight[:32] = 0
        attn.qkv.weight[-1] = 100
    q, k, v = ({each.name: each for each in spectra(who)}[f"blocks.1.attn.W_{each}"] for each in "QKV")
    assert q.shape == (32, 32) and k.shape == v.shape == (attn.kv_heads * 8, 32)
    assert q.norm == 0 and k.norm == pytest.approx(
        float(attn.qkv.weight.detach()[32 : 32 + len(k.values)].norm()), rel=1e-4
    )
    assert v.values[0] > 100 > k.values[0]


@ALONE
def test_qk_of_the_first_layer_is_its_scores_without_positions(knobs: dict[str, Any]) -> None:
    who = subject(**knobs | dict(positions="none"))
    circuit = qk_circuit(who, 0, 3)
    assert circuit.tokens[2] == "c" and circuit.map_NN.shape == (17, 17)
    scores = look(who, "ca")["blocks.0.attn.hook_attn_scores[head=3]"]
    assert float(circuit.map_NN[0, 2]) == pytest.approx(float(scores[1, 0]), rel=1e-4)
    some = qk_circuit(who, 0, 3, ["a", 2])
    assert some.tokens == ["a", "c"]
    torch.testing.assert_close(some.map_NN, circuit.map_NN[[0, 2]][:, [0, 2]])


def test_qk_with_rotary_positions_is_as_far_apart_as_told() -> None:
    who = subject(**MODERN)
    scores = look(who, "aabca")["blocks.0.attn.hook_attn_scores[head=3]"]
    for distance, (query, key) in {0: (1, 1), 1: (1, 0), 3: (4, 1)}.items():
        here = qk_circuit(who, 0, 3, ["a"], distance=distance).map_NN
        assert float(here) == pytest.approx(float(scores[query, key]), rel=1e-4)
    assert torch.equal(qk_circuit(subject(), 0, 3, distance=5).map_NN, qk_circuit(subject(), 0, 3).map_NN)
    with pytest.raises(ValueError, match="no distance 24; there are 0 to 23"):
        qk_circuit(who, 0, 3, distance=24)


@ALONE
def test_ov_of_the_first_layer_is_what_a_head_that_looks_there_adds(knobs: dict[str, Any]) -> None:
    """Two tokens in turn, looked at by one head alone: the difference has no bias in it."""
    who = subject(**knobs | dict(positions="none", n_layers=1, d_ff=0))
    circuit = ov_circuit(who, 0, 1)
    added = [look(who, text)["blocks.0.attn.hook_result[head=1, position=0]"] for text in "cf"]
    from barreleye.lens.attribution import output_logits

    torch.testing.assert_close(
        circuit.map_NN[2] - circuit.map_NN[5], output_logits(who.model, added[0] - added[1]), atol=1e-4, rtol=1e-3
    )
    torch.testing.assert_close(ov_circuit(who, 0, 1, ["f", "c"]).map_NN, circuit.map_NN[[5, 2]][:, [5, 2]])


@PRESETS
def test_a_layer_or_head_that_is_not_there_is_refused(variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    who = subject(**variant)
    with pytest.raises(ValueError, match="no layer 2; there are 0 to 1"):
        qk_circuit(who, 2, 0)
    with pytest.raises(ValueError, match="no head 4; there are 0 to 3"):
        ov_circuit(who, 0, 4)
    monkeypatch.setattr(weights_module, "MOST_CELLS", 100)
    with pytest.raises(ValueError, match="17 x 17 tokens is too large; choose some"):
        ov_circuit(who, 0, 0)
    assert ov_circuit(who, 0, 0, ["a"]).map_NN.shape == (1, 1)
    for circuit in (qk_circuit, ov_circuit):
        with pytest.raises(ValueError, match="the number of tokens must be at least 1, not 0"):
            circuit(who, 0, 0, [])
