"""Brings a run to the Hugging Face Hub and back.

    python push_to_hub.py push runs/small --repo-id USER/NAME --dry-run     what would go up, and the card's diff
    python push_to_hub.py push runs/small --repo-id USER/NAME               one commit: artefacts, logs, code and card
    python push_to_hub.py pull --repo-id USER/NAME --to DIR                 the repository as a folder
    python push_to_hub.py card runs/small --repo-id USER/NAME               write the card into the run's folder only

A push that changes nothing makes no commit. The token is that of `hf auth login`, or HF_TOKEN; HF_ENDPOINT, HF_HOME and
HF_HUB_OFFLINE mean what they mean to huggingface_hub.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import email.utils
import fnmatch
import functools
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import numpy as np

from model_card import CARD, build_card, split_card
from modeling_eanet import (
    KERAS_FILES,
    ONNX_FILE,
    SAVED_MODEL_FILES,
    first_line,
    from_pretrained_keras,
    model_checksum,
    write_json,
)

ROOT = Path(__file__).resolve().parent
# All that ever goes up, as patterns of whole paths. Out of the run's folder:
ARTEFACTS = ("config.json", "metadata.json", "model.weights.h5", "saved_model.pb", "keras_metadata.pb", "fingerprint.pb",
             "variables/variables.index", "variables/variables.data-?????-of-?????", "model.onnx")  # fmt: skip
MEASURED = ("eval_results.json", "history.json")
LOGS = ("logs/*/events.out.tfevents.*", "logs/events.out.tfevents.*")
EXTRAS = ("figures/*.png", "figures/*.svg", "figures/*.py", "samples/*.png", "samples/*.jpg", "samples/*.md",
          "samples/*.py", "benchmarks/*.py", "benchmarks/*.md", "benchmarks/*.json", "benchmarks/*.png", "tests/*.py",
          "eanet_cifar100.ipynb", ".ci/run", "pyproject.toml", "requirements-dev.txt")  # fmt: skip
# Out of the folder of this program:
CODE = ("modeling_eanet.py", "data.py", "train.py", "training_form.py", "inference.py", "export.py", "model_card.py",
        "card_regions.py", "card_template.md", "push_to_hub.py", "handler.py", "requirements.txt", "requirements-onnx.txt",
        "LICENSE")  # fmt: skip
# What an earlier run may have left on the Hub, which would belong to other weights; a push deletes it. `*` takes in "/".
STALE = (*ARTEFACTS, *MEASURED, "variables/*", "logs/*tfevents*")

TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")
ATTEMPTS, LONGEST_WAIT = 4, 300  # seconds
TIMEOUT = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or 60)  # seconds without a word from the Hub
PULLED = ".pulled.json"


class HubError(Exception):
    """What the Hub answers, or that it does not; one line, exit status 1."""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="push_to_hub.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="push|pull|card")
    push = commands.add_parser("push", help="bring a run to the Hub, in one commit")
    pull = commands.add_parser("pull", help="bring a repository of the Hub here")
    card = commands.add_parser("card", help="bring the card in the run's folder up to date, or make one; asks no Hub")
    for command in (push, card):
        command.add_argument("run", metavar="RUN_DIR", help="folder that train.py wrote, or . for this repository")
    push.add_argument(
        "--new-card", action="store_true", help="not the Hub's card, but RUN_DIR's, or a new one if it has none"
    )
    card.set_defaults(new_card=False)  # it asks no Hub, so the run's own card is the only one there is
    for command in (push, pull, card):
        command.add_argument("--repo-id", required=True, type=_repo_id, metavar="USER/NAME")
    for command, what in ((push, "branch to push to; made if it is not there"), (pull, "branch, tag or commit")):
        command.add_argument("--revision", default="main", metavar="REV", help=f"{what} (default: main)")
    push.add_argument("--private", action="store_true", help="a new repository is private")
    push.add_argument("--message", metavar="TEXT", help="of the commit")
    push.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    pull.add_argument("--to", required=True, type=Path, metavar="DIR", help="new or empty folder, or one of an earlier pull")
    part = pull.add_mutually_exclusive_group()
    part.add_argument("--logs-only", action="store_true", help="the TensorBoard logs alone")
    part.add_argument("--weights-only", action="store_true", help="the model alone, in both formats")
    return parser.parse_args(argv)


def _repo_id(text: str) -> str:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError:
        text = ""
    if text.count("/") != 1:
        raise argparse.ArgumentTypeError("must be USER/NAME, of letters, digits, '-', '_' and '.'")
    return text


# --------------------------------------------------------------------------------------------------------- the stage


def stage_run(run: Path, stage: Path) -> dict:
    """Copies what goes up, but for the card, into the empty folder `stage`, and checks that it belongs together.

    Returns:
        The content of `eval_results.json`.

    Raises:
        ValueError: `run` holds no complete run, files of two runs, a link, or a token.
    """
    if not run.is_dir():
        raise ValueError(f"RUN_DIR {run}: no such folder")
    for root, patterns in ((run, (*ARTEFACTS, *MEASURED, *LOGS, *EXTRAS)), (ROOT, CODE)):
        for name in _listed(root, patterns):
            _check_no_link(root, name)
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, stage / name)
    if not any((stage / name).exists() for name in KERAS_FILES):
        raise ValueError(f"RUN_DIR {run}: holds no model; `python train.py --output {run}` makes one")
    for name in (*KERAS_FILES, *SAVED_MODEL_FILES, "eval_results.json"):
        if not (stage / name).exists():
            mend = f"`python train.py --export {run}` adds it" if name in SAVED_MODEL_FILES else "train it to its end"
            raise ValueError(f"RUN_DIR {run}: {name} is missing; {mend}")
    for file in sorted(p for p in stage.rglob("*") if p.is_file()):
        _check_no_token(file.read_bytes(), run / file.relative_to(stage))
    results = _read_results(run, stage)
    _check_one_run(run, stage, results)
    return results


def _listed(root: Path, patterns) -> list[str]:
    names = {path.relative_to(root).as_posix() for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return sorted(names)


def _check_no_link(root: Path, name: str) -> None:
    """A link could bring along what is not listed, from within the folder too."""
    if (root / name).resolve() != root.resolve() / name:
        raise ValueError(f"{root / name}: is a link, or in a folder that is one; put the file itself there, or remove it")


def _check_no_token(content: bytes, name) -> None:
    from huggingface_hub import get_token

    token = get_token()
    if TOKEN.search(content) or (token and token.encode() in content):
        raise ValueError(f"{name}: holds a Hub token; take it out, and revoke it if the file was ever shared")


def _read_results(run: Path, stage: Path) -> dict:
    """`eval_results.json`, with every key that the card is made of."""
    keys = {
        "dataset": ("id", "name", "split", "note"),
        "model": ("preset", "parameters", "checksum"),
        "training": tuple("command seed epochs num_images wall_time_s hardware date init_from final_loss".split()),
        "versions": ("backend",),
    }
    try:
        results = json.loads((stage / "eval_results.json").read_text(encoding="utf-8"))
        missing = [key for key in ("accuracy", "top5_accuracy", "loss", "num_images", *keys) if key not in results]
        for part, names in keys.items():
            if not missing and results[part] is not None:
                missing += [f"{part}.{name}" for name in names if name not in results[part]]
    except (ValueError, TypeError):
        missing = ["a JSON object"]
    if missing:
        raise ValueError(
            f"RUN_DIR {run}: eval_results.json is damaged or of an older train.py: {missing[0]} is missing; the run's own "
            "train.py command, given again, writes it anew"
        )
    return results


def _check_one_run(run: Path, stage: Path, results: dict) -> None:
    """Weights, SavedModel, results, history and logs must be of one run, or numbers would stand by weights not theirs."""

    def same(ok, name, other):
        if not ok:
            raise ValueError(f"RUN_DIR {run}: {name} and {other} are of different runs; bring the files of one run together")

    model = from_pretrained_keras(stage)
    same(results["model"]["checksum"] == model_checksum(model), "model.weights.h5 with config.json", "eval_results.json")
    size = model.config.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (4, size, size, 3)).astype(np.float32)
    expected = np.asarray(model(pictures))
    forms = [("config.json's Keras half", _predict_keras), ("the SavedModel", _predict_saved_model)]
    forms += [(ONNX_FILE, functools.partial(_predict_onnx, model_checksum(model)))] if (stage / ONNX_FILE).exists() else []
    for name, predict in forms:
        try:
            predicted = predict(stage, pictures)
        except ImportError:
            print(f"{name} was not checked: what it takes is not installed here", file=sys.stderr)
            continue
        except Exception as error:  # loaders raise anything
            raise ValueError(f"RUN_DIR {run}: {name} cannot be loaded ({first_line(error)})") from None
        same(predicted.shape == expected.shape and np.allclose(predicted, expected, atol=1e-4), name, "model.weights.h5")
    training, history = results["training"], None
    if (stage / "history.json").is_file() and training is not None:
        try:
            history = json.loads((stage / "history.json").read_text(encoding="utf-8"))
            of_run = (len(history["loss"]), history["loss"][-1]) == (training["epochs"], training["final_loss"])
        except (ValueError, KeyError, TypeError, IndexError):
            raise ValueError(f"RUN_DIR {run}: history.json is damaged") from None
        same(of_run, "history.json", "eval_results.json")
        for split, key in (("train", "loss"), ("validation", "val_loss")):
            for file in sorted((stage / "logs" / split).glob("*tfevents*")):
                logged, measured = _logged(file, "epoch_loss"), history.get(key, [])
                same(
                    np.shape(logged) == np.shape(measured) and np.allclose(logged, measured), f"logs/{split}", "history.json"
                )


def _predict_keras(folder: Path, pictures) -> np.ndarray:
    import keras

    return np.asarray(keras.saving.load_model(folder)(pictures))


def _predict_saved_model(folder: Path, pictures) -> np.ndarray:
    import tensorflow as tf

    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    (answer,) = signature(tf.constant(pictures)).values()
    return answer.numpy()


def _predict_onnx(checksum: str, folder: Path, pictures) -> np.ndarray:
    """What it predicts; nothing if it was made from another model than that of `checksum`."""
    from export import OnnxModel

    exported = OnnxModel(folder / ONNX_FILE)
    return exported.predict_on_batch(pictures) if exported.checksum == checksum else np.empty(0)


def _logged(file: Path, tag: str) -> list[float]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.tag == tag:
                found.append(value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value)
    return found


# --------------------------------------------------------------------------------------------------------------- push


def push(args) -> None:
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    run, token = Path(args.run), get_token()
    if HF_HUB_OFFLINE and not args.dry_run:
        raise ValueError("HF_HUB_OFFLINE is set, and a push asks the Hub; unset it")
    if token is None and not args.dry_run:
        raise ValueError("not logged in to the Hub; run `hf auth login`, or set HF_TOKEN")
    if token and not token.isascii():
        raise ValueError("the Hub token has a character that no token has; copy it again, then `hf auth login`")
    with tempfile.TemporaryDirectory(prefix="eanet-push-") as folder:
        stage = Path(folder)
        print(f"checking {run} …", file=sys.stderr)
        results = stage_run(run, stage)
        api, tried = HfApi(library_name="eanet"), {}
        alone = args.dry_run and (HF_HUB_OFFLINE or token is None and not _is_public(api, args.repo_id))
        if alone:
            print(f"{'offline' if HF_HUB_OFFLINE else 'not logged in'}: as if {args.repo_id} were new", file=sys.stderr)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _push_once(None if alone else api, args, run, stage, results, tried)
            except Exception as error:
                _wait_or_raise(error, attempt, args.repo_id)


def _is_public(api, repo_id: str) -> bool:
    try:
        return api.repo_exists(repo_id)
    except Exception:  # no connection, say
        return False


def _push_once(api, args, run, stage, results, tried) -> None:
    """Everything that asks the Hub. It may be run again from its start: what the Hub has already is not sent twice.

    `api` is None for a dry run that asks nothing, as if the repository were new.
    `tried` holds the commit of an earlier attempt whose answer did not come; it may have been made all the same.
    """
    from huggingface_hub.constants import ENDPOINT

    head, private = _head(api, args.repo_id, args.revision) if api else (None, None)
    if private is False and args.private:
        raise ValueError(f"--private: {args.repo_id} is public already; leave --private out, or change it in its settings")
    if head is None and not args.dry_run:
        write_card(args, run, stage, results, None)  # what is wrong with it shows before anything is made
        if private is None:
            # None leaves it to the account: an organisation may make new repositories private.
            api.create_repo(args.repo_id, private=args.private or None, exist_ok=True)
        if args.revision != "main":
            api.create_branch(args.repo_id, branch=args.revision, exist_ok=True)
        head, _ = _head(api, args.repo_id, args.revision)
    listing = api.list_repo_tree(args.repo_id, recursive=True, revision=head) if head else []
    theirs = {entry.path: entry for entry in listing if hasattr(entry, "blob_id")}  # files, not folders
    old_card = _card_of(api, args.repo_id, head) if CARD in theirs else None
    write_card(args, run, stage, results, old_card)
    ours = {p.relative_to(stage).as_posix(): p for p in stage.rglob("*") if p.is_file()}
    sent = {name: path for name, path in sorted(ours.items()) if not _is_there(path, theirs.get(name))}
    gone = [name for name in sorted(theirs) if name not in ours and _matches(name, STALE)]
    url = f"{ENDPOINT}/{args.repo_id}"
    if args.dry_run:
        return _describe(args, ours, theirs, sent, gone, old_card, stage, url)
    if not sent and not gone and not tried:
        print(f"{url} is up to date with {run}: nothing to push\ncommit {head}")
        return
    if sent or gone:
        changes = [f"  {'changed' if name in theirs else 'new':8} {name}" for name in sent]
        tried["changes"] = changes + [f"  {'deleted':8} {name}" for name in gone]
        again, tried["once"] = "once" in tried, True
        head = _commit(api, args, sent, gone, head, again).oid
    branch = f" (branch {args.revision})" if args.revision != "main" else ""
    print(f"pushed {run} to {url}{branch}", *tried["changes"], f"commit {head}", sep="\n")


def _head(api, repo_id, revision):
    """(commit of the revision or None, whether the repository is private or None if there is none)."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = api.model_info(repo_id, revision=revision)
        return info.sha, bool(info.private)
    except RevisionNotFoundError:
        missing = 404
    except RepositoryNotFoundError as error:
        missing = _status(error) if _status(error) == 401 else None
    if missing == 404:
        return None, bool(api.model_info(repo_id).private)
    if missing == 401:  # the Hub's answer to a bad token too; this tells which
        api.whoami()
    return None, None


