"""The house stands: it starts, it says what is wrong in words, and its tools are wired."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from dispatch.conf import ConfigError
from linguasched import logs

ROOT = Path(__file__).parents[1]


def manage(*arguments: str, data_dir: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LINGUASCHED")}
    return subprocess.run(  # noqa: S603  our own command line
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=inherited | {"LINGUASCHED_DATA_DIR": str(data_dir)} | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_django_finds_nothing_wrong(tmp_path):
    done = manage("check", data_dir=tmp_path)
    assert done.returncode == 0, done.stderr


def test_no_migration_is_missing(tmp_path):
    done = manage("makemigrations", "--check", "--dry-run", data_dir=tmp_path)
    assert done.returncode == 0, done.stdout


def test_config_prints_each_value_with_its_origin_and_no_secret(tmp_path):
    done = manage(
        "config",
        data_dir=tmp_path,
        LINGUASCHED__SCHEDULER__PHASE2__INSTANCE_ID="a",
        LINGUASCHED__SCHEDULER__PHASE2__REDIS__PASSWORD="hunter2",  # noqa: S106  nobody's
    )
    assert done.returncode == 0, done.stderr
    lines = {line.split(" = ")[0]: line for line in done.stdout.splitlines()}
    assert re.search(r'= "a" +# environment$', lines["scheduler.phase2.instance_id"])
    assert re.search(r"= 5010 +# default$", lines["server.port"])
    assert "hunter2" not in done.stdout


def test_config_prints_the_bare_value_of_a_key(tmp_path):
    done = manage("config", "server.host", "server.port", data_dir=tmp_path, LINGUASCHED__SERVER__PORT="5011")
    assert done.stdout.split() == ["127.0.0.1", "5011"]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("LINGUASCHED__SERVER__PROT", "5010", "did you mean LINGUASCHED__SERVER__PORT?"),
        ("LINGUASCHED_LOG_LEVEL", "loud", 'LINGUASCHED_LOG_LEVEL = "loud": choose one of debug,'),
        ("LINGUASCHED_DATA_DIR", "/dev/null/x", "cannot be used as a folder"),
        ("DATABASE_URL", "flatfile://me:hunter2@here", "DATABASE_URL: is no database address"),
    ],
)
def test_a_start_that_cannot_be_ends_with_one_message_and_no_traceback(variable, value, words, tmp_path):
    done = manage("check", data_dir=tmp_path, **{variable: value})
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_instances_that_start_together_on_one_data_dir_share_one_secret_key(tmp_path):
    print_key = "from django.conf import settings; print(settings.SECRET_KEY)"
    environ = os.environ | {"LINGUASCHED_DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "linguasched.settings"}
    starts = [
        subprocess.Popen([sys.executable, "-c", print_key], cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)  # noqa: S603
        for _ in range(3)
    ]
    keys = {start.communicate(timeout=60)[0] for start in starts}
    assert len(keys) == 1
    assert len(keys.pop()) > 60
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600


def test_make_explains_its_targets():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)  # noqa: S607
    explained = set(re.findall(r"^  make (\w+) +\S", done.stdout, re.MULTILINE))
    assert {"run", "demo", "test", "check", "bench", "fmt"} <= explained


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-speech.txt"])
def test_every_requirement_is_pinned_exactly(name):
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    loose = [
        line for line in lines if line and not line.startswith("-r ") and not re.fullmatch(r"[\w.\[\]-]+==\S+", line)
    ]
    assert loose == []


class TestLogs:
    @pytest.fixture(autouse=True)
    def set_up_as_before(self) -> Iterator[None]:
        root, before = logging.getLogger(), structlog.get_config()
        handlers, level = list(root.handlers), root.level
        yield
        root.handlers[:], root.level = handlers, level
        structlog.configure(**before)

    def test_machines_get_json_and_terminals_do_not(self):
        assert logs.choose({}, stderr=io.StringIO())["format"] == "json"
        assert logs.choose({"LINGUASCHED_LOG": "console"}, stderr=io.StringIO())["format"] == "console"

        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        assert logs.choose({}, stderr=Terminal())["format"] == "console"
        assert logs.choose({"LINGUASCHED_LOG": "json"}, stderr=Terminal())["format"] == "json"

    def test_an_unknown_word_is_refused(self):
        with pytest.raises(ConfigError, match="LINGUASCHED_LOG = "):
            logs.choose({"LINGUASCHED_LOG": "xml"})

    def test_an_event_is_one_json_line_without_what_people_said(self, capsys):
        logs.configure({"format": "json", "level": "info"})
        private = {"text_asr": "hello", "token": "t", "result": {"tts_audio": "UklGRg", "ms": 3}}
        structlog.get_logger("here").info("job_finished", job="j1", **private)
        event = json.loads(capsys.readouterr().err)
        assert {
            "event": "job_finished",
            "job": "j1",
            "result": {"ms": 3},
            "level": "info",
            "logger": "here",
        }.items() <= (event.items())
        assert not logs.PRIVATE & event.keys()

    def test_lines_of_django_and_the_servers_look_the_same_and_come_once(self, capsys):
        logs.configure({"format": "json", "level": "info"})
        logging.getLogger("django.request").warning("Not Found: %s", "/x")
        event = json.loads(capsys.readouterr().err)
        assert (event["event"], event["logger"], event["level"]) == ("Not Found: /x", "django.request", "warning")

    def test_what_is_below_the_level_is_not_written(self, capsys):
        logs.configure({"format": "json", "level": "warning"})
        structlog.get_logger("here").info("chatter")
        logging.getLogger("django").info("chatter")
        assert capsys.readouterr().err == ""
