"""What a person types, read as the words that were meant: one a slip away from a far commoner word becomes that word.

A small model knows most words as whole tokens, and a word with a letter wrong falls into pieces that it has hardly seen
(docs/evaluation.md has what that costs). So a slip is mended before the model reads it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from barreleye.data.chat_format import Conversation

OFTEN = 20  # times said: then it is a word that may have been meant
RARER = 30  # times: each single slip is this much rarer than its word; what is not, is a word of its own
OWN = 80  # times said: so often no slip is, and it is a word of its own
SHORT = 3  # letters: up to here most strings are a slip away from some word, and many are names

Read = Callable[[str], str]
"""What the model reads of what a person types."""

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def as_typed(text: str) -> str:
    return text


def count_words(conversations: Iterable[Conversation]) -> Counter[str]:
    """How often each word was said by the person, in lowercase, as it is read."""
    said = (m.content.lower().replace("’", "'") for c in conversations for m in c.messages if m.role == "user")
    return Counter(word for text in said for word in _WORD.findall(text))


class Spelling:
    """text -> text, as a person meant it, by how often words were said in training (Norvig 2007).

    A slip is a letter dropped, added, changed or moved (Damerau 1964): the two words are the same when each of them
    loses at most one letter. The first letter is nearly always right, or changed places with the second. A short word
    is mended only where it has another one's letters, or where training, which has slips of its own, has this one.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = counts
        self.words: defaultdict[str, list[str]] = defaultdict(list)
        for word, times in counts.items():
            if times >= OFTEN and len(word) > 1:
                for key in _with_a_letter_less(word):
                    self.words[key].append(word)
        self.longest = max(map(len, self.words), default=0) + 1

    def __call__(self, text: str) -> str:
        return _WORD.sub(lambda match: self.meant(match[0]), text.replace("’", "'"))

    def meant(self, word: str) -> str:
        """The word itself, or a far commoner one that is a slip away."""
        typed = word.lower()
        letters, times = sorted(typed), self.counts.get(typed, 0)
        if times >= OWN or not 3 <= len(typed) <= self.longest:
            return word
        near = {other for key in _with_a_letter_less(typed) for other in self.words.get(key, ()) if other != typed}
        moved = [o for o in near if sorted(o) == letters and (o[0] == typed[0] or o[1::-1] == typed[:2])]
        likely = [o for o in near if o[0] == typed[0] and (times or len(typed) > SHORT)]
        meant = max(moved or likely, key=lambda other: (self.counts[other], other), default=typed)
        return meant if self.counts.get(meant, 0) > RARER * times else word


def _with_a_letter_less(word: str) -> set[str]:
    return {word, *(word[:i] + word[i + 1 :] for i in range(len(word)))}