def _card_of(api, repo_id, revision) -> str:
    path = Path(api.hf_hub_download(repo_id, CARD, revision=revision))
    return _text(path, f"{CARD} of {repo_id} on the Hub")


def _text(path: Path, where) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def write_card(args, run: Path, stage: Path, results: dict, theirs: str | None) -> None:
    """Writes the card into `stage`: the Hub's brought up to date, or the run's own, or a new one.

    The run's own comes before the Hub's where it is an edited copy of just that: pulled, then changed by hand.
    """
    own = None
    if (run / CARD).is_file():
        _check_no_link(run, CARD)
        own = _text(run / CARD, run / CARD)
    base, where = theirs, f"{CARD} of {args.repo_id} on the Hub"
    if own is not None and (args.new_card or theirs is None or _pulled_card(run) == _sha256(theirs.encode())):
        base, where = own, str(run / CARD)
    elif args.new_card:
        base = None
    text = build_card(base, stage, results, args.repo_id, where=where)
    _check_no_token(text.encode(), where)
    split_card(text, "the new card")
    (stage / CARD).write_text(text, encoding="utf-8", newline="\n")
    if own not in (None, theirs) and base is theirs and not _becomes(text, own, stage, results, args.repo_id):
        print(f"the card on the Hub is kept; {run / CARD} is left out (--new-card takes it)", file=sys.stderr)


