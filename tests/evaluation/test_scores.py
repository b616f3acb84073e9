import math
from pathlib import Path

import numpy as np
import pytest
import torch

from barreleye.config import Config, DataConfig, ModelConfig, TrainConfig
from barreleye.data.batches import ChatBatches
from barreleye.data.chat_format import CHAT_SPECIAL_TOKENS, Conversation, Message, chat_texts, encode_chat
from barreleye.data.corpus import Corpus
from barreleye.data.tokenizer import learn_bpe, learn_characters
from barreleye.evaluation import scores as scores_module
from barreleye.evaluation.figures import Figure
from barreleye.evaluation.scores import Scores, model_nats, score_replies, summarize, verdict
from barreleye.model.transformer import Transformer
from barreleye.run import Run, create
from barreleye.training.held_out import byte_lengths, held_out_loss

WHY = (Message("user", "why?", True), Message("assistant", "because of the water é🐟", True))


def chat(prompt: str, reply: str) -> Conversation:
    return Conversation((Message("user", prompt), Message("assistant", reply), *WHY))


TRAIN = [chat(f"hello {n}", f"blub {n} é🐟") for n in range(30)]
HELD_OUT = [chat(f"who is {n}?", f"{n}, the {'fish ' * (n % 3)}of it all") for n in range(12)]
ROWS = [chat(f"hello {n}", f"blub {n + 1}") for n in range(5)]
BPE = learn_bpe(chat_texts(TRAIN), 300, CHAT_SPECIAL_TOKENS)


def build(context: int) -> Transformer:
    torch.manual_seed(0)
    shape = dict(n_layers=1, n_heads=2, d_model=16, d_ff=32, context_length=context, vocab_size=BPE.vocab_size)
    return Transformer(ModelConfig(**shape, init_std=0.5, embed_std=0.5)).eval()  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    model = build(100)
    corpus = Corpus(TRAIN, HELD_OUT, {"overlap": 0}, unseen_rows=ROWS)
    made = create(tmp_path / "r", Config(DataConfig(), model.config, TrainConfig()), BPE, corpus)
    made.save_model(model.state_dict())
    return made


def score_run(run: Run, model: Transformer | None = None, **more: int) -> Scores:
    return score_replies(run.corpus(), model or run.load_model(), run.tokenizer, **more)


@pytest.mark.parametrize("context", [100, 16])
def test_the_models_nats_token_by_token(context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores_module, "BATCH_TOKENS", 150)
    model = build(context)
    rows = [np.array(encode_chat(c.messages, BPE)[0]) for c in (*HELD_OUT, *ROWS)]
    for row, nats in zip(rows, model_nats(model.train(), rows), strict=True):
        assert math.isnan(nats[0]) and nats.shape == row.shape and len(row) > 17
        for end in range(1, len(row)):
            start = (end - 1) // context * context
            with torch.no_grad():
                logits = model(torch.from_numpy(row[None, start:end]))[0, -1].double()
            assert nats[end] == pytest.approx(float(logits.logsumexp(0) - logits[row[end]]), rel=1e-4)


def test_it_agrees_with_what_training_says(run: Run) -> None:
    batches = ChatBatches(HELD_OUT, BPE, 100, 500)
    said = held_out_loss(
        run.load_model(), batches.held_out(), byte_lengths(BPE), TrainConfig(device="cpu", precision="float32")
    ).replies
    score = score_run(run).sets["unseen prompts"]
    assert said is not None and score.tokens == said.tokens
    assert score.model.value == pytest.approx(said.bits_per_byte, rel=1e-5)


def test_every_reply_is_scored_once_by_all(run: Run) -> None:
    scores = score_run(run)
    assert list(scores.sets) == ["unseen rows", "unseen prompts"]  # no topic is held out
    assert [(line["set"], line["reply"]) for line in scores.raw] == [
        *(("unseen rows", c.messages[1].content) for c in ROWS),
        *(("unseen prompts", c.messages[1].content.strip()) for c in HELD_OUT),
    ]
    assert 0 <= scores.lookup_weight <= 1
    for name, score in scores.sets.items():
        lines = [line for line in scores.raw if line["set"] == name]
        assert (score.replies, score.bytes) == (len(lines), sum(len(line["reply"].encode()) for line in lines))
        assert list(score.baselines) == list(score.differences) == ["unigram", "5-gram", "lookup"]
        for who, figure in {"model": score.model, **score.baselines}.items():
            bits = sum(line["nats"][who] for line in lines) / math.log(2)
            assert figure.value == pytest.approx(bits / score.bytes) and figure.low < figure.value < figure.high
        for who, difference in score.differences.items():
            assert difference.value == pytest.approx(score.model.value - score.baselines[who].value)
        assert score.verdict.startswith("does not beat")  # nothing was learned


