"""push_to_hub.py demo: a static Space in one commit, and nothing of it where something fails."""

import json
import shutil

import pytest
import yaml
from conftest import ROOT
from hub_session import NEWEST, OLDEST, REPO, commit_by_hand, error_line

from eanet.cli import UserError
from eanet.hub import demo, staging
from eanet.hub.provenance import recorded_space
from eanet.saving import model_checksum

pytest_plugins = ["hub_fixtures"]
SPACE = "user/colours-demo"


@pytest.fixture
def tree(tmp_path):
    """A copy of the page, built with a runtime of a few bytes."""
    shutil.copytree(ROOT / "demo", tmp_path / "tree/demo", ignore=shutil.ignore_patterns("node_modules", "dist"))
    (tmp_path / "tree/demo/dist/runtime").mkdir(parents=True)
    (tmp_path / "tree/demo/dist/runtime/ort.wasm").write_bytes(b"\0asm" + bytes(100))
    (tmp_path / "tree/samples").mkdir()
    shutil.copy(ROOT / "samples/apple.png", tmp_path / "tree/samples/red.png")
    return tmp_path / "tree"


def test_the_staged_page_names_the_model_and_shows_fitting_samples(made_run, tree, tmp_path):
    from eanet.export import OnnxModel

    (tmp_path / "out").mkdir()
    demo.stage_demo(made_run, tmp_path / "out", "user/colours", "Colours", tree)
    assert json.loads((tmp_path / "out/site.json").read_text()) == {
        "title": "Colours", "model": "user/colours", "samples": ["red.png"]
    }  # fmt: skip
    matter = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---\n")[1])
    assert (matter["sdk"], matter["title"], matter["models"]) == ("static", "Colours", ["user/colours"])
    assert "attention_0" in {output.name for output in OnnxModel(tmp_path / "out/model.onnx").session.get_outputs()}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"index.html", "app.js", "style.css", "runtime", "samples"} <= names and "dist" not in names


def test_tokens_in_names_do_not_go_up(run, tree, tmp_path):
    token = "hf_" + "pLANTEDsecret" * 3
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="the model's name contains a Hub token"):
        demo.stage_demo(run, tmp_path / "out", f"user/{token}", "Colours", tree)
    (run / "samples").mkdir()
    shutil.copy(ROOT / "samples/apple.png", run / "samples" / f"{token}.png")
    with pytest.raises(UserError, match="the name .* contains a Hub token") as caught:
        demo.stage_demo(run, tmp_path / "out", None, "Colours", tree)
    assert token not in str(caught.value)


def test_a_page_that_is_not_built_says_how(made_run, tree, tmp_path):
    shutil.rmtree(tree / "demo/dist")
    with pytest.raises(UserError, match="not built; `npm ci --prefix demo && npm run build --prefix demo`"):
        demo.stage_demo(made_run, tmp_path, None, "Colours", tree)
    with pytest.raises(UserError, match="not in the installed package"):
        demo.stage_demo(made_run, tmp_path, None, "Colours", tmp_path / "nowhere")


@pytest.fixture
def staged(made_run, tree, tmp_path):
    """The staged page, ready to go up."""
    (tmp_path / "page").mkdir()
    demo.stage_demo(made_run, tmp_path / "page", "user/colours", "Colours", tree)
    return tmp_path / "page"


ATTEMPT = f"""
import pathlib
from eanet.hub import demo
from eanet.hub.errors import set_timeout, with_retries
from eanet.cli import run
from huggingface_hub import HfApi
page, dry_run, private = sys.argv[1], sys.argv[2] == "dry", "private" in sys.argv
set_timeout()
attempt = lambda: demo.attempt(HfApi(), pathlib.Path(page), pathlib.Path("run"), "{SPACE}", private, dry_run)
sys.exit(run(lambda argv: print(with_retries(attempt, "{SPACE}")[0])))
"""
PUBLISH = f"""
import pathlib
from eanet.hub import demo
from eanet.cli import run
folder, tree, *flags = sys.argv[1:]
publish = lambda argv: demo.push_demo(pathlib.Path(folder), "{SPACE}", tree=pathlib.Path(tree), **dict.fromkeys(flags, True))
sys.exit(run(lambda argv: print(publish(argv))))
"""