def _becomes(text: str, own: str, stage: Path, results: dict, repo_id: str) -> bool:
    """Whether the card `own`, brought up to date, is `text` too."""
    try:
        return build_card(own, stage, results, repo_id) == text
    except ValueError:  # it is not going up, so what is wrong with it stops nothing
        return False


def _pulled_card(run: Path) -> str | None:
    """SHA-256 of the card that an earlier pull put into `run`."""
    try:
        return json.loads((run / PULLED).read_text(encoding="utf-8"))["files"].get(CARD)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_there(path: Path, file) -> bool:
    if file is None:
        return False
    content = path.read_bytes()
    if file.lfs is not None:
        return file.lfs.sha256 == _sha256(content)
    return file.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git counts it


def _matches(name: str, patterns) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _commit(api, args, sent, gone, head, again):
    """One commit, atomic and on top of `head` alone. `upload_folder` of newer clients may make several of a push."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations = [CommitOperationAdd(name, str(path)) for name, path in sent.items()]
    operations += [CommitOperationDelete(name, is_folder=False) for name in gone]
    try:
        return api.create_commit(
            args.repo_id,
            operations,
            commit_message=args.message or f"Push {Path(args.run).resolve().name or 'model'} with push_to_hub.py",
            revision=args.revision,
            parent_commit=head,
        )
    except Exception as error:
        if _status(error) == 412 and again:
            raise ConnectionError("the branch moved, perhaps by the attempt before") from None  # look again
        if _status(error) == 412:
            raise HubError(
                f"{args.repo_id} has a newer commit than the one this push began from, and this push made none; "
                "run the same command again to push on top of it (--dry-run shows what would change)"
            ) from None
        if isinstance(error, ValueError) and _status(error) is None:  # what the Hub says of the card
            raise HubError(f"{args.repo_id}: the Hub refused the commit: {error}") from None
        raise


def _describe(args, ours, theirs, sent, gone, old_card, stage, url) -> None:
    print(f"dry run: {'one commit' if sent or gone else 'no commit'} to {url} (branch {args.revision})")
    for name, path in sorted(ours.items()):
        state = "new" if name not in theirs else "changed" if name in sent else "unchanged"
        print(f"  {state:9} {path.stat().st_size:>10,} bytes  {name}")
    for name in gone:
        print(f"  {'delete':9} {theirs[name].size:>10,} bytes  {name}")
    new = (stage / CARD).read_text(encoding="utf-8")
    old, new = (old_card or "").splitlines(), new.splitlines()
    diff = difflib.unified_diff(old, new, "card on the Hub", "card to push", lineterm="")
    print("\n".join(diff))


def card(args) -> None:
    """Writes the card into the run's folder, through a temporary name."""
    run = Path(args.run)
    with tempfile.TemporaryDirectory(prefix="eanet-card-") as folder:
        stage = Path(folder)
        write_card(args, run, stage, stage_run(run, stage), None)
        temporary = run / f".{CARD}.{os.getpid()}.tmp"
        try:
            shutil.copyfile(stage / CARD, temporary)
            os.replace(temporary, run / CARD)
        finally:
            temporary.unlink(missing_ok=True)
    print(f"wrote {run / CARD}")


