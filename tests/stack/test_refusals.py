"""What keeps the stack from starting is one sentence with the way out, and exit code 2."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from billing_project.local_stack import binaries
from billing_project.local_stack.postgres import Postgres
from billing_project.local_stack.problems import CannotStartError
from tests.stack.launcher import Launcher
from tests.stack.programs import line, sleeper

pytestmark = pytest.mark.stack


def refusal(launcher: Launcher, *words: str) -> str:
    code = launcher.start(*words).wait()

    said = [text for text in launcher.printed.splitlines() if text.startswith("meterkeeper: ")]
    assert (code, len(said)) == (2, 1), launcher.printed
    assert "Traceback" not in launcher.printed
    assert launcher.below() == set()
    return said[0].removeprefix("meterkeeper: ")


@pytest.mark.parametrize("variable", ["PORT", "FLOWER_PORT", "EMULATOR_PORT"])
def test_taken_port_names_its_variable(launcher, environment, ports, variable):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(ports[variable])))
        taken.listen()

        sentence = refusal(launcher(environment, web=line(sleeper), flower=line(sleeper)))

    assert sentence == (
        f"Port {ports[variable]} on 127.0.0.1 is taken by another program: set {variable} to a free "
        f"one, for example {variable}={int(ports[variable]) + 1}."
    )


def test_port_of_a_part_that_is_not_started_may_be_taken(launcher, bare, ports):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(ports["EMULATOR_PORT"])))
        taken.listen()

        stack = launcher(bare, worker=line(sleeper)).start_ready()

    assert stack.stop() == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"PORT": "80a"}, "PORT=80a is not a port: give a number from 1 to 65535."),
        ({"PORT": "0"}, "PORT=0 is not a port: give a number from 1 to 65535."),
        (
            {"PORT": "18080", "FLOWER_PORT": "18080"},
            "PORT and FLOWER_PORT both name port 18080: set one of them to another.",
        ),
        (
            {"STRIPE_EMULATOR_URL": "http://127.0.0.1:1"},
            "STRIPE_SECRET_KEY and STRIPE_EMULATOR_URL are both set, a real account and an emulator: unset one of them.",
        ),
    ],
)
def test_nonsense_in_the_environment(launcher, bare, changes, sentence):
    stack = launcher(bare | changes, web=line(sleeper), flower=line(sleeper))

    assert refusal(stack) == sentence


def test_state_of_another_format_points_to_clean(launcher, tmp_path):
    stack = launcher(worker=line(sleeper))
    stack.state.mkdir()
    (stack.state / "format").write_text("meterkeeper local state 0\n")

    sentence = refusal(stack)

    assert sentence == (
        f"The state folder {stack.state} was made by another version (meterkeeper local state 0, "
        "this one makes meterkeeper local state 1): `make clean` throws its data away, or set "
        "STATE_DIR to a new folder."
    )
    assert launcher(root=tmp_path).start("clean").wait() == 0
    assert not stack.state.exists()


def test_database_of_another_major_version_is_kept_and_named(tmp_path):
    """Asked of the cluster itself: root without namespaces keeps its data in another folder."""
    data = tmp_path / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text("12\n")
    cluster = Postgres(binaries.postgres_bin(), data, sockets=tmp_path, durable=False)

    with pytest.raises(CannotStartError) as refused:
        cluster.initialise()

    assert str(refused.value) == (
        f"The database in {data} was made by PostgreSQL 12, this checkout brings "
        "18: `make clean` throws its data away, or set STATE_DIR to a new folder."
    )
    assert (data / "PG_VERSION").read_text() == "12\n"


def test_folder_with_other_content_is_neither_used_nor_cleaned(launcher, bare, tmp_path):
    letters = tmp_path / "letters"
    letters.mkdir(mode=0o755)
    (letters / "dear.txt").write_text("keep me")
    environment = bare | {"STATE_DIR": str(letters)}
    sentence = (
        f"{letters} holds something else than this stack's state: set STATE_DIR to an empty or new "
        "folder."
    )

    assert refusal(launcher(environment, worker=line(sleeper))) == sentence
    assert refusal(launcher(environment), "clean") == sentence
    assert [path.name for path in letters.iterdir()] == ["dear.txt"]
    assert oct(letters.stat().st_mode & 0o777) == "0o755"


def test_state_of_somebody_else_is_refused(launcher, bare, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder that belongs to somebody else")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)

    sentence = refusal(launcher(bare | {"STATE_DIR": str(theirs)}, worker=line(sleeper)))

    assert sentence == (
        f"{theirs} is not a folder of yours: remove it, or set STATE_DIR to another place."
    )


def test_second_launcher_of_a_folder_is_refused(launcher, bare, tmp_path):
    first = launcher(root=tmp_path / "first", worker=line(sleeper)).start_ready()
    shared = bare | {"STATE_DIR": str(first.state)}
    second = launcher(shared, root=tmp_path / "second", worker=line(sleeper))

    sentence = refusal(second)

    assert sentence == (
        f"The stack in {first.state} is already running (process {first.process.pid}): stop it "
        "with Ctrl-C first, or set STATE_DIR for a second one."
    )
    assert refusal(second, "clean") == sentence
    assert first.stop() == 0


def test_procfile_that_is_none_is_named_with_its_line(launcher, tmp_path):
    (tmp_path / "Procfile").write_text("# a remark\n\nweb python\n")

    assert refusal(launcher()) == (
        f"{tmp_path}/Procfile, line 3: write one `name: command` per line, each name once."
    )


def test_missing_command_is_named(launcher):
    assert refusal(launcher(), "with-services", "--", "no-such-tool") == (
        "There is no command no-such-tool to run."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "DJANGO_SECRET_KEY is not set"),
        ({"STRIPE_SECRET_KEY": "sk_test_1", "STRIPE_EMULATOR_URL": "http://x"}, "both set"),
        ({"STRIPE_SECRET_KEY": "pk_test_1"}, "no secret key"),
    ],
)
def test_manage_says_in_a_sentence_what_the_settings_lack(tmp_path, changes, words):
    settings = {"PATH": os.environ["PATH"], "STATE_DIR": str(tmp_path)}
    if changes:
        settings |= {"DJANGO_SECRET_KEY": "s", "DATABASE_URL": "postgres:///none"}
        settings |= {"CELERY_BROKER_URL": "memory://"}
    made = subprocess.run(
        [sys.executable, "manage.py", "books"],
        cwd=Path(__file__).parents[2],
        env=settings | changes,
        capture_output=True,
        text=True,
        check=False,
    )

    assert made.returncode == 2
    assert made.stderr.startswith("meterkeeper: ")
    assert words in made.stderr
    assert made.stderr.count("\n") == 1