@pytest.mark.parametrize("version", [NEWEST, pytest.param(OLDEST, marks=pytest.mark.slow)])
def test_the_space_gets_one_commit_and_a_second_run_none(version, staged, sessions):
    session = sessions(version)
    dry = session.python(ATTEMPT, staged, "dry")
    assert dry.code == 0 and "dry run: one commit" in dry.out and not session.hub.repos, dry.err
    done = session.python(ATTEMPT, staged, "push")
    repo = session.hub.repos[f"spaces/{SPACE}"]
    assert done.code == 0 and f"{session.hub.url}/spaces/{SPACE}" in done.out, done.err
    assert len(repo.history()) == 3  # the Hub's own two, and ours
    assert repo.head().files["model.onnx"].content == (staged / "model.onnx").read_bytes()
    assert b"sdk: static" in repo.head().files["README.md"].content and b"models:" in repo.head().files["README.md"].content
    again = session.python(ATTEMPT, staged, "push")
    assert "nothing to push" in again.out and len(repo.history()) == 3


def test_the_card_of_the_next_push_links_the_space(run, tree, session, hub, tmp_path):
    record, link = run / "eanet_demo.json", f"(https://huggingface.co/spaces/{SPACE})"
    done = session.python(PUBLISH, run, tree)
    assert done.code == 0 and f"wrote {record}" in done.out, done.err
    assert session.push(run).code == 0
    files = hub.repos[REPO].head().files
    assert files["eanet_demo.json"].content == record.read_bytes() and link in files["README.md"].content.decode()
    record.unlink()  # as in another copy of the run
    assert "nothing to push" in session.push(run).out
    assert (
        session.pull(tmp_path / "pulled").code == 0
        and json.loads((tmp_path / "pulled/eanet_demo.json").read_text())["space"] == SPACE
    )


def test_private_is_not_ignored(staged, session, hub):
    assert session.python(ATTEMPT, staged, "push", "private").code == 0
    repo = hub.repos[f"spaces/{SPACE}"]
    assert repo.private and "nothing to push" in session.python(ATTEMPT, staged, "push", "private").out
    repo.private, before = False, repo.head().sha
    for mode in ("dry", "push"):
        assert "is public already" in error_line(session.python(ATTEMPT, staged, mode, "private"), 2)
    assert repo.head().sha == before


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["private", "dry_run"])
def test_a_space_that_not_everybody_sees_is_not_linked(flag, run, tree, session):
    assert session.python(PUBLISH, run, tree, flag).code == 0 and not (run / "eanet_demo.json").exists()


def test_the_record_of_a_space_that_became_private_is_removed(tmp_path):
    path = tmp_path / "eanet_demo.json"
    for space, there in (("user/other", True), (SPACE, False)):
        path.write_text(json.dumps({"space": space, "checksum": "00000000"}))
        assert bool(demo.forget_space(tmp_path, SPACE)) is not there and path.exists() is there


def test_a_record_of_other_weights_stays_here(run, tmp_path, capsys):
    (run / "eanet_demo.json").write_text(json.dumps({"space": SPACE, "checksum": "00000000"}))
    staged = staging.stage_run(run, tmp_path / "staged", saved_model=False)
    assert not (staged.folder / "eanet_demo.json").exists() and "eanet_demo.json is left out" in capsys.readouterr().err


@pytest.mark.parametrize("space", [SPACE, None, 3, "name", "a/b/c", "../b", "a/b](https://example.org", "a/b\nc", {"a": 1}])
def test_a_strangers_record_is_read_as_a_name_or_not_at_all(space, tiny_model, tmp_path):
    for checksum in (model_checksum(tiny_model), "00000000", None, []):
        (tmp_path / "eanet_demo.json").write_text(json.dumps({"space": space, "checksum": checksum}))
        expected = SPACE if space == SPACE and checksum == model_checksum(tiny_model) else None
        assert recorded_space(tmp_path / "eanet_demo.json", tiny_model) == expected
    for text in ("", "[1]", '{"checksum": 1}'):
        (tmp_path / "eanet_demo.json").write_text(text)
        assert recorded_space(tmp_path / "eanet_demo.json", tiny_model) is None


