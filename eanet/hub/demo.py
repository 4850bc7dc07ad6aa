"""Publish the demo: a static Space with the page, the runtime and the model, in one atomic commit."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from pathlib import Path

import yaml

from eanet.cli import UserError, first_line, read_json, temporary_folder, write_json, write_text
from eanet.hub.card import repository_of
from eanet.hub.card_facts import sample_label
from eanet.hub.download import matches
from eanet.hub.errors import HubError, set_timeout, status_of, with_retries
from eanet.hub.front_matter import split_card
from eanet.hub.lineage import TREE
from eanet.hub.provenance import DEMO_RECORD
from eanet.hub.staging import check_no_link, check_run
from eanet.hub.tokens import check_file, check_no_token, without_token
from eanet.hub.upload import is_same

PAGE, RUNTIME = ("*.html", "*.css", "*.js"), "dist/runtime"
SAMPLES = ("samples/*.png", "samples/*.jpg")
OURS = ("runtime/*", "samples/*")  # of an earlier demo; what is no longer part of it is deleted
SITE, SITE_KEYS = "site.json", {"title", "model", "samples"}  # every demo has it, with these keys
# The files that the Hub puts into a new static Space, and a sentence of their page.
FIRST_FILES, FIRST_WORDS = {".gitattributes", "README.md", "index.html", "style.css"}, "Welcome to your static Space!"
BUILD = "`npm ci --prefix demo && npm run build --prefix demo` writes it"


def push_demo(
    run: Path,
    space: str,
    *,
    model_repo: str | None = None,
    title: str | None = None,
    private: bool = False,
    dry_run: bool = False,
    tree: Path = TREE,
) -> str:
    """Publish the demo of a run as a static Space, in one commit, and record it in the run's eanet_demo.json for the card.

    Args:
        run: folder of a finished run, or the repository itself.
        space: "user/name" of the Space; created if necessary.
        model_repo: "user/name" of the model that the page names and the Space links; None for the one on the run's card.
        title: of the page; None for the Space's name.
        private: make a new Space private. The card links only public ones.
        dry_run: change nothing and return what would be done.
        tree: folder of the code, with the built page in demo/dist/.

    Returns:
        What was done, in several lines.

    Raises:
        UserError: there is no such run, the page is not built, there is no login, or the Space is another program's
            or, with `private`, public.
        HubError: the Hub refuses or does not answer; it has the whole commit or none of it.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    check_run(run)
    for place, text in {
        "the Space's name": space,
        "the title": title or "",
        "the folder's name": run.absolute().name,
    }.items():
        check_no_token(text, place)
    set_timeout()
    if HF_HUB_OFFLINE and not dry_run:
        raise UserError("HF_HUB_OFFLINE is set, and a demo needs the Hub; unset it")
    if get_token() is None and not dry_run:
        raise UserError("not logged in to the Hub; run `hf auth login`, or set HF_TOKEN")
    alone = dry_run and (HF_HUB_OFFLINE or get_token() is None)
    if alone:
        print(f"{'offline' if HF_HUB_OFFLINE else 'not logged in'}: as if {space} were new", file=sys.stderr)
    with temporary_folder(prefix="eanet-demo-") as folder:
        checksum = stage_demo(run, folder, model_repo or _repository(run), title or space.split("/")[1], tree)
        api = None if alone else HfApi(library_name="eanet")
        said, public = with_retries(lambda: attempt(api, folder, run, space, private, dry_run), space)
    if not dry_run:
        said += _record(run, space, checksum) if public else forget_space(run, space)
    return without_token(said)


