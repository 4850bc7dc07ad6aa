"""Bring a run to the Hugging Face Hub and back.

    python push_to_hub.py push runs/small --repo-id USER/NAME --dry-run     what would go up, and the card's diff
    python push_to_hub.py push runs/small --repo-id USER/NAME               one commit: artefacts, logs, code and card
    python push_to_hub.py pull --repo-id USER/NAME --to DIR                 the repository as a folder
    python push_to_hub.py card runs/small --repo-id USER/NAME               write the card into the run's folder only
    python push_to_hub.py promote runs/small --data DATA                    make a run the shipped one of this repository
    python push_to_hub.py demo runs/small --space USER/NAME                 a page that runs the model, as a static Space

A push that changes nothing makes no commit. The token is that of `hf auth login`, or HF_TOKEN; HF_ENDPOINT, HF_HOME and
HF_HUB_OFFLINE work as in huggingface_hub.
"""

from __future__ import annotations

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # in the Hub's cache this file is a link into blobs/

from eanet.cli import nonempty, nonempty_path, prepare_tensorflow, run  # noqa: E402


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="push_to_hub.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="push|pull|card|promote|demo")
    push = commands.add_parser("push", help="push a run to the Hub, in one commit")
    pull = commands.add_parser("pull", help="download a repository from the Hub")
    card = commands.add_parser("card", help="update the card in the run's folder, or write one, without contacting the Hub")
    promote = commands.add_parser("promote", help="make a run the shipped one of this repository")
    demo = commands.add_parser("demo", help="publish a page that runs the model in the browser, as a static Space")
    for command in (push, card, promote, demo):
        command.add_argument("run", type=nonempty_path, metavar="RUN_DIR", help="folder that train.py wrote")
    push.add_argument("--new-card", action="store_true", help="push RUN_DIR's card, or a new one, instead of the Hub's")
    for command in (push, pull, card):
        command.add_argument("--repo-id", required=True, type=_repo_id, metavar="USER/NAME")
    for command, what in ((push, "branch to push to; created if necessary"), (pull, "branch, tag or commit")):
        command.add_argument("--revision", type=_text, default="main", metavar="REV", help=f"{what} (default: main)")
    for command in (push, demo):
        command.add_argument("--private", action="store_true", help="make a new repository private")
    demo.add_argument("--space", required=True, type=_repo_id, metavar="USER/NAME", help="created if necessary")
    demo.add_argument("--model-repo", type=_repo_id, metavar="USER/NAME", help="model that it links (default: the card's)")
    demo.add_argument("--title", type=_text, metavar="TEXT", help="of the page (default: the Space's name)")
    push.add_argument("--message", type=_text, metavar="TEXT", help="commit message")
    for command in (push, card):
        command.add_argument("--dataset-name", type=_text, metavar="NAME", help="the data's name on the card (default: its "
                             "folder's)")  # fmt: skip
        command.add_argument("--publish-samples", type=nonempty, nargs="?", const=True, metavar="DATA", help="publish six "
                             "test images of your data with the model's answers, scaled to its input; of DATA, or those the "
                             "run kept (default: none of your images go up)")  # fmt: skip
        command.add_argument("--no-saved-model", dest="saved_model", action="store_false", help="leave out the SavedModel")
    for command in (push, promote, demo):
        command.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    pull.add_argument(
        "--to", required=True, type=nonempty_path, metavar="DIR", help="new or empty folder, or one of an earlier pull"
    )
    part = pull.add_mutually_exclusive_group()
    part.add_argument("--logs-only", dest="part", action="store_const", const="logs", help="only the TensorBoard logs")
    part.add_argument("--weights-only", dest="part", action="store_const", const="weights", help="only the model's files")
    promote.add_argument(
        "--data", type=nonempty, metavar="PATH", help="CIFAR-100, to measure superclasses, calibration and exports again"
    )
    return parser.parse_args(argv)


def _text(text: str) -> str:
    """Refuse "", as of an unset variable, for argparse: it would mean the default."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a value, or leave the option out")
    return text


def _repo_id(text: str) -> str:
    from eanet.hub.provenance import is_hub_id

    if not is_hub_id(text):
        raise argparse.ArgumentTypeError("must be USER/NAME, of letters, digits, '-', '_' and '.'")
    return text


def main(argv=None) -> None:
    """Parse the arguments and call the library."""
    options = vars(parse_args(argv))
    prepare_tensorflow()
    command = options.pop("command")
    if command == "push":
        from eanet.hub.upload import push as function
    elif command == "card":
        from eanet.hub.upload import write_card as function
    elif command == "pull":
        from eanet.hub.download import pull as function
    elif command == "demo":
        from eanet.hub.demo import push_demo as function
    else:
        from eanet.hub.promote import promote as function
    print(function(**options))


if __name__ == "__main__":
    sys.exit(run(main, interrupted="stopped; the Hub has the whole commit or none; the same command continues a pull"))
