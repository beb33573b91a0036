"""The report of a build and the card of a release: templates and plots over one typed value."""

from puna.report.card import render_card
from puna.report.data import ReportData
from puna.report.page import render_report

__all__ = ["ReportData", "render_card", "render_report"]