def stage_demo(run: Path, folder: Path, model_repo: str | None, title: str, tree: Path = TREE) -> str:
    """Write all files of the Space into the empty `folder`.

    Args:
        run: folder of a finished run.
        folder: where to.
        model_repo: the model that the page names, or None.
        title: of the page.
        tree: folder of the code.

    Returns:
        The checksum of the weights.

    Raises:
        UserError: the page is not built, or the run holds no model, a link or a Hub token.
    """
    demo = tree / "demo"
    runtime = sorted((demo / RUNTIME).glob("*"))
    if not (demo / "index.html").is_file():
        raise UserError(f"{demo}: no such folder; the page is in the repository of the code, not in the installed package")
    if not runtime:
        raise UserError(f"{demo / RUNTIME}: the page is not built; {BUILD}")
    for path in [path for pattern in PAGE for path in sorted(demo.glob(pattern))]:
        shutil.copyfile(path, folder / path.name)
    for path in runtime:
        (folder / "runtime").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "runtime" / path.name)
    labels, checksum = _export(run, folder / "model.onnx")
    samples = _samples(run, tree, labels)
    check_no_token(model_repo or "", "the model's name")
    for path in samples:
        check_no_token(path.name, f"the name {path}")
        (folder / "samples").mkdir(exist_ok=True)
        check_file(path, path)
        shutil.copyfile(path, folder / "samples" / path.name)
    write_json(folder / SITE, {"title": title, "model": model_repo, "samples": [path.name for path in samples]})
    write_text(folder / "README.md", _card((demo / "README.md").read_text(encoding="utf-8"), model_repo, title))
    return checksum


def _export(run: Path, path: Path) -> tuple[set[str], str]:
    """Write the run's ONNX file, with the attention among its outputs; return the class names and the checksum."""
    from eanet.export import export_onnx
    from eanet.saving import model_checksum
    from modeling_eanet import from_pretrained_keras

    model = from_pretrained_keras(run)
    export_onnx(model, path)
    return set(model.config.id2label.values()), model_checksum(model)


def _samples(run: Path, tree: Path, labels: set[str]) -> list[Path]:
    """Return the run's sample images, or those of the code where they show the run's classes."""
    own = sorted(path for pattern in SAMPLES for path in run.glob(pattern))
    for path in own:
        check_no_link(run, path.relative_to(run).as_posix(), cached=run.resolve() == tree.resolve())
    shared = sorted(path for pattern in SAMPLES for path in tree.glob(pattern))
    return own or (shared if {sample_label(path.stem) for path in shared} <= labels else [])


