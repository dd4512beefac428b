"""The version of the distribution: the one place, read by the build."""

VERSION = "0.1.0"
