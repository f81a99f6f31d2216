pytest_plugins = ["fslm_core.testing.plugin"]
