"""The reports of a build and of a corpus, and the card of a release: templates and plots over typed values."""

from puna.report.card import render_card
from puna.report.corpus_page import render_corpus
from puna.report.corpus_words import corpus_summary
from puna.report.data import ReportData
from puna.report.page import render_report

__all__ = ["ReportData", "corpus_summary", "render_card", "render_corpus", "render_report"]
