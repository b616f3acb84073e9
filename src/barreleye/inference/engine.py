"""Which way a model is decoded: the compiled one where it can run, else the readable one, which always can."""

from barreleye.inference.generate import Decoder
from barreleye.model.transformer import Transformer

ENGINES = ("auto", "fast", "int8", "torch", "plain")
NO_NUMBA = "numba is not installed; pip install 'barreleye[fast]'"


def make_decoder(model: Transformer, engine: str = "auto") -> tuple[Transformer | Decoder, str]:
    """What `generate_tokens` and `Chat` read with, and why not the compiled engine, where `auto` did without it.

    `fast` computes in float32, `int8` with matrices rounded to 8 bits, `torch` is the readable path,
    `plain` the same in NumPy; `auto` is `fast` where it runs. Raises ValueError for an engine that does not exist, or
    cannot run here.
    """
    if engine not in ENGINES:
        raise ValueError(f"there is no engine {engine!r}; choose one of: {', '.join(ENGINES)}")
    if engine == "torch" or (engine == "auto" and next(model.parameters()).device.type != "cpu"):
        return model, ""
    if engine == "plain":
        return plain_decoder(model), ""
    try:
        from barreleye.inference.fast import FastDecoder

        return FastDecoder(model, bits=8 if engine == "int8" else 32), ""
    except ImportError as error:
        reason = NO_NUMBA if error.name == "numba" else str(error)
    except ValueError as error:
        reason = str(error)
    except Exception as error:  # whatever a compiler, and its cache on a disk, may come up with: torch decodes
        reason = f"{str(error) or type(error).__name__} (if that lasts, delete the compiled code: docs/speed.md)"
    if engine != "auto":
        raise ValueError(f"the engine {engine} cannot run here: {reason}")
    return model, reason


def plain_decoder(model: Transformer) -> Decoder:
    from barreleye.inference.plain import Plain
    from barreleye.inference.plain_weights import shapes_of

    weights = {name: tensor.float().cpu().numpy() for name, tensor in model.state_dict().items()}
    return Plain({name: weights[name] for name in shapes_of(model.config)}, model.config)
