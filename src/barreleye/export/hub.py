"""To and from the Hugging Face Hub, through its own client."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from barreleye.export.card import data_card
from barreleye.export.huggingface import model_folder
from barreleye.run import UNSEEN, Run
from barreleye.training.card import model_card

SIDES = ("train", "held_out", *UNSEEN)
COMPOSED = ("persona", "mix")  # by a character sheet: nobody's own words are among the conversations


def fetch(name: str, patterns: Sequence[str]) -> Path:
    """The folder of those files of a model on the Hub, fetched once; of the repository's folders none. There is no such
    folder where it has no such file. Raises ValueError where they cannot be had."""
    with hub_errors(name) as hub:
        hub.utils.logging.set_verbosity_error()  # it warns where there is none of the files: not every model has each
        return Path(hub.snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=["*/*"]))


def push(run: Run, name: str, private: bool = False, data: bool | None = None) -> list[str]:
    """Upload a run's model folder to the Hub as `name`, and what it learned from as a data set of that name; the
    addresses of both. data: whether the second; unless told, where it was composed from a character sheet, as chats and
    texts may be private. Raises ValueError for a model that other tools cannot load, what the Hub refuses, or what is
    public there already where it is to be private."""
    source = model_folder(run)
    with_data = run.config.data.kind in COMPOSED if data is None else data
    if with_data:
        run.corpus()  # raises where there is none, before anything is uploaded
    with hub_errors(name) as hub:
        api = hub.HfApi(library_name="barreleye")
        hub.utils.validate_repo_id(name)
        full = name if "/" in name else f"{api.whoami()['name']}/{name}"
        kinds = ["dataset", "model"] if with_data else ["model"]
        if private:
            for kind in kinds:
                check_not_public(api, full, kind)
        made = {kind: api.create_repo(full, repo_type=kind, private=private, exist_ok=True) for kind in kinds}
        uploads = {"model": (source, model_card(run, full if with_data else ""), ["*"])}
        if with_data:
            files = [f"{side}.*" for side in SIDES]
            uploads["dataset"] = run.path / "data", data_card(run, full, str(made["model"])), files
        for kind in kinds:
            folder, card, files = uploads[kind]
            # The card in the same commit as the rest: what is up there is never half of it.
            operations = [hub.CommitOperationAdd("README.md", card.encode())]
            for pattern in files:
                operations += [
                    hub.CommitOperationAdd(file.name, file)
                    for file in sorted(folder.glob(pattern))
                    if file.is_file() and file.name != "README.md" and not file.name.startswith(".")
                ]
            api.create_commit(full, operations, commit_message="Upload from Barreleye", repo_type=kind)
        return [str(address) for address in made.values()]


def check_not_public(api: Any, name: str, kind: str) -> None:
    """Raises ValueError for what everybody sees: the Hub creates nothing where something is, and leaves it public."""
    if api.repo_exists(name, repo_type=kind) and not api.repo_info(name, repo_type=kind).private:
        raise ValueError(
            f"--private: the {kind} {name} is there already, and public; make it private, or change the name"
        )


@contextlib.contextmanager
def hub_errors(name: str) -> Iterator[Any]:
    """The client, whose errors are one line here."""
    try:
        import huggingface_hub as hub
    except ImportError:
        raise ValueError("this needs huggingface_hub; pip install 'barreleye[export]'") from None
    from huggingface_hub import errors
    from huggingface_hub.utils import disable_progress_bars

    network: type[Exception] = errors.HfHubHTTPError.__mro__[1]  # of whichever client it uses
    if sys.stderr is None or not sys.stderr.isatty():
        disable_progress_bars()
    endpoint = os.environ.get("HF_ENDPOINT", "the Hub")
    try:
        yield hub
    except errors.HFValidationError as error:
        raise ValueError(f"{name}: is no name on the Hub ({error})") from None
    except (TypeError, KeyError, json.JSONDecodeError):
        raise ValueError(f"{name}: {endpoint} does not answer as the Hub does; check HF_ENDPOINT") from None
    except errors.LocalTokenNotFoundError:
        raise ValueError(f"{name}: this needs an account on {endpoint}; log in: hf auth login") from None
    except (OSError, network) as error:
        response = getattr(error, "response", None) if isinstance(error, errors.HfHubHTTPError) else None
        if response is None:
            raise ValueError(
                f"{name}: {endpoint} cannot be reached ({type(error).__name__}); check the connection, "
                "or the path where a folder is meant"
            ) from None
        missing = isinstance(error, errors.RepositoryNotFoundError) or response.status_code in (401, 403)
        hint = "; check the name, or log in: hf auth login" if missing else ""
        raise ValueError(f"{name}: {endpoint} answered {response.status_code}{hint}") from None
