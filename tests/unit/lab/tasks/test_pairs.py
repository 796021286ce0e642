from __future__ import annotations

import datetime
from random import Random

import pytest

from charloom.lab.tasks.pairs import FIRST_DAY, LAST_DAY, Dates, PairTask, Reversal, is_held_out, written_forms


@pytest.mark.parametrize(
    "form",
    [
        "March 3rd, 2021",
        "3rd of March 2021",
        "3 Mar 21",
        "Mar 3, 2021",
        "03.03.2021",
        "3/3/2021",
        "the third of march 2021",
    ],
)
def test_a_day_has_the_forms_that_people_write(form: str) -> None:
    assert form in written_forms(datetime.date(2021, 3, 3))


def test_ordinals_are_right() -> None:
    days = [datetime.date(2021, 1, day) for day in range(1, 32)]
    numbers = [written_forms(day)[1].split()[0] for day in days]
    assert numbers[:4] + numbers[10:13] + numbers[20:24] + numbers[29:] == (
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd", "24th", "30th", "31st"]
    )
    words = [written_forms(day)[-1].split()[1] for day in days]
    assert (words[0], words[11], words[19], words[20], words[29], words[30]) == (
        *("first", "twelfth", "twentieth", "twenty-first", "thirtieth", "thirty-first"),
    )


def test_no_two_days_are_written_alike() -> None:
    """Or there would be no right answer."""
    days = [FIRST_DAY + datetime.timedelta(days=n) for n in range((LAST_DAY - FIRST_DAY).days + 1)]
    written = [form for day in days for form in written_forms(day)]
    assert len(set(written)) == len(written)


@pytest.mark.parametrize("task", [Reversal(), Dates()])
def test_examples_are_right_held_out_or_not_and_made_of_the_tasks_symbols(task: PairTask) -> None:
    for held_out in (False, True):
        random = Random(0)
        pairs = [task.pair(random, held_out=held_out) for _ in range(500)]
        for source, target in pairs:
            assert set(source) <= set(task.source_symbols)
            assert set(target) <= set(task.target_symbols)
            assert len(target) <= task.longest
            if isinstance(task, Reversal):
                assert target == source[::-1]
                assert is_held_out(source) == held_out
            else:
                assert source in written_forms(datetime.date.fromisoformat(target))
                assert is_held_out(target) == held_out
        assert len({source for source, _ in pairs}) > 400
