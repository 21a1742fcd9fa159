"""The runner refuses what it does not know, names what failed, and resumes; the command line keeps its exit codes."""

import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from dreamprm_lib.__main__ import main
from dreamprm_lib.commands import evaluate
from dreamprm_lib.commands import run as runner
from dreamprm_lib.engine.backbone import MAX_TOKENS
from dreamprm_lib.engine.files import from_yaml
from dreamprm_lib.engine.fine_tuning import recipe_of
from dreamprm_lib.errors import InputError, StudyError
from dreamprm_lib.show.interrupts import KEPT
from dreamprm_lib.study.folder import SHIPPED, Stage, Study
from dreamprm_lib.study.rows import Program

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two small notebooks, the second of which reads what the first wrote."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "profiles").mkdir()
    (tmp_path / "dreamprm_lib").mkdir()
    start = 'outputs = "../outputs"  # a\nstudy = "x"  # b\nn = 1  # c\n'
    write_notebook(
        tmp_path / "notebooks" / "01_first.ipynb",
        start,
        "from pathlib import Path\nPath(outputs, study, 'a.csv').write_text(str(n))",
    )
    write_notebook(
        tmp_path / "notebooks" / "02_second.ipynb",
        start,
        "from pathlib import Path\ntext = Path(outputs, study, 'a.csv').read_text()\nassert n > 0, 'n is too small'\n"
        "Path(outputs, study, 'b.csv').write_text(text * n)",
    )
    (tmp_path / "profiles" / "tiny.yaml").write_text("02_second: {n: 2}\n")
    stages = (Stage("01_first", (), ("a.csv",)), Stage("02_second", ("a.csv",), ("b.csv",)))
    monkeypatch.setenv("DREAMPRM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runner, "PROJECT", tmp_path)
    monkeypatch.setattr(runner, "STAGES", stages)
    monkeypatch.setattr(runner, "write_report", lambda study, manifest: study.path("report.html").write_text("r"))
    return tmp_path


def write_notebook(path, parameters, code, tags=("parameters",)):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": list(tags)}), nbformat.v4.new_code_cell(code)]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def run(project, **options):
    return runner.run(runner.load_profile("tiny"), outputs=project / "outputs", **options)


@pytest.fixture
def ran(monkeypatch):
    """The notebooks that were run, in place of running them: each writes what its stage promises."""
    names = []

    def execute(source, executed, _parameters, **_options):
        Path(executed).write_text(Path(source).read_text())
        names.append(Path(source).stem)
        (stage,) = (s for s in runner.STAGES if s.notebook == names[-1])
        for file in stage.writes:
            (Path(executed).parents[1] / file).write_text("{}")

    monkeypatch.setattr(runner.papermill, "execute_notebook", execute)
    return names


def entries(study):
    return json.loads((study.folder / "manifest.json").read_text())["stages"]


def test_parameters_come_from_the_notebook_then_the_profile_then_the_overrides(project):
    study = run(project)
    assert (study.folder / "b.csv").read_text() == "11"
    study = run(project, overrides=runner.parse_overrides(["01.n=3"]))
    assert (study.folder / "b.csv").read_text() == "33"
    entry = entries(study)["02_second"]
    assert entry["parameters"] == {"outputs": "../outputs", "study": "tiny", "n": 2}
    assert set(entry["inputs"]) == {"a.csv"} and set(entry["outputs"]) == {"b.csv"}


def test_a_complete_stage_is_skipped_until_what_it_depends_on_changes(project, ran):
    study = run(project)
    ran.clear()
    run(project)
    assert ran == []
    run(project, overrides={"02_second": {"n": 3}})
    assert ran == ["02_second"]
    for change in (
        lambda: (project / "dreamprm_lib" / "x.py").write_text("1"),
        lambda: (study.folder / "a.csv").write_text("2"),
    ):
        ran.clear()
        change()
        run(project, overrides={"02_second": {"n": 3}})
        assert ran[0] == "01_first"
    ran.clear()
    run(project, overrides={"02_second": {"n": 3}}, fresh=True)
    assert ran == ["01_first", "02_second"]


def test_a_failed_cell_is_named_and_the_next_run_goes_on_there(project):
    with pytest.raises(StudyError, match="02_second failed in cell 3 with AssertionError: n is too small"):
        run(project, overrides={"02_second": {"n": 0}})
    study = Study(project / "outputs", "tiny")
    done = entries(study)
    assert set(done) == {"01_first"} and not (study.folder / "b.csv").exists()
    run(project)
    assert entries(study)["01_first"] == done["01_first"] and (study.folder / "b.csv").exists()


ASKING = (
    "from pathlib import Path\nfrom dreamprm_lib.engine.policy.policy import Prompt, open_policy\n"
    "with open_policy(policy, replay) as writer:\n"
    "    texts = writer.sample([Prompt((('user', f'Q{k}'),)) for k in range(n)], 1, max_tokens=5)\n"
    "Path(outputs, study, 'a.csv').write_text(repr(texts))"
)


def test_what_a_stage_cost_stands_in_the_manifest_and_a_budget_that_ends_is_gone_on_with(project, fake_server):
    server = fake_server(lambda body: ["one two three four five"])
    start = 'outputs = "../outputs"  # a\nstudy = "x"  # b\nn = 9  # c\npolicy = {}  # d\nreplay = True  # e\n'
    write_notebook(project / "notebooks" / "01_first.ipynb", start, ASKING)
    models = {"m": {"n": False, "prefill": False, "price": [0, 1000]}}  # half a cent a completion
    policy = {"model": "m", "base_url": server.base_url, "models": models, "budget": 0.022, "slots": 1}
    settings = {"01_first": {"policy": policy, "replay": False}}
    with pytest.raises(StudyError, match=r"BudgetSpent: The budget of \$0\.022 for m .* 5 completions are missing"):
        run(project, overrides=settings)
    policy["budget"] = 1.0
    study = run(project, overrides=settings)
    asked = entries(study)["01_first"]["asked"]
    assert asked == {"answers": 9, "completions": 9, "prompt_tokens": 9, "tokens": 45, "dollars": 0.045}
    assert len(server.bodies) == 9
    done = entries(study)
    policy["budget"] = 2.0
    assert entries(run(project, overrides=settings)) == done  # more money is no reason to do it again


SECRET = "sk-0123456789-must-not-be-seen"


@pytest.mark.parametrize("name", ["policy", "weak_policy"])
def test_a_secret_among_the_settings_is_refused_before_anything_is_written(project, caplog, name):
    start = f'outputs = "../outputs"  # a\nstudy = "x"  # b\n{name} = {{}}  # c\n'
    write_notebook(project / "notebooks" / "02_second.ipynb", start, "1")
    (project / "profiles" / "tiny.yaml").write_text("note: none\n")
    with pytest.raises(InputError) as error:
        run(project, overrides={"02_second": {name: {"base_url": "https://host/v1", "api_key": SECRET}}})
    written = "".join(p.read_text() for p in (project / "outputs").rglob("*") if p.is_file())
    assert SECRET not in str(error.value) + caplog.text + written


def test_the_key_stands_in_no_file_of_a_study_also_when_it_fails(project, fake_server, monkeypatch, capfd):
    key = "sk-nobody-may-read-this-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    answers = iter([["one"], 401])  # the refusal repeats the key
    server = fake_server(lambda body: next(answers))
    start = 'outputs = "../outputs"  # a\nstudy = "x"  # b\nn = 2  # c\npolicy = {}  # d\nreplay = True  # e\n'
    write_notebook(project / "notebooks" / "01_first.ipynb", start, ASKING)
    settings = {"01_first": {"policy": {"model": "m", "base_url": server.base_url, "slots": 1}, "replay": False}}
    with pytest.raises(StudyError, match=r"PolicyError: .*Bearer \[key\]") as failed:
        run(project, overrides=settings)
    assert server.keys == {key} and key not in str(failed.value) + "".join(capfd.readouterr())
    written = [path for path in project.rglob("*") if path.is_file()]
    assert not [path for path in written if key.encode() in path.read_bytes()]
    executed = (project / "outputs" / "tiny" / "notebooks" / "01_first.ipynb").read_text()
    assert "planted fault" in executed and any(path.suffix == ".sqlite" for path in written)


@pytest.mark.parametrize(
    "model, weak, weaker, searched",
    [("nobody-knows", "", "nobody-knows", 0), ("Qwen/Qwen2.5-Coder-7B-Instruct", "small", "small", 2)],
)
def test_with_an_endpoint_set_no_stage_asks_a_local_model(monkeypatch, caplog, model, weak, weaker, searched):
    """An unknown model is asked carefully; a server without prefill is not searched with."""
    live = runner.load_profile("live")
    assert runner.elsewhere(live) == live
    monkeypatch.setenv("DREAMPRM_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(InputError, match="Set both"):
        runner.elsewhere(live)
    monkeypatch.setenv("DREAMPRM_MODEL", model)
    monkeypatch.setenv("DREAMPRM_WEAK_MODEL", weak)
    careful = {} if searched else {"prefill": False, "takes_n": False}
    for name in ("live", "paper"):
        profile = runner.elsewhere(runner.load_profile(name))
        found = runner.stage_parameters(runner.STAGES[2], profile, {}, {})
        assert found["policy"] == {"model": model, "base_url": "http://127.0.0.1:9/v1", **careful}
        assert found["weak_policy"]["model"] == weaker and not found["replay"]
    eight = runner.stage_parameters(runner.STAGES[8], runner.elsewhere(live), {}, {})
    assert eight["search_problems"] == searched
    assert ("DREAMPRM_WEAK_MODEL is not set" in caplog.text) == (not weak)


KILLED = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
LONG = """
import time
from tqdm.auto import tqdm
for _ in tqdm(range(12), desc="worlds", unit="world"):
    time.sleep(0.06)
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_told_how_a_long_cell_goes_and_a_log_is_not_flooded(project, capsys, monkeypatch, terminal):
    write_notebook(project / "notebooks" / "02_second.ipynb", "n = 1  # a", LONG + "open('../outputs/tiny/b.csv', 'w')")
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    run(project)
    said = capsys.readouterr().err
    assert bool(re.search(r"\d+/12 \[00:00<00:0\d, +[\d.]+ ?world/s", said)) == terminal
    assert terminal or said.count("Executing") <= 6


def test_an_interrupt_from_the_keyboard_says_one_sentence(project):
    """As a terminal sends it: to all processes of the command."""
    code = "from pathlib import Path\nPath('../started').write_text('')\nwhile True:\n    pass"
    write_notebook(project / "notebooks" / "01_first.ipynb", 'outputs = "../outputs"  # a\nstudy = "x"  # b', code)
    (project / "profiles" / "tiny.yaml").write_text("common: {}\n")
    child = subprocess.Popen(
        [sys.executable, __file__, str(project)], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    while not (project / "started").exists():
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.1)
    time.sleep(0.5)
    os.killpg(child.pid, signal.SIGINT)
    told = child.communicate(timeout=120)[1]
    assert child.returncode == 1 and told.endswith("the same command goes on from there.\n")
    assert "Traceback" not in told and "ZMQ" not in told


def test_a_kernel_that_is_killed_is_told_with_what_to_do(project):
    write_notebook(project / "notebooks" / "01_first.ipynb", 'outputs = "../outputs"  # a\nstudy = "x"  # b', KILLED)
    with pytest.raises(StudyError, match=r"01_first was ended from outside.* the same command goes on from there"):
        run(project)


def test_an_interrupted_cell_says_that_nothing_is_lost_and_the_kernel_goes_on():
    start = "from dreamprm_lib.show.figures import use_style\nuse_style()"
    stop = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)"
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, (start, stop, "1 + 1"))))
    NotebookClient(notebook, allow_errors=True).execute()
    (error,), (result,) = notebook.cells[1].outputs, notebook.cells[2].outputs
    assert error.ename == "KeyboardInterrupt" and KEPT in "\n".join(error.traceback)
    assert result.data["text/plain"] == "2"


@pytest.mark.parametrize(
    "option, said",
    [
        ("02.colour=1", "no parameter `colour`: known are"),
        ("n=1", "-p takes NOTEBOOK.parameter=value"),
        ("04.layers=twelve", r"04_reward_model: the parameter `layers` is 'twelve': it should be a valid list"),
        ("04.layers=[2, 2.5]", r"`layers\[1\]` is 2.5: it should be a valid integer"),
        ("04.ridges=[0.1, off]", r"`ridges\[1\]` is 'off': it should be a valid number"),
        ("01.replay=off", "`replay` is 'off': it should be a valid boolean"),
        ("08.uses=1.5", "`uses` is 1.5: it should be a valid integer"),
        ("01.temperature=.nan", "`temperature` is nan: it should be a finite number"),
        ("04.layer=[2]", r"no parameter `layer` \(did you mean `layers`\?\)"),
        ("01.problems=", "`problems` is None"),
        ("04.layers=[12", "-p 04.layers, line 1: not YAML"),
        ("reward_modle.seed=1", r"-p reward_modle.seed: there is no notebook .* \(did you mean `04_reward_model`"),
        ("01.study=other", "`study` cannot be set. A study is named by --study"),
    ],
)
def test_every_parameter_is_checked_by_the_notebook_s_literal_before_anything_runs(tmp_path, ran, option, said):
    with pytest.raises(InputError, match=said):
        runner.run(runner.load_profile("quick"), overrides=runner.parse_overrides([option]), outputs=tmp_path)
    assert not ran


@pytest.mark.parametrize(
    "option, value",
    [
        ("05.meta_lr=1e-3", 0.001), ("04.seed=010", 10), ("08.policy_parameters=3300000000", 3_300_000_000),
        ("04.ridges=[1, 1e-2]", [1, 0.01]), ("08.uses=~", None), ("01.temperature=1", 1),
        ("04.training=off", "off"),
        ("01.problems=2024-08-01", "2024-08-01"), ("01.policy={extra: {a: 1e2}}", {"extra": {"a": 100.0}}),
    ],
)  # fmt: skip
def test_values_are_yaml_1_2(option, value):
    overrides = runner.parse_overrides([option])
    ((notebook, section),) = overrides.items()
    (stage,) = (s for s in runner.STAGES if s.notebook == notebook)
    assert [runner.stage_parameters(stage, runner.load_profile("quick"), overrides, {})[x] for x in section] == [value]


@pytest.mark.parametrize(
    "text, said",
    [
        ("comon: {replay: true}", r"tiny.yaml: there is no notebook 'comon' \(did you mean `common`\?\)"),
        ("02_secnd: {n: 2}", r"no notebook '02_secnd' \(did you mean `02_second`\?\)"),
        ("common: {m: 2}", "in `common` there is no parameter `m` of any notebook: known are n"),
        ("weights: smollm2", "`weights` is 'smollm2'"),
        ("02_second: 5", "`sections.02_second` is 5"),
        ("'02': {n: 1}\n02_second: {n: 2}", "are of one notebook"),
        ("- a\n- b", r"\['a', 'b'\] where sections"),
        ("7: {n: 1}", "no notebook '07'"),
    ],
)
def test_what_a_profile_says_is_never_passed_over(project, text, said):
    (project / "profiles" / "tiny.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        runner.load_profile("tiny")


@pytest.mark.parametrize("key", ["02", "second"])
def test_a_section_may_go_by_its_short_name(project, key):
    (project / "profiles" / "tiny.yaml").write_text(f"{key}: {{n: 7}}\ncommon:\n")
    parameters = runner.stage_parameters(runner.STAGES[1], runner.load_profile("tiny"), {}, {})
    assert parameters["n"] == 7


@pytest.mark.parametrize("name", ["../evil", "", "..", "/x/y", "a\0"])
def test_a_study_lies_in_outputs_and_nowhere_else(project, name):
    with pytest.raises(InputError, match="A study's name is that of one folder in outputs/"):
        Study(project / "outputs", name)


def test_a_stage_runs_again_when_a_file_that_a_parameter_names_changes(project, ran):
    start = 'outputs = "../outputs"  # a\nstudy = "x"  # b\nn = [""]  # c\n'
    write_notebook(project / "notebooks" / "01_first.ipynb", start, "1")
    (project / "set").mkdir()
    (project / "set" / "a.toml").write_text("1")
    (project / "one.jsonl").write_text("1")
    overrides = {"01_first": {"n": ["../set", f"{project / 'one.jsonl'}?before=2024-08-01", "a name"]}}
    run(project, overrides=overrides)
    run(project, overrides=overrides)
    assert ran == ["01_first", "02_second"]
    for change in (
        lambda: (project / "set" / "a.toml").write_text("2"),
        lambda: (project / "set" / "b.toml").write_text("1"),
        lambda: (project / "set" / "b.toml").rename(project / "set" / "c.toml"),
        lambda: (project / "one.jsonl").write_text("2"),
    ):
        ran.clear()
        change()
        run(project, overrides=overrides)
        assert ran == ["01_first"]


@pytest.mark.parametrize(
    "damaged", ['{"stages": {"01_fi', '{"stages": null}', '{"stages": {"01_first": {}}}', '{"stages": {"a": 5}}']
)
def test_a_damaged_manifest_only_costs_a_new_run(project, ran, damaged):
    path = run(project).folder / "manifest.json"
    path.write_text(damaged)
    run(project)
    assert ran == ["01_first", "02_second"] * 2


def own_problems(folder, splits):
    folder.mkdir()
    for number, split in enumerate(splits):
        (folder / f"{number}.toml").write_text(
            f'id = "p{number}"\ntitle = "P"\ndifficulty = "easy"\nsplit = "{split}"\n'
            f'statement = "{chr(97 + number) * 9}"\nreference = "x"\n'
            '[[samples]]\ninput = ""\noutput = ""\n[[tests]]\ninput = ""\noutput = ""\n'
        )
    return folder


ENOUGH = ["train", "train", "meta", "meta", "test"]


@pytest.mark.parametrize(
    "splits, options, said",
    [
        (["train", "test"], [], "has 1 train problems. A study needs at least 2 train, 2 meta, 1 test problems"),
        (["train", "train", "meta", "meta"], [], "has 0 test problems"),
        (ENOUGH, ["03.limit=0"], "03: `limit` is 0"),
        (ENOUGH, [], "no problem 'alternating-sum' among these 2: known are p0, p1"),
        (ENOUGH, ["01.compared=[p0]", "04.training=lorra"], "`training` is 'lorra'"),
        (ENOUGH, ["01.compared=[]", "05.training=lora", "05.recipe={epoch: 1}"], "`epoch`"),
        (ENOUGH, ["01.compared=[]", "05.training=lora", "05.recipe={loss: pairwise}"], "the recipe.s is pairwise"),
    ],
)
def test_what_a_study_lacks_is_said_before_anything_runs(tmp_path, ran, monkeypatch, splits, options, said):
    monkeypatch.setattr(runner, "fetch", lambda name: pytest.fail("weights were fetched"))
    profile = runner.load_profile("quick")
    profile.common["problems"] = str(own_problems(tmp_path / "mine", splits))
    with pytest.raises(InputError, match=said):
        runner.run(profile, overrides=runner.parse_overrides(options), outputs=tmp_path)
    assert not ran


def test_validation_says_how_many_problems_a_study_needs(capsys, tmp_path):
    main(["problems", "validate", str(own_problems(tmp_path / "mine", ["train", "test"]))])
    assert "1 train (needed: 2), 0 meta (needed: 2), 1 test (needed: 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "tags, said", [((), "no cell tagged `parameters`"), (["parameters"], r"without writing a\.csv")]
)
def test_a_notebook_without_the_tag_or_without_its_table_is_an_error(project, tags, said):
    write_notebook(project / "notebooks" / "01_first.ipynb", 'study = "x"  # a', "pass", tags)
    (project / "profiles" / "tiny.yaml").write_text("02_second: {n: 2}\n")
    with pytest.raises((InputError, StudyError), match=said):
        run(project)


def test_the_shipped_profiles_fit_and_a_notebook_run_by_hand_is_part_of_the_default_study():
    """Its cell's literals, among them the study's name, are the parameters of `quick`."""
    for stage in runner.STAGES:
        for name in ("smoke", "full", "live", "paper"):
            runner.stage_parameters(stage, runner.load_profile(name), {}, {})
        by_hand = runner.stage_parameters(stage, runner.Profile("none"), {}, {})
        assert by_hand == runner.stage_parameters(stage, runner.load_profile("quick"), {}, {})
        assert by_hand["study"] == "quick"


def test_the_paper_profile_is_the_original_s():
    profile = runner.load_profile("paper")
    parameters = {s.notebook[:2]: runner.stage_parameters(s, profile, {}, {}) for s in runner.STAGES}
    for chapter in ("04", "05"):
        mine = parameters[chapter]
        mine["recipe"] = asdict(recipe_of(mine["training"], mine["recipe"], mine["seed"]))
    for chapter, facts in from_yaml((ROOT / "tests" / "original.yaml").read_text(), "x").items():
        for name, value in facts.items():
            found = functools.reduce(lambda group, part: group[part], name.split("."), parameters[chapter])
            assert (list(found) if isinstance(value, list) else found) == value, name
    assert parameters["04"]["losses"] == ["mse"]
    assert parameters["01"]["problems"].endswith("train_before=2024-08-01&test_from=2025-02-01")
    assert MAX_TOKENS == 2048


@pytest.mark.parametrize(
    "arguments, status, said",
    [
        (["run", "--profile", "none"], 2, "no profile 'none'"),
        (["run", "-p", "04.colour=1"], 2, "no parameter `colour`"),
        (["evaluate", "gone.json"], 2, "no file gone.json"),
        (["weights", "fetch", "none"], 2, "none"),
    ],
)
def test_errors_are_one_paragraph_on_stderr_with_their_status(capsys, arguments, status, said):
    assert main(arguments) == status
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.startswith("error: ") and "Traceback" not in captured.err


TEMPORARY = "out/quick/.table.csv.1f.tmp"
TROUBLES = [
    (OSError(errno.ENOSPC, "No space left on device", TEMPORARY), "out/quick: no space is left there. Free some"),
    (OSError(errno.ENOSPC, "No space left on device"), "On this disk: no space is left there. Free some"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "a b.txt"), "a b.txt: no such file or directory"),
]


@pytest.mark.parametrize("error, said", TROUBLES)
def test_trouble_with_the_disk_names_the_place_and_the_fix(capsys, monkeypatch, error, said):
    def fails(*_):
        raise error

    monkeypatch.setattr("dreamprm_lib.commands.run.run", fails)
    assert main(["run", "--profile", "smoke"]) == 1
    told = capsys.readouterr().err
    assert said in told and "Errno" not in told


@pytest.mark.parametrize("arguments, code", [([], 2), (["fly"], 2), (["weights"], 2), (["--help"], 0)])
def test_arguments_that_do_not_parse_exit_with_2_and_help_names_every_command(capsys, arguments, code):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == code
    text = capsys.readouterr().out
    commands = ("run", "weights", "record", "problems", "evaluate", "course")
    assert code or all(word in text for word in commands)


@pytest.fixture
def shipped(tmp_path):
    """The outputs of a project that ships a study, `reference`, of one table and one label."""
    folder = tmp_path / "outputs" / "reference"
    folder.mkdir(parents=True)
    (folder / SHIPPED).write_text("read only")
    (folder / "table.csv").write_text("method,pass_rate\nrandom,0.5\n")
    (folder / "solutions.jsonl").write_text("")
    (folder / "labels.jsonl").write_text("")
    return folder


@pytest.mark.parametrize("name", ["reference", "linked"])
def test_a_shipped_study_is_only_read_and_what_starts_from_it_goes_elsewhere(shipped, name):
    if name == "linked":
        (shipped.parent / name).symlink_to(shipped)
    before = {path: path.read_bytes() for path in shipped.rglob("*")}
    study = Study(shipped.parent, name)
    assert study.read_table("table.csv").pass_rate.tolist() == [0.5]
    assert study.existing("labels.jsonl").samefile(shipped / "labels.jsonl")
    study.write("solutions.jsonl", [Program("p", 0, "x\n", ["x\n"], True, "passed", 3)])
    study.save_figure(plt.figure(), "00_x", "A figure.")
    study.path("training/state.pt").write_text("1")
    curve = pd.DataFrame([dict(method="random", samples=0, n=1, pass_rate=0.5, ci_low=0.4, ci_high=0.6)])
    evaluate.write({"curve": curve}, shipped.parent / name)
    study.write_table("table.csv", pd.DataFrame({"pass_rate": [0.9]}))
    assert {path: path.read_bytes() for path in shipped.rglob("*")} == before
    assert study.folder == shipped.parent / f"{name}-mine" and len([*study.folder.rglob("*.*")]) >= 8
    assert Study(shipped.parent, name).read_table("table.csv").pass_rate.tolist() == [0.9]  # the own one comes first


def test_a_run_into_a_shipped_study_is_refused_before_it_begins(project, ran):
    (project / "outputs" / "tiny").mkdir(parents=True)
    (project / "outputs" / "tiny" / SHIPPED).write_text("read only")
    for options in ({}, {"fresh": True}, {"study_name": "tiny"}):
        with pytest.raises(InputError, match=r"tiny is shipped and only read: name another one with --study"):
            run(project, **options)
    assert [p.name for p in (project / "outputs").rglob("*")] == ["tiny", SHIPPED] and not ran


def test_a_missing_table_is_told_with_advice_that_works(tmp_path):
    said = r"labels\.jsonl is missing: 02_monte_carlo_labels makes it.* run --study mine`"
    with pytest.raises(StudyError, match=said):
        Study(tmp_path, "mine").existing("labels.jsonl")


if __name__ == "__main__":  # the command, in the project of a test
    runner.PROJECT = Path(sys.argv[1])
    runner.STAGES = (Stage("01_first", (), ("a.csv",)),)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(["run", "--profile", "tiny"]))
