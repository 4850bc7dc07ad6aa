"""Push a run to the Hub: one atomic commit, and nothing measured on other weights stays on the Hub."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

from eanet.cli import UserError, printable, read_json, temporary_folder, write_text
from eanet.hub import provenance, staging
from eanet.hub.card import card_warnings, render_card, update_card
from eanet.hub.card_facts import collect_facts
from eanet.hub.download import matches, pulled_digest, sha256
from eanet.hub.errors import HubError, connection_failed, explain, set_timeout, status_of, with_retries
from eanet.hub.front_matter import split_card
from eanet.hub.staging import CARD
from eanet.hub.tokens import check_no_token, without_token
from eanet.run_dir import RESULTS_FILE
from eanet.saving import LEGACY_ONNX_FILE, ONNX_FILE
from modeling_eanet import CONFIG_FILE

LICENSE = "LICENSE"  # of the code; where the repository has one, it is of its owner's choice

# What an earlier run may have left on the Hub, which would be about other weights; a push deletes it. `*` also matches "/".
STALE = (*staging.ARTEFACTS, *staging.MEASURED, *provenance.REPORT, provenance.FIGURES_RECORD,
         provenance.DEMO_RECORD, LEGACY_ONNX_FILE, "variables/*", "logs/*tfevents*", "benchmarks/evaluation.json",
         "benchmarks/evaluation.md", "benchmarks/exports.json", "benchmarks/exports.md")  # fmt: skip
# Files on the Hub with parts about weights; a push keeps them without those parts.
NOTEBOOK = "examples/eanet_cifar100.ipynb"
CLEANED = ("benchmarks/*.json", "benchmarks/README.md", NOTEBOOK)
# Files of earlier layouts of this repository, by their exact names. Those of COMMON_NAMES may be a person's own: they are
# only deleted together with others.
OLD_FILES = """
    training_form.py model_card.py card_regions.py card_template.md requirements-onnx.txt tests/apart.py tests/hub_server.py
    tests/test_card_runs.py benchmarks/ablation.md benchmarks/attention_scaling.md benchmarks/predict_speed.md
    benchmarks/train_speed.md
""".split()
COMMON_NAMES = """
    data.py requirements-dev.txt eanet_cifar100.ipynb figures/draw.py samples/draw.py tests/test_data.py tests/test_hub.py
    tests/test_inference.py tests/test_train.py
""".split()


def push(
    run: Path,
    repo_id: str,
    *,
    revision: str = "main",
    private: bool = False,
    message: str | None = None,
    new_card: bool = False,
    dataset_name: str | None = None,
    publish_samples: str | Literal[True] | None = None,
    saved_model: bool = True,
    dry_run: bool = False,
) -> str:
    """Push a run to the Hub in one commit.

    Args:
        run: folder of a finished run, or the repository itself.
        repo_id: "user/name"; the repository is created if necessary.
        revision: branch; created if necessary.
        private: make a new repository private.
        message: of the commit.
        new_card: push the run's own card, or a new one, instead of updating the card on the Hub.
        dataset_name: name of the data on the card; None for the recorded one, that of its folder.
        publish_samples: data set with test images to publish, True for those that the run kept; None publishes none.
        saved_model: push the SavedModel, which the run must have; otherwise leave it out.
        dry_run: change nothing and return what would be done.

    Returns:
        What was done, in several lines.

    Raises:
        UserError: there is no such run, it does not belong together, its card is broken, or there is no login.
        HubError: the Hub refuses or does not answer; it has the whole commit or none of it.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    staging.check_run(run)
    _check_given(run, repo_id, revision, message, dataset_name)
    set_timeout()
    token = get_token()
    if HF_HUB_OFFLINE and not dry_run:
        raise UserError("HF_HUB_OFFLINE is set, and a push needs the Hub; unset it")
    if token is None and not dry_run:
        raise UserError("not logged in to the Hub; run `hf auth login`, or set HF_TOKEN")
    if token and not token.isascii():
        raise UserError("the Hub token contains a character that no token has; copy it again, then `hf auth login`")
    with temporary_folder(prefix="eanet-push-") as folder:
        print(without_token(f"checking {run} …"), file=sys.stderr)
        staged = staging.stage_run(run, folder, saved_model=saved_model, samples=publish_samples)
        if not staged.with_programs:
            print("eanet is installed without its repository: train.py and the other programs are left out", file=sys.stderr)
        api = HfApi(library_name="eanet")
        alone = dry_run and (HF_HUB_OFFLINE or token is None and not _is_public(api, repo_id))
        if alone:
            print(f"{'offline' if HF_HUB_OFFLINE else 'not logged in'}: as if {repo_id} were new", file=sys.stderr)
        job = _Push(
            None if alone else api, run, staged, repo_id, revision, private, message, new_card, dry_run, dataset_name
        )
        return without_token(with_retries(job.attempt, repo_id))


