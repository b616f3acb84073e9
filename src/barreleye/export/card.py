"""The data card: what the conversations (or the text) of a run are, and how they were split."""

import json

from barreleye.run import UNSEEN, Run

SHOWN = 2
KINDS = {
    "persona": "Conversations composed from a character sheet by a program; no person's words are among them.",
    "mix": "Conversations composed from several character sheets by a program; no person's words are among them.",
    "chats": "Chats that were given to Barreleye as files.",
    "text": "A text that was given to Barreleye as a file.",
}


def data_card(run: Run, model: str, address: str) -> str:
    """Markdown with the metadata that the Hugging Face Hub reads. model, address: of what learned from it, there."""
    corpus, is_text = run.corpus(), run.config.data.kind == "text"
    ending = "txt" if is_text else "jsonl"
    sides = {"train": "train", "held_out": "test"} | {side: side for side in UNSEEN}
    there = [(side, split) for side, split in sides.items() if (run.path / "data" / f"{side}.{ending}").exists()]
    files = "\n".join(f"      - split: {split}\n        path: {side}.{ending}" for side, split in there)
    sizes = [(split, len(getattr(corpus, side))) for side, split in there]
    unit = "characters" if is_text else "conversations"
    lines = [
        "---",
        "task_categories: [text-generation]",
        'tags: ["barreleye", "synthetic"]' if run.config.data.kind in ("persona", "mix") else 'tags: ["barreleye"]',
        "configs:\n  - config_name: default\n    data_files:",
        files,
        "---",
        "",
        f"# What {model.rpartition('/')[2]} learned from",
        "",
        KINDS[run.config.data.kind],
        "",
        f"| split | {unit} |",
        "|---|---|",
        *(f"| {split} | {size:,} |" for split, size in sizes),
        "",
        f"`test` was held out from the training of [{model}]({address}).",
    ]
    if not isinstance(corpus.train, str):
        shared = corpus.report.get("overlap", 0)
        lines += [f"Of its prompts, {shared} are in `train` too.", "", "```json"]
        lines += [
            json.dumps([{"role": m.role, "content": m.content} for m in chat.messages], ensure_ascii=False)
            for chat in corpus.train[:SHOWN]
        ]
        lines += ["```"]
    return "\n".join([*lines, ""])