# --------------------------------------------------------------------------------------------------------------- pull


def pull(args) -> None:
    to, wanted = args.to, None
    if args.logs_only:
        wanted = ["logs/*"]
    elif args.weights_only:
        wanted = [*ARTEFACTS, "eval_results.json"]
    before = _pulled_before(to, args.repo_id)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            snapshot, complete = _snapshot(args, wanted)
            break
        except Exception as error:
            _wait_or_raise(error, attempt, args.repo_id)
    names = sorted(p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file())
    names = [name for name in names if name != PULLED and (wanted is None or _matches(name, wanted))]
    if not names:
        raise ValueError(f"--repo-id {args.repo_id}: holds no {'logs' if args.logs_only else 'model'} at {args.revision}")
    files = {name: _sha256((snapshot / name).read_bytes()) for name in names}
    for name in names:
        if name not in before and (to / name).exists() and _sha256((to / name).read_bytes()) != files[name]:
            raise ValueError(f"--to {to}: {name} is there and of your own; move it away, or name another folder")
    gone = [name for name in before if name not in files and (wanted is None or _matches(name, wanted))] if complete else []
    kept = {name: sha256 for name, sha256 in before.items() if name not in gone}
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=to) as folder:  # in there, so that moving is a rename
        for name in names:
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot / name, Path(folder) / name)
        # First the record, with old and new: a pull that is interrupted from here on can be repeated.
        record = {"repo_id": args.repo_id, "commit": snapshot.name, "files": {**before, **files}, "before": before}
        write_json(to / PULLED, record)
        for name in names:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(folder) / name, to / name)
    for name in gone:
        (to / name).unlink(missing_ok=True)
    write_json(to / PULLED, {"repo_id": args.repo_id, "commit": snapshot.name, "files": {**kept, **files}})
    changed = [name for name in names if before.get(name) != files[name]]
    print(f"pulled {args.repo_id} at commit {snapshot.name} to {to}: {len(names)} files, {len(changed)} new or changed"
          + (f", {len(gone)} deleted" if gone else ""))  # fmt: skip