def write_card(
    run: Path,
    repo_id: str,
    *,
    dataset_name: str | None = None,
    publish_samples: str | Literal[True] | None = None,
    saved_model: bool = True,
) -> str:
    """Bring the card in a run's folder up to date, or write a new one, without contacting the Hub.

    Args:
        run: folder of a finished run, or the repository itself.
        repo_id: "user/name" that the card names.
        dataset_name: as for `push`.
        publish_samples: as for `push`.
        saved_model: whether the card is one of a repository with the SavedModel.

    Returns:
        What was done, in one line.

    Raises:
        UserError: the run does not belong together, or its card is broken.
    """
    with temporary_folder(prefix="eanet-card-") as folder:
        staged = staging.stage_run(run, folder, saved_model=saved_model, samples=publish_samples)
        job = _Push(None, run, staged, repo_id, dataset_name=dataset_name)
        write_text(run / CARD, job.card(None))
    return f"wrote {run / CARD}"


def _check_given(run: Path, *texts: str | None) -> None:
    """Raise UserError if one of the texts that go up, or the folder's name in the default commit message, is a secret."""
    places = ("the repository's name", "the revision", "the message", "the data's name", "the folder's name")
    for place, text in zip(places, (*texts, run.absolute().name), strict=True):
        check_no_token(text or "", place)


def _is_public(api, repo_id: str) -> bool:
    try:
        return api.repo_exists(repo_id)
    except Exception as error:
        if status_of(error) is None and not connection_failed(error):
            raise
        return False


