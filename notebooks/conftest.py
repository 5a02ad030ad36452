"""What a run of the notebooks has beside nbval: an environment, a budget, a model."""

import os
from unittest import mock

import pytest

from tests.support.kernel_environment import kernel_environment

OTHER_MODEL = os.environ.get("RADIX_LIB_MODEL")

#: CPU seconds of a notebook, its kernel and what that starts. The course allows a
#: minute on two quiet cores; this is twice that: waiting threads burn CPU as well.
#: A clock would count all that the machine has to do.
BUDGET = 240

spent: dict[str, float] = {}


def pytest_report_header():
    if OTHER_MODEL:
        return f"RADIX_LIB_MODEL is {OTHER_MODEL}: notebooks run, their outputs are not compared"
    return None


def pytest_collection_modifyitems(items):
    """With another model than the default the notebooks run, but cannot be compared."""
    for item in items:
        # a notebook's cell, as nbval collects it
        if OTHER_MODEL and hasattr(item, "cell"):
            item.options["check"] = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Before the first cell of a notebook nbval starts the kernel, which inherits."""
    if not hasattr(item, "cell"):
        return (yield)
    with mock.patch.dict(os.environ, kernel_environment(), clear=True):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """After the last cell of a notebook nbval ends the kernel: its time is known."""
    before = _ended_children()
    result = yield
    if hasattr(item, "cell") and (
        nextitem is None or nextitem.parent is not item.parent
    ):
        notebook = str(item.path.relative_to(item.config.rootpath))
        spent[notebook] = _ended_children() - before
        assert spent[notebook] <= BUDGET or OTHER_MODEL, (
            f"{notebook} took {spent[notebook]:.0f} CPU seconds, {BUDGET} are its budget"
        )
    return result


def _ended_children():
    times = os.times()  # on Windows these two are always 0
    return times.children_user + times.children_system


def pytest_terminal_summary(terminalreporter):
    if spent:
        terminalreporter.section(f"CPU seconds of the notebooks, {BUDGET} each at most")
        for notebook, seconds in spent.items():
            terminalreporter.line(f"{seconds:6.1f}  {notebook}")
