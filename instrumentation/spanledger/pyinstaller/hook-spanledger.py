"""Prices, SQL, the modules that are imported by name, and the metadata in which OpenTelemetry finds its entry points."""

import warnings
from importlib import metadata

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata

PACKAGES = ("spanledger", "spanledger_clickhouse")
LEFT_OUT = ("spanledger.pytest_plugin", "spanledger.pyinstaller")
GROUPS = ("configurator", "context", "distro", "environment_variables", "id_generator", "logger_provider")
GROUPS += ("logs_exporter", "meter_provider", "metrics_exporter", "post_instrument", "pre_instrument", "propagator")
GROUPS += ("resource_detector", "traces_exporter", "traces_sampler", "tracer_provider")
"""Entry points without which OpenTelemetry does not start; not the instrumentors, each of which brings its library."""

datas = [file for package in PACKAGES for file in collect_data_files(package)]
hiddenimports = [module for module in collect_submodules("spanledger") if module not in LEFT_OUT]
hiddenimports += ["spanledger_clickhouse.ship.background_thread"]
distributions = {"spanledger", "openai", "anthropic", "google-genai"}
for group in GROUPS:
    for entry_point in metadata.entry_points(group=f"opentelemetry_{group}"):
        hiddenimports.append(entry_point.module)
        if entry_point.dist is not None:
            distributions.add(entry_point.dist.name)
for distribution in sorted(distributions):
    try:
        datas += copy_metadata(distribution)
    except Exception as error:  # noqa: BLE001 - PyInstaller raises errors of its own for what is not installed
        warnings.warn(f"the metadata of {distribution} is not collected: {error}", stacklevel=1)