@dataclasses.dataclass
class _Push:
    """One push. `attempt` can be repeated: it starts from what the Hub has then."""

    api: Any  # None: as if the Hub had no such repository
    run: Path
    staged: staging.Staged
    repo_id: str
    revision: str = "main"
    private: bool = False
    message: str | None = None
    new_card: bool = False
    dry_run: bool = False
    dataset_name: str | None = None
    facts: dict | None = None
    onnx_tried: bool = False
    from_hub: list[str] = dataclasses.field(default_factory=list)
    # Of a commit that was attempted; it may have been made although no answer came.
    changes: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.tell = functools.cache(lambda line: print(line, file=sys.stderr))  # each line once

    def attempt(self) -> str:
        from huggingface_hub.constants import ENDPOINT

        url = f"{ENDPOINT}/{self.repo_id}"
        head, private = self._head() if self.api else ("", None)
        if private is False and self.private:
            raise UserError(f"{self.repo_id} is public already; it cannot be pushed as private; change that in its settings")
        if not head and not self.dry_run:
            self._complete({}, "")
            self.card(None)  # shows what is wrong with it before anything is created
            self._create(exists=private is not None)
            head, _ = self._head()
        listing = self.api.list_repo_tree(self.repo_id, recursive=True, revision=head) if head else []
        theirs = {entry.path: entry for entry in listing if hasattr(entry, "blob_id")}  # files, not folders
        self._keep_what_is_theirs(theirs, head)
        self._complete(theirs, head)
        old_card = _read_card(self._download(CARD, head), f"{CARD} of {self.repo_id} on the Hub") if CARD in theirs else None
        write_text(self.staged.folder / CARD, self.card(old_card))
        ours = {p.relative_to(self.staged.folder).as_posix(): p for p in self.staged.folder.rglob("*") if p.is_file()}
        sent = {name: path for name, path in sorted(ours.items()) if not is_same(path, theirs.get(name))}
        gone = sorted(set(self._stale(theirs, head)) - set(ours))
        if self.dry_run:
            return self._describe(ours, theirs, sent, gone, old_card, url)
        if not sent and not gone and not self.changes:
            return f"{url} is up to date with {self.run}: nothing to push\ncommit {head}"
        if sent or gone:
            again = bool(self.changes)
            self.changes = [f"  {'changed' if name in theirs else 'new':8} {name}" for name in sent]
            self.changes += [f"  {'deleted':8} {name}" for name in gone]
            head = self._commit(sent, gone, head, again).oid
        branch = f" (branch {self.revision})" if self.revision != "main" else ""
        return "\n".join([f"pushed {self.run} to {url}{branch}", *self.changes, f"commit {head}"])

    def card(self, theirs: str | None) -> str:
        """Return the card to push: the Hub's brought up to date, or the run's own, or a new one.

        The run's own comes first where it is an edited copy of the Hub's: pulled, then changed by hand.
        """
        facts = self.facts
        if facts is None:
            staged = self.staged
            given = (self.repo_id, self.dataset_name, staged.own_samples)
            facts = collect_facts(staged.folder, staged.results, staged.model, *given)
            self.facts = facts
        own, path = None, self.run / CARD
        if path.is_file():
            staging.check_no_link(self.run, CARD, self.staged.cached)
            own = _read_card(path, path)
        base, where = theirs, f"{CARD} of {self.repo_id} on the Hub"
        if own is not None and (self.new_card or theirs is None or self._pulled(theirs)):
            base, where = own, str(path)
        elif self.new_card:
            base = None
        text = render_card(facts) if base is None else update_card(base, facts, where)
        check_no_token(text, f"{where}:")
        split_card(text, "the new card")
        for line in card_warnings(text, facts, where) if base is not None else []:
            self.tell(line)
        if own not in (None, theirs) and base is theirs and not _updates_to(own, facts, text):
            self.tell(f"the card on the Hub is kept; {path} is left out (--new-card takes it)")
        return text

    def _pulled(self, theirs: str) -> bool:
        """Return whether the run's own card is an edited copy of the Hub's."""
        return pulled_digest(self.run, CARD) == hashlib.sha256(theirs.encode()).hexdigest()

    def _head(self) -> tuple[str, bool | None]:
        """Return the revision's commit, or "", and whether the repository is private, or None if there is none.

        For a dry run, a branch that is not there has the commit of main, from which a push creates it.
        """
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            info = self.api.model_info(self.repo_id, revision=self.revision)
            return info.sha, bool(info.private)
        except RevisionNotFoundError:
            info = self.api.model_info(self.repo_id)
            return info.sha if self.dry_run else "", bool(info.private)
        except RepositoryNotFoundError as error:
            if status_of(error) == 401:  # also the Hub's answer to a bad token; this call tells them apart
                self.api.whoami()
            return "", None

    def _create(self, exists: bool) -> None:
        if not exists:
            # None leaves it to the account: an organisation may make new repositories private.
            self.api.create_repo(self.repo_id, private=self.private or None, exist_ok=True)
        if self.revision != "main":
            self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True)

    def _download(self, name: str, head: str) -> Path:
        return Path(self.api.hf_hub_download(self.repo_id, name, revision=head))

    def _complete(self, theirs: dict, head: str) -> None:
        """Add what the run lacks: its ONNX file, and from the Hub the sample images and files that need cleaning."""
        folder, model = self.staged.folder, self.staged.model
        for name in self.from_hub:  # by an earlier attempt
            (folder / name).unlink(missing_ok=True)
        wanted = [name for name in theirs if matches(name, CLEANED) and not matches(name, STALE)]
        if not any((folder / "samples").glob("*")):
            wanted += [name for name in theirs if name.count("/") == 1 and matches(name, staging.SAMPLES)]
        self.from_hub = [name for name in wanted if not (folder / name).exists()]
        if ONNX_FILE in theirs and not (folder / ONNX_FILE).exists():
            self.from_hub += [ONNX_FILE] * provenance.export_matches(self._download(ONNX_FILE, head), model)
        if (record := provenance.DEMO_RECORD) in theirs and not (folder / record).exists():
            self.from_hub += [record] * (provenance.recorded_space(self._download(record, head), model) is not None)
        for name in self.from_hub:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._download(name, head), folder / name)
            if name == NOTEBOOK and not self._has_these_weights(theirs, head):
                staging.clear_outputs(folder / name)
        if self.from_hub:
            provenance.drop_other_weights(folder, model)
            self.facts = None
        if not (folder / ONNX_FILE).exists() and not self.onnx_tried:
            self.onnx_tried = True
            export_if_possible(model, folder / ONNX_FILE)

    def _keep_what_is_theirs(self, theirs: dict, head: str) -> None:
        """Refuse a repository with a model of another kind, and leave its LICENSE to its owner."""
        config = None
        if CONFIG_FILE in theirs:
            with contextlib.suppress(UserError):  # no JSON
                config = read_json(self._download(CONFIG_FILE, head))
        if isinstance(config, dict) and config and config.get("model_type") != "eanet":
            kinds = (config.get(key) for key in ("model_type", "architecture", "class_name"))  # transformers, timm, Keras
            kind = printable(str(next(filter(None, kinds), "its config.json is not of an EANet")))
            raise UserError(f"{self.repo_id}: holds a model of another kind ({kind}); push to a new repository")
        if LICENSE in theirs:
            (self.staged.folder / LICENSE).unlink(missing_ok=True)

    def _has_these_weights(self, theirs: dict, head: str) -> bool:
        found = provenance.checksum_of(self._download(RESULTS_FILE, head).parent) if RESULTS_FILE in theirs else None
        return found == self.staged.results["model"]["checksum"]

    def _stale(self, theirs: dict, head: str) -> list[str]:
        record = {}
        if provenance.FIGURES_RECORD in theirs:
            with contextlib.suppress(UserError):  # a damaged one is replaced or deleted
                record = provenance.figures_record(self._download(provenance.FIGURES_RECORD, head))
        stale = [name for name in theirs if matches(name, (*STALE, *CLEANED)) or provenance.shows_weights(name, record)]
        exports = [name for name in theirs if matches(name, staging.EXPORTS) and not (self.staged.folder / name).exists()]
        stale += [name for name in exports if not provenance.export_matches(self._download(name, head), self.staged.model)]
        if self.staged.own_samples:  # the images of an earlier push; SAMPLES[:2] without the notes
            stale += [name for name in theirs if name.count("/") == 1 and matches(name, staging.SAMPLES[:2])]
        if self.staged.with_programs and "modeling_eanet.py" in theirs:
            old = [name for name in OLD_FILES if name in theirs]
            stale += old + [name for name in COMMON_NAMES if old and name in theirs]
        return stale

    def _commit(self, sent: dict, gone: list, head: str, again: bool):
        """Make one atomic commit on top of `head` alone. `upload_folder` of newer clients may split a push into several."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list = [CommitOperationAdd(name, str(path)) for name, path in sent.items()]
        operations += [CommitOperationDelete(name, is_folder=False) for name in gone]
        message = self.message or f"Push {self.run.absolute().name or 'model'} with push_to_hub.py"
        try:
            return self.api.create_commit(
                self.repo_id, operations, commit_message=message, revision=self.revision, parent_commit=head
            )
        except Exception as error:
            status = status_of(error)
            if status == 412 and again:
                raise ConnectionError("the branch moved, perhaps by the previous attempt") from None  # look again
            if status == 412:
                raise HubError(
                    f"{self.repo_id} has a newer commit than the one this push started from, and this push made none; "
                    "run the same command again to push on top of it (--dry-run shows what would change)"
                ) from None
            if type(error) is ValueError and status is None:  # the Hub's verdict on the card
                raise HubError(explain(error, 400, self.repo_id)) from None
            raise

    def _describe(self, ours, theirs, sent, gone, old_card, url) -> str:
        lines = [f"dry run: {'one commit' if sent or gone else 'no commit'} to {url} (branch {self.revision})"]
        for name, path in sorted(ours.items()):
            state = "new" if name not in theirs else "changed" if name in sent else "unchanged"
            lines.append(f"  {state:9} {path.stat().st_size:>10,} bytes  {name}")
        lines += [f"  {'delete':9} {theirs[name].size:>10,} bytes  {name}" for name in gone]
        new = (self.staged.folder / CARD).read_text(encoding="utf-8").splitlines()
        old = (old_card or "").splitlines()
        return "\n".join([*lines, *difflib.unified_diff(old, new, "card on the Hub", "card to push", lineterm="")])


def export_if_possible(model, path: Path) -> None:
    """Write the ONNX export of `model` to `path`; where a package is missing, say so."""
    from eanet.export import export_onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        export_onnx(model, path)
    except UserError as error:
        print(f"{ONNX_FILE} is left out: {error}", file=sys.stderr)


def _updates_to(own: str, facts: dict, text: str) -> bool:
    """Return True if updating the card `own` gives exactly `text`."""
    try:
        return update_card(own, facts) == text
    except UserError:  # it does not go up, so its faults do not matter
        return False


def _read_card(path: Path, where) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def is_same(path: Path, file) -> bool:
    """Return True if a file is the one on the Hub, an entry of its listing or None; compares their digests."""
    if file is None:
        return False
    if file.lfs is not None:
        return file.lfs.sha256 == sha256(path)
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)  # git's name for it
    with open(path, "rb") as content:
        return file.blob_id == hashlib.file_digest(content, lambda: digest).hexdigest()