def _repository(run: Path) -> str | None:
    card = run / "README.md"
    return repository_of(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None


def _card(template: str, model_repo: str | None, title: str) -> str:
    """Return the Space's README, with this title and link to the model in its front matter."""
    matter, body = split_card(template, "demo/README.md")
    data = {**yaml.safe_load(matter), "title": title, "models": [model_repo] if model_repo else []}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n{re.sub('^# .*', lambda _: f'# {title}', body, count=1, flags=re.MULTILINE)}"


def attempt(api, folder: Path, run: Path, space: str, private: bool, dry_run: bool) -> tuple[str, bool]:
    """Make the Space equal to the staged `folder`, starting from what the Hub has now.

    Args:
        api: an `HfApi`; None as if there were no such Space.
        folder: from `stage_demo`; a README that the owner of the Space has edited replaces the one in it.
        run: for messages.
        space: "user/name".
        private: make a new Space private.
        dry_run: change nothing.

    Returns:
        What was done, in several lines; and whether everybody can see the Space.

    Raises:
        UserError: the Space is another program's or, with `private`, public.
        HubError: the branch moved meanwhile.
    """
    from huggingface_hub.constants import ENDPOINT

    url = f"{ENDPOINT}/spaces/{space}"
    head, public = _head(api, space) if api else ("", False)
    existed = bool(head)
    if not existed and not dry_run:
        api.create_repo(space, repo_type="space", space_sdk="static", private=private or None, exist_ok=True)
        head, public = _head(api, space)
    if public and private:
        raise UserError(f"{space} is public already; it cannot be pushed as private; change that in its settings")
    listing = api.list_repo_tree(space, repo_type="space", recursive=True, revision=head) if head else []
    theirs = {entry.path: entry for entry in listing if hasattr(entry, "blob_id")}
    if "README.md" in theirs:
        _keep_card(api, folder, space, head)
    if existed:
        _check_ours(api, space, head, theirs)
    ours = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    sent = {name: path for name, path in ours.items() if not is_same(path, theirs.get(name))}
    gone = [name for name in theirs if matches(name, OURS) and name not in ours]
    lines = [_line("changed" if name in theirs else "new", path.stat().st_size, name) for name, path in sent.items()]
    lines += [_line("deleted", theirs[name].size, name) for name in gone]
    if dry_run:
        return "\n".join([f"dry run: {'one commit' if lines else 'no commit'} to {url}", *lines]), public
    if not lines:
        return f"{url} is up to date with {run}: nothing to push\ncommit {head}", public
    commit = _commit(api, space, sent, gone, head, run)
    return "\n".join([f"pushed the demo of {run} to {url}", *lines, f"commit {commit}"]), public


def _line(state: str, size: int, name: str) -> str:
    return f"  {state:8} {size:>10,} bytes  {name}"


def _record(run: Path, space: str, checksum: str) -> str:
    """Write what the card of later pushes needs to link the Space, and return a line that says so."""
    try:
        write_json(run / DEMO_RECORD, {"space": space, "checksum": checksum})
    except OSError as error:  # the demo is published all the same
        return f"\nthe card will not link it: {run / DEMO_RECORD}: {first_line(error)}"
    return f"\nwrote {run / DEMO_RECORD}: the card of the next push links it"


def forget_space(run: Path, space: str) -> str:
    """Remove a run's record of a Space that not everybody can see; return a line that says so, or ""."""
    path = run / DEMO_RECORD
    with contextlib.suppress(UserError, OSError, KeyError, TypeError):
        if path.is_file() and read_json(path)["space"] == space:
            path.unlink()
            return f"\nremoved {path}: the Space is private"
    return ""


def _head(api, space: str) -> tuple[str, bool]:
    """Return the Space's commit, or "" if there is none; and whether it is public."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.space_info(space, revision="main")
        return info.sha, not info.private
    except RepositoryNotFoundError as error:
        if status_of(error) == 401:  # also the Hub's answer to a bad token; this call tells them apart
            api.whoami()
        return "", False


def _keep_card(api, folder: Path, space: str, head: str) -> None:
    """Keep a README that belongs to a demo and that its owner has edited; refuse a Space that is no static page."""
    path = api.hf_hub_download(space, "README.md", repo_type="space", revision=head)
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    data = yaml.safe_load(split_card(text, f"README.md of {space}")[0]) or {}
    if data.get("sdk") != "static":
        raise UserError(f"{space}: is a Space of another kind (sdk: {data.get('sdk')}); give the name of a new one")
    if (models := data.get("models")) is None:  # a new Space has none: the Hub writes its first README
        return
    ours = (folder / "README.md").read_text(encoding="utf-8")
    if text != _card(ours, models[0] if models else None, str(data.get("title"))):  # else it is as an earlier demo wrote it
        write_text(folder / "README.md", text)


def _check_ours(api, space: str, head: str, names) -> None:
    """Refuse a Space that is neither an earlier demo nor as the Hub begins it: its page would be overwritten."""

    def download(name: str) -> Path:
        return Path(api.hf_hub_download(space, name, repo_type="space", revision=head))

    if SITE in names:
        with contextlib.suppress(UserError, TypeError):  # another program's file
            if SITE_KEYS <= set(read_json(download(SITE))):
                return
    if "index.html" in names and set(names) <= FIRST_FILES:
        if FIRST_WORDS in download("index.html").read_text(encoding="utf-8", errors="replace"):
            return
    raise UserError(f"{space}: is neither a new Space nor an earlier demo; give the name of a new one")


def _commit(api, space: str, sent: dict, gone: list, head: str, run: Path) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list = [CommitOperationAdd(name, str(path)) for name, path in sent.items()]
    operations += [CommitOperationDelete(name, is_folder=False) for name in gone]
    message = f"Push the demo of {run.absolute().name or 'a model'} with push_to_hub.py"
    try:
        made = api.create_commit(space, operations, commit_message=message, repo_type="space", parent_commit=head)
    except Exception as error:
        if status_of(error) == 412:
            raise HubError(
                f"{space} has a newer commit than the one this push started from; run the command again"
            ) from None
        raise
    return made.oid
