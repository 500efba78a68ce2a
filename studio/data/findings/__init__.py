"""What is wrong with data, found before it is trained on: `check`, one small function for each question."""

from studio.data.findings.check import check, check_before_training
from studio.data.findings.found import Finding, Report
from studio.data.findings.kinds import KINDS, Kind

__all__ = ["KINDS", "Finding", "Kind", "Report", "check", "check_before_training"]