@pytest.mark.slow
@pytest.mark.parametrize("fault", [dict(path="/commit/", status=403), dict(path="/lfs/", method="PUT", kind="drop")])
def test_a_failed_push_publishes_nothing(fault, staged, session, hub):
    hub.fault(**fault)
    error_line(session.python(ATTEMPT, staged, "push"), 1)
    assert {"README.md", "index.html", ".gitattributes"} == set(hub.repos[f"spaces/{SPACE}"].head().files)


@pytest.mark.slow
def test_edits_of_the_owner_stay_and_old_files_go(staged, session, hub):
    assert session.python(ATTEMPT, staged, "push").code == 0
    repo = hub.repos[f"spaces/{SPACE}"]
    files = dict(repo.head().files)
    edited = type(files["README.md"])(files["README.md"].content.replace(b"title: Colours", b"title: Mine"), False)
    repo.commit("main", "by hand", {**files, "README.md": edited, "runtime/old.wasm": edited, "notes.txt": edited})
    done = session.python(ATTEMPT, staged, "push")
    assert done.code == 0 and "deleted" in done.out, done.err
    after = repo.head().files
    assert after["README.md"] == edited and "notes.txt" in after and "runtime/old.wasm" not in after


def test_another_title_and_model_reach_a_card_that_nobody_edited(made_run, tree, staged, session, hub):
    assert session.python(ATTEMPT, staged, "push").code == 0
    for title, model in (("Colours 2", "user/other"), ("Colours 3", None)):
        shutil.rmtree(staged)
        staged.mkdir()
        demo.stage_demo(made_run, staged, model, title, tree)
        assert session.python(ATTEMPT, staged, "push").code == 0
        readme = hub.repos[f"spaces/{SPACE}"].head().files["README.md"].content.decode()
        matter = yaml.safe_load(readme.split("---")[1])
        assert (matter["title"], matter["models"]) == (title, [model] if model else []) and f"# {title}" in readme


def test_a_page_of_another_program_is_not_replaced(staged, session, hub):
    create = f"from huggingface_hub import create_repo\ncreate_repo('{SPACE}', repo_type='space', space_sdk='static')"
    assert session.python(create).code == 0
    repo = hub.repos[f"spaces/{SPACE}"]
    commit_by_hand(hub, {"style.css": b"body {}"}, f"spaces/{SPACE}")  # as a new Space of the Hub has it
    assert "dry run: one commit" in session.python(ATTEMPT, staged, "dry").out
    card = b"---\nsdk: static\nmodels: [me/other]\n---\n"
    page = {"README.md": card, "index.html": b"<p>My page</p>", "samples/sound.wav": b"mine"}
    for changes in (page, {"site.json": b'{"title": "My page"}'}, {"site.json": b"3", "samples/sound.wav": None}):
        before = commit_by_hand(hub, changes, f"spaces/{SPACE}")
        for mode in ("dry", "push"):
            assert "neither a new Space nor an earlier demo" in error_line(session.python(ATTEMPT, staged, mode), 2)
        assert repo.head() == before


@pytest.mark.slow
def test_another_kind_of_space_is_refused(staged, session, hub):
    assert session.python(ATTEMPT, staged, "push").code == 0
    repo = hub.repos[f"spaces/{SPACE}"]
    readme = type(repo.head().files["README.md"])(b"---\ntitle: Chat\nsdk: gradio\n---\n", False)
    repo.commit("main", "by hand", {**repo.head().files, "README.md": readme})
    assert "another kind (sdk: gradio)" in error_line(session.python(ATTEMPT, staged, "push"), 2)


def test_the_command_line_reaches_the_demo(monkeypatch, tmp_path, capsys):
    import push_to_hub

    asked = {}
    monkeypatch.setattr(demo, "push_demo", lambda **options: asked.update(options) or "done")
    push_to_hub.main(["demo", str(tmp_path), "--space", SPACE, "--title", "Colours", "--dry-run"])
    assert capsys.readouterr().out == "done\n"
    expected = {"run": tmp_path, "space": SPACE, "model_repo": None, "title": "Colours", "private": False, "dry_run": True}
    assert asked == expected
