"""What nobody should have to wait for: the help, the import, composing conversations, tokenizing.

    python benchmarks/small_things.py [--text FILE] [--rounds N]

Each is timed in processes or vocabularies of its own, some times over, and the best is told: other programs only add.
FILE is a long text (`shakespeare`, which is fetched, unless told).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from machine import name, tell

from barreleye import Tokenizer
from barreleye.config import DataConfig
from barreleye.data.batches import encode_text
from barreleye.data.chat_format import chat_texts
from barreleye.data.corpus import prepare
from barreleye.data.text import read_shakespeare, read_text
from barreleye.training.material import learn_tokenizer

COMPOSE = """
import time
began = time.perf_counter()
from barreleye.config import DataConfig
from barreleye.data.corpus import prepare
corpus = prepare(DataConfig(), seed=1)
print(time.perf_counter() - began)
"""


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def python(*arguments: str) -> str:
    """What a new process prints."""
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="shakespeare")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    def best(measure: Callable[[], float]) -> float:
        return min(measure() for _ in range(arguments.rounds))

    def start(*arguments: str) -> float:
        return best(lambda: seconds(lambda: python(*arguments)))

    print(f"{name()}; best of {arguments.rounds}")
    print(
        f"an empty Python starts in {start('-c', ''):.3f} s, with barreleye in {start('-c', 'import barreleye'):.3f} s"
    )
    loaded = python("-c", "import sys, barreleye; print('torch' in sys.modules)")
    tell("torch imported by `import barreleye`", float(loaded == "True\n"), 0, "", at_most=True)
    tell("`barreleye --help`", start("-m", "barreleye", "--help"), 0.3, "s", at_most=True)
    tell("60,000 conversations, imports counted", best(lambda: float(python("-c", COMPOSE))), 5, "s", at_most=True)

    corpus = prepare(DataConfig(), seed=1)
    chats = list(dict.fromkeys(chat_texts(corpus.train)))  # as batches encode them: each distinct text once
    text = read_shakespeare() if arguments.text == "shakespeare" else read_text(Path(arguments.text))
    with tempfile.TemporaryDirectory() as folder:
        learn_tokenizer(DataConfig(), corpus).save(folder)

        def megabytes_per_second(texts: list[str], encode: Callable[[Tokenizer], object]) -> float:
            def measure() -> float:
                fresh = Tokenizer.load(folder)  # which remembers no word
                return seconds(lambda: encode(fresh))

            return sum(len(each.encode()) for each in texts) / 1e6 / best(measure)

        tell("tokenizing chats", megabytes_per_second(chats, lambda fresh: fresh.encode_batch(chats)), 5, "MB/s")
        tell("tokenizing a long text", megabytes_per_second([text], lambda fresh: encode_text(text, fresh)), 5, "MB/s")


if __name__ == "__main__":
    main()
