"""All studies, by name."""

from __future__ import annotations

from charloom.lab.studies import cells, copying, gates, gradients, one_step, sequences
from charloom.lab.studies.study import Study

STUDIES = {
    "cell": Study(
        "one step of an LSTM cell, line by line, and how an input moves it",
        one_step.StepSettings,
        one_step.measure,
        one_step.draw,
        one_step.tables,
    ),
    "copy": Study(
        "how long a vanilla RNN and an LSTM remember some symbols, in order",
        copying.CopySettings,
        copying.measure,
        copying.draw,
        copying.tables,
    ),
    "gradients": Study(
        "how far back the gradient of a loss reaches, in RNNs and LSTMs",
        gradients.GradientSettings,
        gradients.measure,
        gradients.draw,
        gradients.tables,
    ),
    "gates": Study(
        "when the gates of a trained model open and close",
        gates.GateSettings,
        gates.measure,
        gates.draw,
        gates.tables,
        reads_a_run=True,
    ),
    "cells": Study(
        "which cell states of a trained model follow lines, words, quotes, indentation",
        cells.CellSettings,
        cells.measure,
        cells.draw,
        cells.tables,
        reads_a_run=True,
    ),
    "reversal": Study(
        "how attention turns strings round",
        sequences.ReversalSettings,
        sequences.measure_reversal,
        sequences.draw,
        sequences.tables,
    ),
    "dates": Study(
        "how attention reads dates that people write in several forms",
        sequences.DateSettings,
        sequences.measure_dates,
        sequences.draw,
        sequences.tables,
    ),
    "translation": Study(
        "how attention translates sentences, learnt from a file of pairs",
        sequences.TranslationSettings,
        sequences.measure_translation,
        sequences.draw,
        sequences.tables,
    ),
}
