"""A run as ONNX Runtime and transformers.js read it: one graph that takes what was read before as keys and values.

The graph is traced from `Transformer.forward` itself. What a graph must take as inputs, the model already lets others
provide: the cache (here, keys and values are appended to those given), the positions (looked up by `position_ids`) and
a tap on the scores (which hides what `attention_mask` marks as filling).

B batch, T time (position), K positions of keys, H heads, D channels per head, V vocabulary.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from barreleye.config import ModelConfig
from barreleye.export.folder import whole_folder
from barreleye.files import to_json, write_file
from barreleye.model.parts import Positions, Tap, no_tap
from barreleye.model.transformer import Attention, Transformer
from barreleye.run import Run

OPSET = 18
SMALL_FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json")


class AppendingCache:
    """In the place of `KVCache`: keys and values as they come in, and longer as they go out."""

    def __init__(self, past: list[tuple[Tensor, Tensor]]) -> None:
        self.past, self.present = past, list[tuple[Tensor, Tensor]]()
        self.length: Any = past[0][0].shape[2]

    def extend(self, layer: int, k_BTHD: Tensor, v_BTHD: Tensor) -> tuple[Tensor, Tensor]:
        past_k_BHKD, past_v_BHKD = self.past[layer]
        k_BHKD = torch.cat([past_k_BHKD, k_BTHD.transpose(1, 2)], 2)
        v_BHKD = torch.cat([past_v_BHKD, v_BTHD.transpose(1, 2)], 2)
        self.present.append((k_BHKD, v_BHKD))
        return k_BHKD.transpose(1, 2), v_BHKD.transpose(1, 2)


class PositionsByIds(Positions):
    """In the place of a model's positions: those of `ids_BT`, where a row may begin with filling."""

    def __init__(self, own: Positions, config: ModelConfig) -> None:
        super().__init__(config)
        self.own, self.ids_BT, self.context_length = own, torch.empty(0), config.context_length

    def embed(self, start: int, end: int) -> Tensor | None:
        table_TC = self.own.embed(0, self.context_length)
        return None if table_TC is None else F.embedding(self.ids_BT, table_TC)

    def rotate(self, x_BTHD: Tensor, start: int, tap: Tap = no_tap, name: str = "") -> Tensor:
        if not hasattr(self.own, "cos_TD"):
            return x_BTHD
        left, right = x_BTHD.chunk(2, -1)
        tables: Any = self.own.cos_TD, self.own.sin_TD
        cos_BT1D, sin_BT1D = (F.embedding(self.ids_BT, table_TD)[:, :, None] for table_TD in tables)
        return x_BTHD * cos_BT1D + torch.cat([-right, left], -1) * sin_BT1D


class Graph(nn.Module):
    """Ids, attention mask, position ids, keys and values so far -> logits, and keys and values to come back with."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model.eval()
        self.positions = PositionsByIds(model.positions, model.config)
        model.positions = self.positions
        for module in model.modules():
            if isinstance(module, Attention):
                module.rotate = self.positions.rotate

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        cache = AppendingCache(past)
        torch._check(cache.length + input_ids.shape[1] <= self.model.config.context_length)
        self.positions.ids_BT = position_ids
        filling_B11K = (attention_mask == 0)[:, None, None, :]

        def hide(name: str, tensor: Tensor) -> Tensor:
            return tensor.masked_fill(filling_B11K, torch.finfo(tensor.dtype).min) if "scores" in name else tensor

        logits_BTV = self.model(input_ids, cache, hide)
        return logits_BTV, cache.present


def export_onnx(run: Run, out: Path, int8: bool = False) -> list[Path]:
    """Write the new folder `out` as transformers.js expects it: `onnx/model.onnx`, with `int8` also
    `onnx/model_quantized.onnx`, and the small files of the run. Returns the files written."""
    model = run.load_model()
    with whole_folder(out) as folder:
        (folder / "onnx").mkdir()
        write_onnx(model, folder / "onnx" / "model.onnx")
        if int8:
            quantize(folder / "onnx" / "model.onnx", folder / "onnx" / "model_quantized.onnx", run.config.model)
        for name in SMALL_FILES:
            write_file(folder / name, (run.path / "model" / name).read_bytes())
        if chat := run.tokenizer.chat:
            settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            # Where transformers.js looks for the template; the file is for those that look beside.
            write_file(folder / "tokenizer_config.json", to_json(settings | {"chat_template": chat.template}))
            write_file(folder / "chat_template.jinja", chat.template.encode())
        written = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [out / path for path in written]


def write_onnx(model: Transformer, file: Path) -> None:
    """One file, in float32, with free sizes of batch, of text and of what was read before. Raises ValueError for a
    model of which no size of text is free."""
    config = model.config
    if config.context_length < 2:
        raise ValueError(
            "context_length = 1: ONNX is for models that see two tokens or more; export plain has no limit"
        )
    layers = range(config.n_layers)
    batch, length = 2, min(3, config.context_length)
    past_length = min(4, config.context_length - length)
    past = [tuple(torch.zeros(batch, config.kv_heads, past_length, config.d_head) for _ in "kv") for _ in layers]
    ids_BT = torch.zeros(batch, length, dtype=torch.long)
    inputs = (ids_BT, torch.ones(batch, past_length + length, dtype=torch.long), ids_BT + past_length, past)
    grown = [({0: "batch", 2: "past"}, {0: "batch", 2: "past"}) for _ in layers]
    sizes = ({0: "batch", 1: "length"}, {0: "batch", 1: "total"}, {0: "batch", 1: "length"}, grown)
    names = [f"{layer}.{part}" for layer in layers for part in ("key", "value")]
    with torch.no_grad(), silenced():
        torch.onnx.export(
            Graph(model), inputs, file, dynamo=True, opset_version=OPSET, external_data=False, verbose=False,
            input_names=["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{n}" for n in names)],
            output_names=["logits", *(f"present.{n}" for n in names)], dynamic_shapes=sizes,
        )  # fmt: skip
    write_file(file, without_traces(file))


def without_traces(file: Path) -> bytes:
    """The graph without what the exporter noted at each node: where, in whose files, it was traced."""
    import onnx

    model = onnx.load(file)
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    return bytes(model.SerializeToString())


def quantize(file: Path, out: Path, config: ModelConfig) -> None:
    """The layers' matrices in 8 bits, a scale for each output; what they multiply is rounded as it comes (dynamic
    quantization). An embedding that is the head too stays as it is: it decides between the likeliest. So does the
    matrix behind SwiGLU, whose products have a few so large that a scale for all leaves nothing of the others.

    Unsigned, as on processors without VNNI sums of products with signed weights overflow."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(file).graph
    constants = {constant.name for constant in graph.initializer}
    matrices = [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in constants]
    behind = (
        matrices[4::5] if config.activation == "swiglu" and config.d_ff else []
    )  # qkv, out, gate, up, down, qkv ...
    how: dict[str, Any] = dict(op_types_to_quantize=["MatMul"], nodes_to_exclude=behind, per_channel=True)
    with silenced():
        quantize_dynamic(file, out, weight_type=QuantType.QUInt8, **how)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Without what the libraries have to say about packages that are not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
