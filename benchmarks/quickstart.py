"""What `make quickstart` grew: how long it took, and its held-out replies next to a 5-gram model's.

    python benchmarks/quickstart.py [RUN]

Without a run it grows the default fish first, and says how much memory that took. Both predictors score the same
tokens: the replies to prompts that training never saw, closing token included.
"""

import argparse
import math

import machine

from barreleye import Run, grow
from barreleye.data.split import overlap
from barreleye.evaluation.predictors import NGram, encode_rows, scored_tokens
from barreleye.run import latest_score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="a finished run (default: grow the fish)")
    arguments = parser.parse_args()
    run = Run(arguments.run) if arguments.run else grow("fish")
    memory = machine.peak_memory()
    corpus, tokenizer = run.corpus(), run.tokenizer

    lines = run.metrics()
    score = latest_score(lines)["replies"]
    seconds = max(line["seconds"] for line in lines if "seconds" in line)

    train, rows = encode_rows(corpus.train, tokenizer), encode_rows(corpus.held_out, tokenizer)
    ngram = NGram([row.ids for row in train], tokenizer.vocab_size)
    nats = scored_tokens(ngram.nats([row.ids for row in rows]), rows)
    spelled = sum(len(reply.text.encode()) for row in rows for reply in row.scored)
    assert len(nats) == score["tokens"], "the two predictors must score the same tokens"
    loss, bits = nats.mean(), nats.sum() / math.log(2) / spelled

    print(f"prompts on both sides of the split: {len(overlap(corpus.train, corpus.held_out))}")
    print(f"training took {seconds / 60:.1f} minutes ({run.config.train.steps} steps)")
    if not arguments.run:
        print(f"growing it held {memory / 2**20:,.0f} MiB at most, data and all")
    print(f"{'':12}{'loss':>8}{'perplexity':>12}{'bits per byte':>15}   over {len(nats):,} tokens of unseen replies")
    print(f"{'5-gram':12}{loss:8.4f}{math.exp(loss):12.2f}{bits:15.4f}")
    print(f"{run.name:12}{score['loss']:8.4f}{math.exp(score['loss']):12.2f}{score['bits_per_byte']:15.4f}")
    print(f"the model needs {score['bits_per_byte'] / bits:.2f} of the 5-gram's bits")


if __name__ == "__main__":
    main()
