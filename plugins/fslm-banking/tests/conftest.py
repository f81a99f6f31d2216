"""The kit that plugins are tested with; it collects `cases/*.yml`, too."""

pytest_plugins = ["fslm_core.testing.plugin"]
