"""How other houses cut text into words before they merge bytes: the ways that are known, recognized by comparison.

A cut is a regular expression, and one that a stranger wrote can run for ever; so only these are handed to the library.
"""

from typing import Any

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
SPLITS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "GPT-2",
    rf"{CONTRACTIONS}|{BEFORE}\p{{L}}+|\p{{N}}{{1,3}}|{REST}": "Llama 3",
    rf"{CONTRACTIONS}|{BEFORE}\p{{L}}+|\p{{N}}|{REST}": "Qwen 2",
    rf"{BEFORE}{UPPER}*{LOWER}+|{BEFORE}{UPPER}+{LOWER}*|\p{{N}}|{REST.replace('n]*|', 'n/]*|', 1)}": "Mistral Nemo",
}
KNOWN = ("GPT-2", "Llama 3", "Qwen 2", "Mistral Nemo", "SmolLM")


def house_of(pre_tokenizer: Any) -> str | None:
    """Whose cut the `pre_tokenizer` of a tokenizer.json is: one of KNOWN, or None."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False} if pre_tokenizer.get("use_regex", True) is True:
            return "GPT-2"
        case {"type": "Sequence", "pretokenizers": [first, {"type": "ByteLevel", "add_prefix_space": False} as last]}:
            whole = last.get("use_regex", True) is True  # words are cut by GPT-2's expression then
            match first:
                case {"type": "Digits", "individual_digits": True} if whole:
                    return "SmolLM"
                case {"type": "Split", "pattern": {"Regex": str(split)}, "behavior": "Isolated", "invert": False}:
                    return None if whole else SPLITS.get(split)
    return None
