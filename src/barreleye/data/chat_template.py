"""Which chat templates are known. One that is found in a folder is compared with these, and never run."""

import re
from dataclasses import dataclass

TEMPLATE_FILE = "chat_template.jinja"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"

# Jinja's `trim` is Python's str.strip.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% set said = message['content'] | lower if message['role'] == 'user' else message['content'] %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + said | trim + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# As it is usually written; Qwen2 and SmolLM2 put a system turn before a chat that has none.
CHATML = re.compile(
    r"\{% for message in messages %\}"
    r"(?:\{% if loop\.first and messages\[0\]\['role'\] != 'system' %\}"
    r"\{\{ '<\|im_start\|>system\\n(?P<system>(?:(?!<\|)[^'\x22\\{}\x00-\x1f\x7f])*)<\|im_end\|>\\n' \}\}"
    r"\{% endif %\})?"
    r"\{\{ ?'<\|im_start\|>' \+ message\['role'\] \+ '\\n' \+ message\['content'\] \+ '<\|im_end\|>' \+ '\\n' ?\}\}"
    r"\{% endfor %\}"
    r"\{% if add_generation_prompt %\}\{\{ '<\|im_start\|>assistant\\n' \}\}\{% endif %\}"
)


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """ChatML, and what a model's own template does besides.

    template: the same in Jinja, for other tools. tidy: whitespace around a message is dropped, and what the user says
    is read in lowercase. system: the first turn of a chat that begins with another.
    """

    template: str
    tidy: bool
    system: str = ""


HOUSE = ChatFormat(CHAT_TEMPLATE, tidy=True)


def recognize(template: str) -> ChatFormat | None:
    """The format that a template spells; None for one that is not known."""
    if template.strip() == CHAT_TEMPLATE:
        return HOUSE
    if chatml := CHATML.fullmatch(template.strip().replace("\n", "\\n")):
        return ChatFormat(template, tidy=False, system=chatml["system"] or "")
    return None
