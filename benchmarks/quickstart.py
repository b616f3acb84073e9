"""What `make quickstart` grew: how long it took, and its held-out replies next to a 5-gram model's.

    python benchmarks/quickstart.py [RUN]

Without a run it grows the default fish first. Both predictors score the same tokens: the replies to prompts that
training never saw, closing token included.
"""

import argparse
import math

from ngram import NGram

from barreleye import Run, grow
from barreleye.data.chat_format import Part, encode_chats
from barreleye.training.held_out import byte_lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="a finished run (default: grow the fish)")
    arguments = parser.parse_args()
    run = Run(arguments.run) if arguments.run else grow("fish")
    corpus, tokenizer = run.corpus(), run.tokenizer

    lines = run.metrics()
    score = [line["held_out"] for line in lines if "held_out" in line][-1]["replies"]
    seconds = max(line["seconds"] for line in lines if "seconds" in line)

    ngram = NGram((ids for ids, _ in encode_chats(corpus.train, tokenizer)), tokenizer.vocab_size)
    bytes_V = byte_lengths(tokenizer)
    nats, tokens, spelled = 0.0, 0, 0
    for ids, parts in encode_chats(corpus.held_out, tokenizer):
        scored = [part == Part.REPLY for part in parts]
        nats += ngram.loss(ids, scored)
        tokens += sum(scored)
        spelled += sum(int(bytes_V[token]) for token, counts in zip(ids, scored, strict=True) if counts)
    assert tokens == score["tokens"], "the two predictors must score the same tokens"
    loss, bits = nats / tokens, nats / math.log(2) / spelled

    print(f"prompts on both sides of the split: {corpus.report['overlap']}")
    print(f"training took {seconds / 60:.1f} minutes ({run.config.train.steps} steps)")
    print(f"{'':12}{'loss':>8}{'perplexity':>12}{'bits per byte':>15}   over {tokens:,} tokens of unseen replies")
    print(f"{'5-gram':12}{loss:8.4f}{math.exp(loss):12.2f}{bits:15.4f}")
    print(f"{run.name:12}{score['loss']:8.4f}{math.exp(score['loss']):12.2f}{score['bits_per_byte']:15.4f}")
    print(f"the model needs {score['bits_per_byte'] / bits:.2f} of the 5-gram's bits")


if __name__ == "__main__":
    main()
