"""Settings are sent to another process of the same application, which then goes by them and by nothing else."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

from kern import Kern
from kern.errors import ImproperlyConfigured, InvalidSetting, UnknownSetting
from kern.settings import Section, Settings, SettingsSnapshot, setting


class DemoSettings(Section):
    """What the tests configure."""

    demo_count: int = setting(2, "How many.")
    demo_token: str | None = setting(None, "Secret of the demo.", secret=True)
    demo_pause: float | None = setting(None, "How long.", convert=lambda value: float(value) * 60)
    demo_route: Any = setting(None, "Which way.")
    demo_options: dict[str, Any] = setting({}, "More of it.")
    demo_late: bool = setting(True, "Whether late.", celery_default=False)


class OtherSettings(Section):
    """A plugin's."""

    other_size: int = setting(1, "How large.")


def made(tmp_path: Path, *sections: type[Section], environ: dict[str, str] | None = None, **changes: Any) -> Settings:
    return Settings([DemoSettings, *sections], changes=changes, environ=environ or {}, directory=tmp_path)


def sent(settings: Settings) -> SettingsSnapshot:
    """As it arrives."""
    arrived = pickle.loads(pickle.dumps(settings.snapshot()))
    assert isinstance(arrived, SettingsSnapshot)
    return arrived


def test_whatever_its_source_a_value_and_its_origin_arrive(tmp_path: Path) -> None:
    """Keywords, environment, files and later assignments are all the same to who adopts them."""
    (tmp_path / "pyproject.toml").write_text("[tool.kern]\ndemo_pause = 2\n")
    here = made(tmp_path, demo_count=4, environ={"KERN_DEMO_OPTIONS": '{"a": [1]}'})
    here.demo_token = "hunter2"
    there = made(tmp_path / "elsewhere")
    there.adopt(sent(here))
    assert dict(there) == dict(here)
    assert there.demo_pause == 120.0, "what was converted is not converted again"
    assert [there.origin(key) for key in there] == [here.origin(key) for key in here]
    assert there.section(DemoSettings) == here.section(DemoSettings)


def test_sources_of_who_adopts_do_not_count_any_more(tmp_path: Path) -> None:
    """What nobody gave there is the default here, although this process's sources say something else."""
    there = made(tmp_path, OtherSettings, environ={"KERN_DEMO_COUNT": "8", "KERN_OTHER_SIZE": "9"}, demo_token="own")
    there.demo_late = False
    there.add_defaults({"demo_options": {"own": True}})
    there.config_from_object({"demo_pause": 3})
    assert there.demo_count == 8
    there.adopt(sent(made(tmp_path, OtherSettings, other_size=2)))
    assert there.without_defaults() == {"other_size": 2}
    assert there.demo_count == 2


def test_a_section_that_is_added_later_has_what_was_sent_for_it(tmp_path: Path) -> None:
    there = made(tmp_path)
    with pytest.raises(UnknownSetting, match="other_size"):
        there.adopt(sent(made(tmp_path, OtherSettings, other_size=2)))
    there.add_section(OtherSettings)
    assert there.other_size == 2


def test_assignments_afterwards_count(tmp_path: Path) -> None:
    there = made(tmp_path)
    there.adopt(sent(made(tmp_path, demo_count=4)))
    there.demo_count = 6
    assert (there.demo_count, there.freeze().demo_count) == (6, 6)
    del there.demo_count
    assert there.demo_count == 4


def test_what_cannot_be_sent_stays_as_it_is_there(tmp_path: Path) -> None:
    """A lambda, for one: both processes have made their own from the same source."""
    here = made(tmp_path, demo_route=lambda name: "here", demo_count=4)
    there = made(tmp_path, demo_route=lambda name: "there", demo_count=6)
    snapshot = sent(here)
    assert snapshot.left_out == {"demo_route"}
    there.adopt(snapshot)
    assert there.demo_route("task") == "there"
    assert there.demo_count == 4
    unset = made(tmp_path)
    unset.adopt(snapshot)
    assert unset.demo_route is None


