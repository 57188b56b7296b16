"""What the user chose for a push, and the licence that follows from the parts of what is sent."""

from __future__ import annotations

from dataclasses import dataclass

from lowvram_ft import models
from lowvram_ft.errors import MachineError, ModelError, UsageError
from lowvram_ft.hub.artifacts import Artifact, Want
from lowvram_ft.hub.client import errors_of, open_api
from lowvram_ft.hub.licences import UNKNOWN, Licence, licence_of, stricter
from lowvram_ft.hub.names import EMBEDDED_HUB_ID


@dataclass(frozen=True)
class Choices:
    """What the user chose.

    Attributes:
        want: of a run, the adapter or the GGUF alone.
        base: hub id of the base model.
        licence: of what the kit knows no licence of.
        adapter_repo: repository of the adapter that a GGUF was made of.
        public: whether others shall see it.
        own_data: whether a model may be public that was trained on the user's own files.
        force: replace what the repository holds of others.
        keep_card: leave the repository's card as it is.
    """

    want: Want | None = None
    base: str | None = None
    licence: str | None = None
    adapter_repo: str | None = None
    public: bool = False
    own_data: bool = False
    force: bool = False
    keep_card: bool = False


def licences(
    artifact: Artifact, choices: Choices, ask: bool, notes: list[str]
) -> tuple[Licence, list[tuple[str, Licence]]]:
    """The licence of the result, and of what it was made of.

    Args:
        artifact: what is sent.
        choices: of the user; their ``licence`` holds for parts of which none is known.
        ask: whether the hub may be asked for the base model's.
        notes: gets a line where a licence is not known, or forbids something.

    Raises:
        UsageError: the licence that was given allows more than a part does.
    """
    parts = [(f"base model `{artifact.base}`", _of_base(artifact, ask))]
    for stage in artifact.run.stages if artifact.run is not None else ():
        parts.append((f"data of {stage.name}: {stage.data}", stage.licence))
    given = licence_of(choices.licence)
    if choices.licence is not None and not given.known:
        raise UsageError(f"--licence: no id of a licence (got {choices.licence!r}); for example apache-2.0, or mit")
    if given.known:
        parts = [(part, each if each.known else given) for part, each in parts]
        if all(each != given for _, each in parts):
            parts.append(("the author's own part", given))
    whole = stricter([each for _, each in parts])
    if given.known and whole != given and not (whole.permissive and given.permissive):
        raise UsageError(
            f"--licence {choices.licence}: a part asks for more ({whole.title}); leave the option out, or see the "
            "licences with --dry-run"
        )
    if given.known and whole.permissive:
        whole = given
    unknown = [part for part, each in parts if not each.known]
    if unknown:
        notes.append(f"licence: not known of {', '.join(unknown)}; say it with --licence ID")
    if whole.commercial is False:
        notes.append(f"licence: {whole.title}, no commercial use; the card says so")
    return whole, parts


def _of_base(artifact: Artifact, ask: bool) -> Licence:
    base = models.EMBEDDED if artifact.base == EMBEDDED_HUB_ID else artifact.base
    known = models.resolve(base).licence if base == models.EMBEDDED or base in models.known_models() else None
    if known is not None:
        return licence_of(known)
    if ask:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            with errors_of(artifact.base, artifact.base, writing=False):
                try:
                    data = open_api().model_info(artifact.base).card_data
                except RepositoryNotFoundError:
                    data = None
        except (ModelError, MachineError, UsageError):
            data = None  # the licence is then not known, and the user is told so
        if data is not None and isinstance(data.get("license"), str):
            name, link = data.get("license_name"), data.get("license_link")
            return licence_of(data["license"]) if data["license"] != "other" else _other(artifact.base, name, link)
    return licence_of(artifact.licence)


def _other(base: str, name: str | None, link: str | None) -> Licence:
    if not name:
        return UNKNOWN
    if link and not link.startswith("http"):  # a file of the base's repository
        link = f"https://huggingface.co/{base}/blob/main/{link}"
    return Licence("other", name, name, link)
