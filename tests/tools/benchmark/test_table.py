"""Tables of the benchmark: ratios, what is wanted and missed, Markdown."""

import pytest
from benchmark.table import ABOVE, Baseline, Quantity, Table, Wanted

MB = 10**6
MADE_UP = Table(
    title='Made up',
    baselines=(Baseline('slow'), Baseline(ABOVE), Baseline('limit', as_speed=False)),
    quantities=(
        Quantity('time', 's', {'slow': [4, 2, 3], 'fast': [2, 1], 'limit': [0.5]}),
        Quantity('memory', 'bytes', {'slow': [40 * MB], 'fast': [10 * MB], 'limit': [5 * MB]}),
        Quantity('equal', '%', {'slow': [100], 'fast': [99.5]}),
    ),
    wanted=(
        Wanted('time', 'fast', 'slow', low=2),
        Wanted('time', 'fast', 'limit', high=3),
        Wanted('memory', 'fast', 'slow', low=0.2, high=0.3),
        Wanted('equal', 'fast', None, low=99),
    ),
)
IN_MARKDOWN = """\
| time   | slow  | 3.00 s     | 2.00 s to 4.00 s |                |                | 6.00 x |
| time   | fast  | 1.50 s     | 1.00 s to 2.00 s | 2.00 x as fast | 2.00 x as fast | 3.00 x |
| time   | limit | 500.0 ms   |                  | 6.00 x as fast | 3.00 x as fast |        |
| memory | slow  | 40 MB      |                  |                |                | 8.00 x |
| memory | fast  | 10 MB      |                  | 0.25 x         | 0.25 x         | 2.00 x |
| memory | limit | 5.00 MB    |                  | 0.12 x         | 0.50 x         |        |
| equal  | slow  | 100.0000 % |                  |                |                |        |
| equal  | fast  | 99.5000 %  |                  |                |                |        |"""
WANTED_IN_MARKDOWN = {
    1: 'at least 2 x as fast as slow; at most 3 x that of limit',
    4: 'at least 0.2, at most 0.3 x that of slow',
    7: 'at least 99 %',
}


def cells(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_the_markdown_says_medians_spreads_ratios_and_what_is_wanted():
    title, _, header, rule, *lines = MADE_UP.as_markdown().splitlines()
    assert title == '### Made up'
    assert set(rule) == {'|', '-'}
    assert cells(header)[-2:] == ['beside limit', 'wanted']
    assert {len(cells(line)) for line in (header, rule, *lines)} == {8}
    assert [cells(line)[:-1] for line in lines] == [cells(line) for line in IN_MARKDOWN.split('\n')]
    wanted = [cells(line)[-1] for line in lines]
    assert wanted == [WANTED_IN_MARKDOWN.get(place, '') for place in range(8)]


@pytest.mark.parametrize(
    ('wanted', 'sentence'),
    [
        (Wanted('time', 'fast', 'slow', low=2.01), 'is 2.00, wanted at least 2.01 x as fast as'),
        (Wanted('time', 'fast', 'limit', high=2.99), 'is 3.00, wanted at most 2.99 x that of limi'),
        (
            Wanted('memory', 'fast', 'slow', high=0.24),
            'is 0.25, wanted at most 0.24 x that of slow',
        ),
        (Wanted('memory', 'fast', 'slow', low=0.26), 'is 0.25, wanted at least 0.26 x that of'),
        (Wanted('equal', 'fast', None, low=99.51), 'is 99.50, wanted at least 99.51 %'),
        (
            Wanted('memory', 'limit', 'limit', high=9),
            'is unknown, wanted at most 9 x that of limit',
        ),
    ],
)
def test_what_lies_outside_its_range_is_missed_in_words(wanted, sentence):
    table = Table('Made up', MADE_UP.baselines, MADE_UP.quantities, (wanted,))
    (missed,) = table.missed()
    assert sentence in missed


def test_nothing_is_missed_within_the_ranges():
    assert MADE_UP.missed() == []
