"""Send an adapter or a GGUF to the hub, in one commit, with its card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf_export
from lowvram_ft.errors import MachineError, UsageError
from lowvram_ft.hub.artifacts import CONFIG, Artifact, File, find_artifact
from lowvram_ft.hub.card import Contents, is_edited, is_empty, is_ours, model_card
from lowvram_ft.hub.client import errors_of, open_api, require_token
from lowvram_ft.hub.licences import Licence
from lowvram_ft.hub.names import require_repo_id
from lowvram_ft.hub.parts import Choices, licences
from lowvram_ft.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
_OF_THE_HUB = (".gitattributes", CARD, "LICENSE")
_QUANT = re.compile(r"[-_.]((?:I?Q\d\w*|BF16|F16|F32|MXFP4\w*))\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class Remote:
    """A repository as it is on the hub before a push.

    Attributes:
        names: of its files; empty where there is none yet.
        private: whether others see it; None where there is none yet.
        commit: its newest; None where there is none yet.
        card: its text; None where there is none.
        asked: whether the hub was asked at all.
    """

    names: tuple[str, ...] = ()
    private: bool | None = None
    commit: str | None = None
    card: str | None = None
    asked: bool = True


@dataclass(frozen=True)
class Push:
    """What will be sent.

    Attributes:
        repo_id: the repository.
        private: whether a new one is made private.
        files: everything, the card among it.
        card: its text.
        sums: file name to size and SHA-256.
        licence: of the result.
        remote: the repository as it is.
        notes: what the user should know.
    """

    repo_id: str
    private: bool
    files: tuple[File, ...]
    card: str
    sums: dict[str, tuple[int, str]]
    licence: Licence
    remote: Remote
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What is sent, without paths of this machine."""
        return {
            "repo_id": self.repo_id,
            "private": self.remote.private if self.remote.private is not None else self.private,
            "new": self.remote.private is None if self.remote.asked else None,
            "licence": self.licence.name or self.licence.id,
            "files": [
                {
                    "name": name,
                    "size_bytes": size,
                    "sha256": digest,
                    "replaces": name in self.remote.names,
                }
                for name, (size, digest) in self.sums.items()
            ],
            "notes": list(self.notes),
        }


def plan_push(source: Path, repo_id: str, choices: Choices, *, dry_run: bool = False) -> Push:
    """Find out what is to be sent, and make its card. Nothing is sent, and nothing is written.

    Args:
        source: see `lowvram_ft.hub.artifacts.find_artifact`.
        repo_id: ``OWNER/NAME``.
        choices: of the user.
        dry_run: where the hub cannot be asked what the repository holds, go on without.

    Raises:
        UsageError: options that do not go together, or a repository that holds something else.
        ModelError: the adapter or the GGUF cannot be passed on as it is.
        RunDirectoryError: the run is damaged, or has not come that far.
        MachineError: the hub cannot be reached.
    """
    require_repo_id(repo_id)
    artifact = find_artifact(source, repo_id, want=choices.want, base=choices.base)
    if choices.adapter_repo is not None:
        require_repo_id(choices.adapter_repo)
        if artifact.gguf is None or artifact.adapter is not None:
            raise UsageError(
                "--adapter-repo: is for a GGUF alone, and names the adapter that it was made of; leave it out"
            )
    if choices.public and artifact.run is not None and artifact.run.own_data and not choices.own_data:
        raise UsageError(
            f"{source}: was trained on files of your own, and a model can repeat what it has seen; push it without "
            "--public, or add --own-data if all of that may be read by everybody"
        )
    if choices.public and artifact.run is None and not choices.own_data:
        raise UsageError(
            f"{source}: does not say what it was trained on, and a model can repeat what it has seen; push it without "
            "--public, or add --own-data if all of that may be read by everybody"
        )
    notes = list(artifact.notes)
    remote = _looked(repo_id, dry_run, notes)
    _require_ours(repo_id, remote, choices)
    private = remote.private if remote.private is not None else not choices.public
    if remote.private is True and choices.public:
        notes.append(f"{repo_id}: is private and stays so; make it public in its settings on the hub")
    licence, parts = licences(artifact, choices, remote.asked, notes)
    sums = {file.name: (file.size, _sha256(file)) for file in artifact.files}
    contents = _contents(repo_id, artifact, remote, sums, private, choices.adapter_repo)
    card = model_card(artifact, contents, licence, parts)
    files = artifact.files
    if choices.keep_card and remote.card is not None:
        notes.append(f"{CARD}: stays as it is on the hub")
    else:
        made = File(CARD, content=card.encode())
        files = (made, *files)
        sums = {CARD: (made.size, _sha256(made)), **sums}
    return Push(repo_id, private, files, card, sums, licence, remote, tuple(notes))