def _snapshot(args, wanted) -> tuple[Path, bool]:
    """(folder in the cache, whether it has all files of the commit)."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return Path(snapshot_download(args.repo_id, revision=args.revision, allow_patterns=wanted)), False
    api = HfApi(library_name="eanet")
    commit = api.model_info(args.repo_id, revision=args.revision).sha
    names = api.list_repo_files(args.repo_id, revision=commit)
    # By its name and not by its commit: only so does the cache know the name when it is asked offline.
    snapshot = Path(snapshot_download(args.repo_id, revision=args.revision, allow_patterns=wanted))
    if snapshot.name != commit:
        raise ConnectionError(f"{args.revision} moved, or the Hub stopped to answer")
    # Where the Hub breaks off, the client is content with what its cache has of the commit.
    missing = [name for name in names if (wanted is None or _matches(name, wanted)) and not (snapshot / name).is_file()]
    if missing:
        raise ConnectionError(f"{missing[0]} was not downloaded")
    return snapshot, True


def _pulled_before(to: Path, repo_id: str) -> dict[str, str]:
    """SHA-256 by name of what an earlier pull put into `to`. Raises ValueError where a pull would lose something."""
    if to.exists() and not to.is_dir():
        raise ValueError(f"--to {to}: is a file, not a folder")
    if not to.is_dir() or not any(to.iterdir()):
        return {}
    try:
        record = json.loads((to / PULLED).read_text(encoding="utf-8"))
        theirs, files, earlier = record["repo_id"], dict(record["files"]), dict(record.get("before", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"--to {to}: is not empty and no folder of an earlier pull; name another") from None
    if theirs != repo_id:
        raise ValueError(f"--to {to}: was pulled from {theirs}, not from {repo_id}; name another folder")
    for name, sha256 in files.items():
        path = to / name
        if path.is_file() and _sha256(path.read_bytes()) not in (sha256, earlier.get(name)):
            raise ValueError(f"--to {to}: {name} was changed since it was pulled; move it away, or name another folder")
    return files


# -------------------------------------------------------------------------------------------------- errors of the Hub


def _status(error) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _xet_status(error) -> int | None:
    """The Xet library has no response to look at: "HTTP status client error (403 Forbidden)" is in its message."""
    match = re.search(r"HTTP status \w+ error \((\d{3})\b", str(error))
    return int(match[1]) if match else None


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _connection_failed(error) -> bool:
    """Clients raise the errors of requests, of httpx or of their Xet library; their names tell more than their bases."""
    names = {cls.__name__ for cause in _chain(error) for cls in type(cause).__mro__}
    return bool(names & {"ConnectionError", "Timeout", "TimeoutException", "TransportError", "ChunkedEncodingError",
                         "ProtocolError", "IncompleteRead", "LocalEntryNotFoundError"})  # fmt: skip


def _wait_or_raise(error: Exception, attempt: int, repo_id: str) -> None:
    """Waits before another attempt at what may pass; raises what will not: as it is, or as one line about the Hub."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if isinstance(error, HubError):
        raise error
    if HF_HUB_OFFLINE:
        raise ValueError(f"HF_HUB_OFFLINE is set, and this is not in the cache: {first_line(error)}") from None
    status = next((s for s in map(_status, _chain(error)) if s is not None), None)
    if status is None and not _connection_failed(error):
        raise error  # nothing to do with the Hub
    asked = _retry_after(error)
    wait = 2.0 ** (attempt - 1) if asked is None else asked
    passing = status in (None, 408, 425, 429) or status >= 500
    if status is None and (xet := next(filter(None, map(_xet_status, _chain(error))), None)):
        status, passing = xet, False  # it has tried again by itself, for minutes
    if not passing or attempt == ATTEMPTS or wait > LONGEST_WAIT:
        later = f"; it asks to wait {wait:.0f} s, so try again then" if passing and wait > LONGEST_WAIT else ""
        raise HubError(_explain(error, status, repo_id) + later) from error
    _complain(f"{_explain(error, status, repo_id)}; trying again in {wait:.0f} s")
    time.sleep(wait)