def test_what_cannot_be_read_there_stays_as_it_is_there(tmp_path: Path) -> None:
    """As a function of a main module, which is another one there."""
    snapshot = made(tmp_path, demo_count=4).snapshot()
    broken = attrs.evolve(snapshot, values={**snapshot.values, "demo_route": (b"c__main__\nnosuch\n.", "keyword")})
    there = made(tmp_path, demo_route="its own")
    there.adopt(broken)
    assert (there.demo_route, there.demo_count) == ("its own", 4)


def test_defaults_of_celery_arrive(tmp_path: Path) -> None:
    here = made(tmp_path)
    here.config_from_object({"demo_count": 4}, celery_defaults=True)
    there = made(tmp_path)
    there.adopt(sent(here))
    assert there.celery_heritage
    assert there.demo_late is False
    assert there.demo_count == 4


def test_what_nobody_reads_can_be_read_there_too_and_is_not_explained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = made(tmp_path)
    here.config_from_object({"worker_enable_prefetch_count_reduction": True}, celery_defaults=True)
    assert here["worker_enable_prefetch_count_reduction"] is True
    there = made(tmp_path)
    with caplog.at_level(logging.DEBUG, "kern.settings"):
        caplog.clear()
        there.adopt(sent(here))
        assert there["worker_enable_prefetch_count_reduction"] is True
    assert not caplog.records


def test_a_snapshot_shows_no_secret(tmp_path: Path) -> None:
    snapshot = made(tmp_path, demo_token="hunter2").snapshot()
    assert "demo_token" in repr(snapshot)
    assert "hunter2" not in repr(snapshot)


def test_the_snapshot_of_a_running_worker_can_be_sent_and_adopts_nothing(tmp_path: Path) -> None:
    frozen = made(tmp_path, demo_count=4).freeze()
    there = made(tmp_path)
    there.adopt(sent(frozen))
    assert there.demo_count == 4
    with pytest.raises(ImproperlyConfigured, match="cannot be changed"):
        frozen.adopt(there.snapshot())


def test_values_are_checked_there(tmp_path: Path) -> None:
    """Who adopts may be of another version."""
    snapshot = made(tmp_path).snapshot()
    wrong = attrs.evolve(snapshot, values={"demo_count": (pickle.dumps("many"), "keyword")})
    with pytest.raises(InvalidSetting, match="demo_count"):
        made(tmp_path).adopt(wrong)


def test_a_fresh_interpreter_goes_by_what_was_sent(tmp_path: Path) -> None:
    """The whole way, with an application: queues of kombu, routes, times, what the command line said."""
    (tmp_path / "proj.py").write_text(
        "from kern import Kern\nfrom kombu import Exchange, Queue\n"
        "def route(name, args, kwargs, options, task=None, **more): return None\n"
        "app = Kern('proj', broker='memory://one', task_queues=[Queue('q', Exchange('e'), 'k')],\n"
        "           task_routes=[route], result_expires=60, plugins='testing')\n"
    )
    child = (
        "import pickle, sys, proj\n"
        "proj.app.conf.adopt(pickle.load(sys.stdin.buffer))\n"
        "conf = proj.app.conf\n"
        "print(conf.worker_concurrency, conf.broker_url, conf.task_routes[0] is proj.route,\n"
        "      conf.task_queues[0].exchange.name, conf.result_expires, conf.origin('worker_concurrency'))\n"
    )
    parent = (
        "import pickle, sys, proj\n"
        "proj.app.conf.assign({'worker_concurrency': 7, 'broker_url': 'memory://two'}, 'command line -c')\n"
        "sys.stdout.buffer.write(pickle.dumps(proj.app.conf.freeze().snapshot()))\n"
    )
    snapshot = subprocess.run([sys.executable, "-c", parent], cwd=tmp_path, capture_output=True, check=True).stdout
    done = subprocess.run([sys.executable, "-c", child], cwd=tmp_path, input=snapshot, capture_output=True, check=True)
    values = done.stdout.decode().strip()
    assert values.startswith("7 memory://two True e ")
    assert values.endswith("command line -c")


def test_the_snapshot_of_an_application_leaves_out_nothing_by_itself() -> None:
    """All of kern's own defaults and what plugins declare can be sent."""
    snapshot = Kern("sending", broker="memory://", plugins="testing").conf.snapshot()
    assert snapshot.left_out == frozenset()
