"""What a plugin may be called, by whom it is, and under which licence."""

from __future__ import annotations

import pytest

from fslm_core.errors import UsageError
from fslm_core.plugins import PluginInfo
from fslm_core.scaffold.naming import author_of, licence_of, names_of, taken_by


def test_one_name_three_ways() -> None:
    names = names_of("my-shop_2")
    assert (names.name, names.distribution, names.module) == ("my-shop_2", "fslm-my-shop-2", "fslm_my_shop_2")


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("", "reviews"),
        ("My Shop", "my-shop"),
        ("my.shop", "my-shop"),
        ("-shop", "shop"),
        ("shop-", "shop"),
        ("2shop", "shop"),
        ("class", "class-plugin"),
        ("core", "core-plugin"),
        ("fslm-shop", "shop"),
        ("größe", "gr-e"),
        ("../shop", "shop"),
        ("x" * 41, "x" * 40),
    ],
)
def test_other_names_are_refused_with_one_that_would_do(name: str, instead: str) -> None:
    with pytest.raises(UsageError, match="cannot be called so") as caught:
        names_of(name)
    assert caught.value.hint == f"such as `{instead}`"
    names_of(instead)


@pytest.mark.parametrize("installed", ["my-shop", "my_shop"])
def test_an_installed_plugin_of_that_name_is_found(installed: str) -> None:
    info = PluginInfo(installed, "somebodys-shop", "1.0", "loaded")
    assert taken_by(names_of("my-shop"), [info]) is info
    assert taken_by(names_of("my-shop2"), [info]) is None


def test_a_distribution_of_that_name_is_found_too() -> None:
    info = PluginInfo("other", "Fslm.My_Shop", "1.0", "quarantined", "broken")
    assert taken_by(names_of("my-shop"), [info]) is info


@pytest.mark.parametrize("text", ["", "<a@b.c>", "Ada <no mail>", "Ada\nL", "Ada <a@b> <c@d>"])
def test_what_is_no_author_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no author"):
        author_of(text)


def test_a_licence_is_one_that_spdx_knows() -> None:
    assert licence_of("mit OR apache-2.0") == "MIT OR Apache-2.0"
    with pytest.raises(UsageError, match="SPDX knows no such licence"):
        licence_of("my own")
