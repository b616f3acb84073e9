"""Damaged likenesses of a model's files that are whole files of their kind: what they say does not go together."""

import json
import math
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from mutations import mutate_json

# tokenizer.json ----------------------------------------------------------------------------------------------------


def mutate_tokenizer(data, rng):
    """One of four as any other JSON; of the others the parts are of the right types, and do not go together."""
    if rng.random() < 0.25:
        return mutate_json(data, rng)
    table = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        rng.choice([mutate_vocab, mutate_merges, mutate_added, mutate_flags])(table, rng)
    return json.dumps(table).encode()


def mutate_vocab(table, rng):
    vocab, special = table["model"]["vocab"], [token["content"] for token in table["added_tokens"]]
    one, other = rng.sample([*vocab], 2)
    match rng.randrange(4):
        case 0:
            vocab[one], vocab[other] = vocab[other], vocab[one]
        case 1:
            vocab[rng.choice([*special, one + other, "hello", "", "ж", "a b"])] = vocab.pop(one)
        case 2:
            vocab[rng.choice([*special, one + other, "Ġhello", "ж"])] = len(vocab) + len(special)
        case 3:
            vocab[one] = rng.choice([0, len(vocab) - 1, len(vocab), vocab[other], 10**9, 2**32])


def mutate_merges(table, rng):
    merges = table["model"].get("merges")
    if not merges:
        return
    at, other = rng.randrange(len(merges)), rng.randrange(len(merges))
    match rng.randrange(5):
        case 0:
            rng.shuffle(merges)
        case 1:
            del merges[at]
        case 2:
            merges.insert(at, merges[other])
        case 3:
            merges[at] = rng.choice([merges[at][::-1], " ".join(merges[at]), [*merges[at], "x"], ["", ""], "a  b"])
        case 4:  # to a token that is already there, a special one perhaps
            whole = rng.choice([*table["model"]["vocab"], *(token["content"] for token in table["added_tokens"])])
            cut = rng.randint(0, len(whole))
            merges.insert(at, [whole[:cut], whole[cut:]])


def mutate_added(table, rng):
    added, vocab = table["added_tokens"], table["model"]["vocab"]
    if not added:
        return
    token = rng.choice(added)
    match rng.randrange(4):
        case 0:
            flag = rng.choice(["special", "normalized", "lstrip", "rstrip", "single_word"])
            token[flag] = not token[flag]
        case 1:  # special, and an ordinary word
            token["content"] = rng.choice([*vocab, "hello", "a", " ", "", "\n", "ab", "é"])
        case 2:
            token["id"] = rng.choice([*vocab.values(), len(vocab), len(vocab) + len(added), 2**32 - 1])
        case 3:
            content = rng.choice([*vocab, "hello", "Ġthe", "fish"])
            place = rng.choice([vocab.get(content, 0), len(vocab) + len(added)])
            added.insert(rng.randint(0, len(added)), dict(token, content=content, id=place))


def mutate_flags(table, rng):
    part = rng.choice(["model", "pre_tokenizer", "decoder", "other"])
    if part != "other":
        flags = [name for name, value in table[part].items() if value is None or isinstance(value, bool | str)]
        flags = [name for name in flags if name != "type"]
        for flag in flags and [rng.choice(flags)]:
            table[part][flag] = rng.choice([True, False, None, "", "Ġ", "a", 0.0, 0.5])
        return
    name, value = rng.choice([
        *(("normalizer", {"type": kind}) for kind in ("NFC", "NFKC", "Lowercase")),
        *(("post_processor", dict(type="ByteLevel", add_prefix_space=b, trim_offsets=b)) for b in (True, False)),
        ("truncation", dict(direction="Right", max_length=2, strategy="LongestFirst", stride=0)),
        ("padding", dict(strategy={"Fixed": 10**6}, direction="Left", pad_id=9, pad_type_id=0, pad_token="x")),
        ("padding", dict(strategy={"Fixed": 10}, direction="Left", pad_id=9, pad_type_id=0, pad_token="x")),
    ])  # fmt: skip
    table[name] = value


# Safetensors -------------------------------------------------------------------------------------------------------

SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "F8_E4M3": 1, "U8": 1, "BOOL": 1}


def mutate_safetensors(data, rng):
    """A third of them: a changed header whose length is right. The others: whole files, of other tensors."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.3:
        header = mutate_json(header, rng)
        return len(header).to_bytes(8, "little") + header + body
    table = json.loads(header)
    table.pop("__metadata__", None)
    tensors = {name: (t["dtype"], t["shape"], body[slice(*t["data_offsets"])]) for name, t in table.items()}
    for _ in range(rng.randint(1, min(3, len(tensors)))):
        mutate_tensors(tensors, rng)
    table, body = {}, b""
    for name, (dtype, shape, held) in tensors.items():
        table[name] = dict(dtype=dtype, shape=shape, data_offsets=[len(body), len(body := body + held)])
    header = json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header + body


def mutate_tensors(tensors, rng):
    """One of them renamed, left out, there under another name too, cast, turned, cut or filled."""
    name = rng.choice([*tensors])
    dtype, shape, held = tensors[name]
    row = len(held) // shape[0] if shape and shape[0] else 0
    match rng.randrange(8):
        case 0:
            tensors.pop(name)
        case 1:
            tensors[other_name(tensors, rng)] = tensors.pop(name)
        case 2:
            tensors[other_name(tensors, rng)] = tensors[name]
        case 3:
            tensors[name] = rng.choice([t for t, size in SIZES.items() if size == SIZES[dtype]]), shape, held
        case 4:
            small = rng.choice([t for t, size in SIZES.items() if size == 1])
            tensors[name] = small, [*shape, SIZES[dtype]], held
        case 5:
            tensors[name] = dtype, rng.choice([shape[::-1], [1, *shape], [*shape, 1], [math.prod(shape)]]), held
        case 6 if row:
            tensors[name] = dtype, [shape[0] - 1, *shape[1:]], held[:-row]
        case 7:
            tensors[name] = dtype, shape, rng.choice([b"\xff", b"\x00", b"\x7f"]) * len(held)


def other_name(names, rng):
    name = rng.choice([*names])
    digits = re.sub(r"\d+", lambda found: rng.choice(["0", "1", "2", "9" * 30, "-1", "01", "٣"]), name)
    return rng.choice([
        *(digits, digits, name.partition(".")[2], name + "x", f"transformer.{name}", f"model.{name}"),
        *("", "lm_head.weight", "h.0.attn.bias", "transformer.h.0.attn.masked_bias", "a\nb", "\x1b[2J", "\ud800"),
    ])  # fmt: skip
