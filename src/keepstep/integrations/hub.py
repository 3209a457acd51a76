"""An export uploaded to a repository of the Hugging Face hub, or of what HF_ENDPOINT names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from keepstep.errors import SettingsError
from keepstep.operations.export.configs import is_local, names_local_base
from keepstep.operations.export.errors import ExportRefused, PushFailed
from keepstep.operations.export.plan import ExportPlan
from keepstep.operations.export.report import Export


@dataclass(frozen=True, slots=True)
class Destination:
    """A repository: `private` applies where it is made by this, `revision` is a branch (made where it is missing)."""

    repository: str
    private: bool | None = None
    revision: str | None = None

    @classmethod
    def of(cls, repository: str, *, private: bool | None, revision: str | None) -> Destination:
        """Raises SettingsError for what is no name of a repository."""
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise SettingsError(
                f"{repository!r} is no name of a repository", hint="Write it like me/my-model."
            ) from error
        return cls(repository, private, revision)


def ready(destination: Destination, plan: ExportPlan) -> None:
    """What would make a push fail is found before anything is exported. Raises SettingsError, ExportRefused."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise SettingsError(
            f"nothing can be pushed to {destination.repository}: HF_HUB_OFFLINE is set",
            hint="Unset it, or export without --push.",
        )
    if get_token() is None:
        raise SettingsError(
            f"nothing can be pushed to {destination.repository} without a token",
            hint="Log in (hf auth login), or set HF_TOKEN to a token that may write.",
        )
    adapter = plan.files.adapter and not plan.request.merge
    if adapter and plan.request.base_name is None and names_local_base(plan.directory):
        raise ExportRefused(
            "the adapter names its base by a path of this machine: nobody could load it from the hub",
            hint="Say what others load it by: --base-name meta-llama/Llama-3.2-1B",
        )
    if plan.request.base_name is not None and is_local(plan.request.base_name):
        raise SettingsError(f"{plan.request.base_name!r} is a path", hint="--base-name is a name on the hub.")


def push_export(exported: Export, destination: Destination) -> Export:
    """Upload a finished export; returns it with where it went. Raises PushFailed; the export stays where it is."""
    from huggingface_hub import HfApi

    api = HfApi()
    repository, branch = destination.repository, destination.revision
    try:
        made: Any = api.create_repo(repository, private=destination.private, exist_ok=True)
        name = str(made.repo_id)
        if branch is not None:
            api.create_branch(name, branch=branch, exist_ok=True)
        step = exported.members[0].step
        done: Any = api.upload_folder(
            repo_id=name,
            folder_path=str(exported.path),
            revision=branch,
            commit_message=f"Export of step {step}" if exported.average is None else "Export of an average",
        )
    except Exception as error:
        raise PushFailed(
            f"{exported.path} was exported, but not pushed to {repository}: {_why(error)}",
            hint=f"Nothing is lost: push it with `hf upload {repository} {exported.path}` once that is mended.",
        ) from error
    return replace(exported, pushed_to=str(getattr(done, "commit_url", None) or made))


def _why(error: Exception) -> str:
    errors: Any = import_module("huggingface_hub.errors")
    status = _status(error)
    if status == 401:
        return "the token is not accepted (401)"
    if status == 403:
        return "the token may not write there (403)"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return "there is no such repository, or the token can't see it (404)"
    if status is not None:
        return f"the hub answered {status}: {_first_line(error)}"
    if isinstance(error, (OSError, RuntimeError)) or "Connect" in type(error).__name__:
        return f"the hub was not reached: {_first_line(error)}"
    return f"{type(error).__name__}: {_first_line(error)}"


def _status(error: BaseException | None) -> int | None:
    """The hub's answer that is behind an error, None where there was none."""
    while error is not None:
        found = getattr(getattr(error, "response", None), "status_code", None)
        if found is not None:
            return found
        error = error.__cause__
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