def _retry_after(error) -> float | None:
    """Seconds; the header may also give a date."""
    for cause in _chain(error):
        value = getattr(getattr(cause, "response", None), "headers", {}).get("Retry-After")
        if value and value.strip().isdigit():
            return float(value)
        if value:
            with contextlib.suppress(ValueError, TypeError):
                return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _explain(error, status, repo_id) -> str:
    said = next((m for m in (getattr(e, "server_message", None) for e in _chain(error)) if m), None) or first_line(error)
    reasons = {
        401: "the token was not accepted (401); log in again with `hf auth login`, or set another HF_TOKEN",
        403: f"the token has no right to do this (403); to push it needs the role write for {repo_id.split('/')[0]}",
        404: "no such repository or revision, or it is private (404); check --repo-id and --revision",
        409: "the Hub reports a conflict (409); run the same command again",
        429: "the Hub answers that there were too many requests (429)",
    }
    if status in reasons:
        return f"{repo_id}: {reasons[status]}"
    if status is None:
        return f"{repo_id}: the connection to the Hub failed ({said})"
    if status >= 500:
        return f"{repo_id}: the Hub has a problem of its own ({status}); nothing is wrong here"
    return f"{repo_id}: the Hub refused ({status}: {said})"


def _time_out() -> None:
    """Makes a Hub that says nothing for a minute a failed connection; the clients by themselves wait for good."""
    import huggingface_hub as hub

    if not hasattr(hub, "configure_http_backend"):  # 1.0 and later: one httpx client
        hub.get_session().timeout = TIMEOUT
        return
    import requests
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def send(self, request, **kwargs):
            return super().send(request, **{**kwargs, "timeout": kwargs.get("timeout") or TIMEOUT})

    def session():
        made = requests.Session()
        for scheme in ("https://", "http://"):
            made.mount(scheme, Adapter())
        return made

    hub.configure_http_backend(session)


def main(argv=None) -> int:
    args = parse_args(argv)
    code = 0
    try:
        _time_out()
        {"push": push, "pull": pull, "card": card}[args.command](args)
    except (HubError, ValueError, OSError, ImportError) as error:
        code = 1 if isinstance(error, HubError) else 2
        _complain(f"push_to_hub.py: error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        code = 130
        state = "the same command goes on" if args.command == "pull" else "the Hub is as it was, or has the whole commit"
        _complain(f"\npush_to_hub.py: stopped; {state}")
    return code


def _complain(text: str) -> None:
    """Prints a line to standard error, without the token, and below the progress bars that a failed client left open."""
    from huggingface_hub import get_token
    from tqdm import tqdm

    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    text = TOKEN.sub(b"hf_***", text.encode()).decode().replace(get_token() or "\0", "hf_***")
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
