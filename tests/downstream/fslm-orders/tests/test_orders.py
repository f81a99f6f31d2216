"""The plugin as its users meet it, and what fslm relies on."""

from __future__ import annotations

import fslm_orders
import pytest
from fslm_orders import number, orders, reason
from fslm_orders.messages import About, Case, Found, Letter, Why

from fslm_core import PluginHost, Stack, Stage
from fslm_core.errors import InputError, StageFailedError
from fslm_core.testing import PluginContract, StackContract, StageContract, ToolContract, run_stack


class TestPlugin(PluginContract):
    @pytest.fixture
    def plugin(self) -> object:
        return fslm_orders


class TestNumber(ToolContract):
    @pytest.fixture
    def stage(self) -> Stage[Letter, Found]:
        return number


class TestReason(StageContract):
    warnings = ("untuned",)

    @pytest.fixture
    def stage(self) -> Stage[About, Why]:
        return reason


class TestOrders(StackContract):
    warnings = ("untuned",)

    @pytest.fixture
    def stack(self) -> Stack[Letter, Case]:
        return orders


def test_the_wheel_is_installed_not_the_source() -> None:
    assert "site-packages" in fslm_orders.__file__


def test_it_is_found_by_its_entry_point(fslm_host) -> None:
    host: PluginHost = fslm_host("orders")
    assert [info.name for info in host.plugins if info.state == "loaded"] == ["orders"]
    assert list(host.stacks) == ["orders"]


def test_a_quotation_that_nobody_wrote_is_refused_by_the_plugins_check() -> None:
    outcome = run_stack(orders, {"text": "AB-1234 again"}, replies={"reason": {"reason": "late", "quote": "at last"}})
    error = outcome.assert_failed(StageFailedError, match="the quotation is not in the letter")
    assert error.problems[0].source == "orders"


def test_nothing_is_asked_of_a_letter_without_a_text() -> None:
    run_stack(orders, {"text": ""}).assert_failed(InputError)
