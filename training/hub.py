"""A model of the Hub: whether the Hub is there, and why a model did not load, in words."""

import re
from pathlib import Path

from hub_utils.portable.hub import no_hub
from training.recipe import first_line


def hub_answers(name: str, revision: str | None = None) -> bool:
    """Whether the Hub is there, by one request; False if not, but the cache may serve. From here on we are patient.

    Raises:
        ConnectionError: no answer came, and the model is not in the cache.
        HfHubHTTPError: the Hub refuses the model.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from hub_utils.portable.patience import be_patient

    be_patient()
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision))
    except HFValidationError:
        raise
    except Exception as error:  # a dozen of the HTTP library's and the system's
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return False
        raise ConnectionError(str(error)) from error
    return True


def why_not_loaded(kind: str, where: str, name: str, error: Exception, instead: str = "") -> str:
    """One sentence on why a model did not load, and what helps.

    `kind` is what it is called, `where` what takes a folder, as in "--base_model DIR"; `instead` ends the sentence of
    one that cannot be reached.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    causes = [error]
    while (causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(causes[-1].__cause__ or causes[-1].__context__)
    other = re.match(r"Unrecognized configuration class <class '[\w.]*?(\w+?)(?:Config)?'>", str(error))
    if other:
        return f"{kind} '{name}' is of the kind {other[1]}, which does not classify images"
    if Path(name).is_dir():
        return (
            f"{kind} folder '{name}' cannot be loaded: {first_line(error).partition('. If you were')[0]}; it needs "
            "config.json, model.safetensors and preprocessor_config.json of an image classifier"
        )
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return f"{kind} '{name}' is gated: accept its terms on its page on the Hub, then `hf auth login`"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return (
            f"no {kind} '{name}' on the Hub, or it is private, and no such folder here: is the name right? A private "
            f"one needs `hf auth login`; a folder does as well: {where}"
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return f"{kind} '{name}' is on the Hub, and has no such revision: its page lists commits, tags and branches"
    if any(isinstance(cause, RemoteEntryNotFoundError) for cause in causes):
        return f"'{name}' is on the Hub, and is no {kind}: it has no config.json"
    if reason := no_hub(error):
        return f"{kind} '{name}': {reason}"
    if any(isinstance(cause, (LocalEntryNotFoundError, ConnectionError, TimeoutError)) for cause in causes):
        return (
            f"{kind} '{name}' is no folder here, not in the cache, and the Hub cannot be reached; give a folder, "
            f"{where}, or another Hub with HF_ENDPOINT=https://…{instead}"
        )
    why = first_line(error).rstrip(".")
    return f"{kind} '{name}' cannot be loaded: {why}; {where} takes a Hub id as well as a folder"
