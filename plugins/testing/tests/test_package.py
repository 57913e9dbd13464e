"""What the package shows, and what it costs those who only pass through."""

import subprocess
import sys

import pytest

import kern_testing


@pytest.mark.parametrize("name", kern_testing.__all__)
def test_every_name_it_exports_is_there(name: str) -> None:
    """Loaded when it is first used."""
    assert getattr(kern_testing, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As with any module."""
    with pytest.raises(AttributeError, match="no attribute 'TransportContrakt'"):
        _ = kern_testing.TransportContrakt


def test_a_worker_does_not_pay_for_tests() -> None:
    """Loading the plugin and its transport imports neither pytest nor hypothesis."""
    program = (
        "import sys, kern_testing.plugin\n"
        "kern_testing.plugin.kern_transports()['memory']('memory://', None)\n"
        "kern_testing.plugin.kern_result_stores()['memory']('memory://', None)\n"
        "print([name for name in ('pytest', '_pytest', 'hypothesis') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