def send(push: Push, progress: Progress) -> dict[str, Any]:
    """Make the repository where there is none, and send everything in one commit.

    The client sends large files in pieces and first; the commit is made when all of them have arrived. After an
    interruption the repository is as it was, and the same command sends only what has not arrived.

    Args:
        push: what to send.
        progress: where a person reads what is going on.

    Returns:
        What `Push.to_json` says, with ``url``, ``commit``, and ``unchanged`` where everything was there already.

    Raises:
        UsageError: there is no token, or it may not write there.
        MachineError: the hub cannot be reached.
        LowvramError: the hub refuses it, or somebody else has changed the repository meanwhile.
    """
    from huggingface_hub import CommitOperationAdd

    require_token()
    api = open_api()
    total = sum(size for size, _ in push.sums.values())
    progress.say(f"push: {len(push.files)} files, {total / 2**20:.1f} MiB, to {push.repo_id}")
    with errors_of(push.repo_id, push.repo_id, writing=True):
        if push.remote.private is None:
            api.create_repo(push.repo_id, private=push.private, repo_type="model", exist_ok=True)
            # of a repository that came into being in between, nothing is replaced unseen
            remote = look(api, push.repo_id)
            _require_ours(push.repo_id, remote, Choices(public=not push.private))
            push = replace(push, remote=replace(remote, private=None))
        operations = [
            CommitOperationAdd(file.name, file.content if file.content is not None else str(file.path))
            for file in push.files
        ]
        done = api.create_commit(
            push.repo_id,
            operations,
            commit_message="Upload with lowvram-ft",
            repo_type="model",
            parent_commit=push.remote.commit,
        )
    unchanged = done.oid == push.remote.commit
    return {**push.to_json(), "url": str(done.repo_url), "commit": done.oid, "unchanged": unchanged}


def _looked(repo_id: str, dry_run: bool, notes: list[str]) -> Remote:
    """The repository as it is; of a dry run, as if there were none where the hub cannot be asked."""
    from huggingface_hub import constants

    if dry_run and constants.HF_HUB_OFFLINE:
        notes.append("the hub was not asked what is there (HF_HUB_OFFLINE is set)")
        return Remote(asked=False)
    if not dry_run:
        require_token()
    try:
        return look(open_api(), repo_id)
    except (MachineError, UsageError) as error:
        if not dry_run:
            raise
        notes.append(f"the hub was not asked what is there ({str(error).partition(';')[0]})")
        return Remote(asked=False)


def look(api: HfApi, repo_id: str) -> Remote:
    """The repository as it is on the hub.

    Raises:
        UsageError: the hub does not take the token.
        MachineError: the hub cannot be reached.
    """
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    with errors_of(repo_id, repo_id, writing=False):
        try:
            found = api.model_info(repo_id)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return Remote()
        names = tuple(entry.rfilename for entry in found.siblings or ())
        text = None
        if CARD in names:
            try:
                path = api.hf_hub_download(repo_id, CARD, revision=found.sha)
                text = Path(path).read_text(encoding="utf-8", errors="replace")
            except EntryNotFoundError:
                text = None
        return Remote(names, bool(found.private), found.sha, text)


def _require_ours(repo_id: str, remote: Remote, choices: Choices) -> None:
    """Refuse to replace what somebody else has put there, and to show others what was meant to be private.

    Raises:
        UsageError: it is so.
    """
    if remote.private is False and not choices.public:
        raise UsageError(f"{repo_id}: everybody can read it; add --public if that is meant, or give another name")
    if choices.force:
        return
    others = [name for name in remote.names if name not in _OF_THE_HUB]
    if remote.card is None or not is_ours(remote.card):
        if others or (remote.card is not None and not is_empty(remote.card)):
            shown = ", ".join(others[:5] or [CARD]) + (" …" if len(others) > 5 else "")
            raise UsageError(
                f"{repo_id}: holds something that was not pushed from here ({shown}); give another name, or add "
                "--force to put these files beside it"
            )
    elif is_edited(remote.card) and not choices.keep_card:
        raise UsageError(
            f"{repo_id}: its card was edited on the hub; add --keep-card to leave it so, or --force to replace it"
        )


def _contents(
    repo_id: str,
    artifact: Artifact,
    remote: Remote,
    sums: dict[str, tuple[int, str]],
    private: bool,
    adapter_repo: str | None,
) -> Contents:
    """What the repository holds after the push: what it has, and what is sent."""
    ggufs, loras = _by_quant(remote.names)
    if artifact.gguf is not None and artifact.gguf.is_lora:
        loras = [*(name for name in loras if name != artifact.gguf.name), artifact.gguf.name]
    elif artifact.gguf is not None:
        ggufs = {artifact.gguf.quant: artifact.gguf.name} | ggufs
    has_adapter = artifact.adapter is not None or CONFIG in remote.names
    return Contents(repo_id, has_adapter, ggufs, loras, sums, private, adapter_repo)


def _by_quant(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    found: dict[str, str] = {}
    loras = []
    for name in names:
        match = _QUANT.search(name)
        if match and "-lora-" in name.lower():
            loras.append(name)
        elif match:
            found[match[1].upper()] = name
    return found, loras


def _sha256(file: File) -> str:
    if file.path is not None:
        return gguf_export.sha256_of(file.path)
    import hashlib

    return hashlib.sha256(file.content or b"").hexdigest()