def test_a_cap_takes_the_same_conversations_each_time(run: Run) -> None:
    once, again, other = (score_run(run, cap=4, seed=seed) for seed in (1, 1, 2))
    assert once == again
    assert [score.replies for score in once.sets.values()] == [4, 4]
    assert [line["reply"] for line in once.raw] != [line["reply"] for line in other.raw]


def test_a_conversation_of_follow_ups_alone_is_left_out(run: Run) -> None:
    alone = Corpus(TRAIN, [Conversation(WHY), *HELD_OUT], {"overlap": 0})
    made = create(run.path.parent / "other", run.config, BPE, alone)
    made.save_model(build(100).state_dict())
    assert score_run(made, cap=12).sets["unseen prompts"].replies == 12


def test_a_model_that_is_loaded_already(run: Run) -> None:
    model = run.load_model()
    assert score_run(run, model) == score_run(run)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    score = score_run(run, model).sets["unseen rows"]
    assert score.model.value * score.bytes == pytest.approx(score.tokens * math.log2(BPE.vocab_size))


def test_a_text_has_no_replies(tmp_path: Path) -> None:
    text = "the fish swam.\n" * 9
    tokenizer = learn_characters(text)
    config = Config(DataConfig(kind="text"), ModelConfig(vocab_size=tokenizer.vocab_size), TrainConfig())
    run = create(tmp_path / "r", config, tokenizer, Corpus(text, text, {}))
    with pytest.raises(ValueError, match="plain text has no replies to score"):
        score_run(run, build(100))


@pytest.mark.parametrize("topics", [False, True])
def test_topics_or_else_conversations_are_what_is_resampled(topics: bool) -> None:
    """Ten replies on one topic, or of one conversation where there are no topics, are one piece of evidence."""

    def lines(conversations: int) -> list[dict[str, object]]:
        rng = np.random.default_rng(0)
        nats = [{"model": float(x), "lookup": 1.0} for x in rng.exponential(size=conversations)]
        return [
            {"set": "unseen rows", "conversation": 10 * i + j if topics else i, "topic": f"about {i}" if topics else ""}
            | {"bytes": 3, "tokens": 2, "nats": nats[i]}
            for i in range(conversations)
            for j in range(10)
        ]

    score = summarize(lines(20))
    assert (score.model.n, score.replies, score.tokens, score.bytes) == (20, 200, 400, 600)
    assert score.model.high - score.model.low > 0.2


BETTER, WORSE, EITHER = Figure(-0.2, -0.3, -0.1, 9), Figure(0.2, 0.1, 0.3, 9), Figure(-0.2, -0.5, 0.1, 9)


@pytest.mark.parametrize(
    ("name", "differences", "said"),
    [
        ("unseen prompts", dict(unigram=BETTER, lookup=BETTER),
         "beats unigram and lookup on unseen prompts, and so says more than what was said to similar ones"),
        ("unseen prompts", dict(a=BETTER, b=BETTER, lookup=WORSE),
         "beats a and b but does not beat lookup on unseen prompts: it has not generalized"),
        ("unseen prompts", dict(a=BETTER, lookup=EITHER),
         "beats a but does not beat lookup on unseen prompts: it has not generalized"),
        ("unseen rows", dict(a=BETTER, b=BETTER, lookup=BETTER), "beats a, b and lookup on unseen rows"),
        ("unseen topics", dict(a=WORSE, lookup=EITHER), "does not beat a and lookup on unseen topics"),
    ],
)  # fmt: skip
def test_the_verdict(name: str, differences: dict[str, Figure], said: str) -> None:
    assert verdict(name, differences) == said
