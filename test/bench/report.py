"""What was measured, as a table, and as a plot where there is gnuplot."""
import shutil
import statistics

from server import HERE, command

TOP = HERE.parent.parent
RESULTS = TOP / 'results'
HEADING = ['case', 'store', 'per second', 'of base', 'quartiles', 'goal', 'CPU us', 'of base', 'WAL/event']
NAMES = {'limit': 'limit', 'plain': 'by hand', 'message_db': 'message-db', 'emmett': 'Emmett',
         'pgsql_http': 'pgsql-http', 'cqrs': 'pg_cqrs'}
PLOT = '![Rates as shares of what each case is compared with](test/bench/results.svg)'
COLOURS = {'plain': '#8899aa', 'plain, state row': '#bbc4cc', 'message_db': '#d9a441', 'message_db, Node': '#ecd29f',
           'emmett': '#b5651d', 'emmett, Node': '#dab28e', 'cqrs': '#1b7f4d', 'cqrs, no cache': '#7fc4a0', 'cqrs, no cache, C': '#c9e6d7',
           'cqrs, snapshots': '#4da377', 'limit, look-up': '#444444',
           'cqrs, 2 partitions': '#4da377', 'cqrs, 4 partitions': '#a8dcc0'}


class Report:
    def __init__(self, about):
        self.about = about
        self.lines = []
        self.bars = []		# case, label, ratio with quartiles
        self.summaries = []
        self.remarks = []	# case, label, what is no ratio to a base
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / 'slices.tsv').write_text('')

    def add_rates(self, case, slices, wal=None):
        """A ratio compares slices of one round, since the machine's speed drifts. The base is the first store."""
        base = next(iter(slices))
        summary = Summary(case)
        if not case.goal_cpu:
            self.summaries.append(summary)
        for label, mine in slices.items():
            rate, cpu = (statistics.median(values) for values in zip(*mine))
            wal_bytes = f'{wal[label]:,.0f}' if wal and wal[label] >= 1 else ''
            rounds = list(zip(mine, slices[base]))
            ratios = quartiles([a[0] / b[0] for a, b in rounds])
            cpu_ratio = statistics.median(a[1] / max(b[1], 1e-9) for a, b in rounds)
            more_cpu = statistics.median(a[1] - b[1] for a, b in rounds)
            self.lines.append([
                case.name, label, f'{rate:,.0f}', f'{ratios[1]:.2f}', f'{ratios[0]:.2f} to {ratios[2]:.2f}',
                '' if label == base else goal_of(case, label, ratios[1], cpu_ratio, more_cpu),
                f'{cpu:,.1f}', f'{cpu_ratio:.2f}', wal_bytes,
            ])
            summary.costs.add(label, f'{cpu:,.1f} us' + (f', {wal_bytes} bytes' if wal_bytes else ''))
            if label == base:
                summary.rates.add('base', f'{name_of(label)} {rate:,.0f}')
            elif case.goal_cpu:
                self.remarks.append((case.name, 'cqrs', f'{label} events: {cpu_ratio:.2f} of the CPU at {base}'))
            elif case.goal_us:
                summary.rates.add(label, f'{more_cpu:+.0f} us')
            else:
                self.bars.append((case.name, label, ratios))
                summary.rates.add(label, f'{ratios[1]:.2f} ({ratios[0]:.2f}–{ratios[2]:.2f})')
            self.keep(case.name, label, mine)

    def add_latency(self, case, label, measured):
        p50, p99 = ([f'{ms:.2f}' for ms in quartiles([one[i] for one in measured])] for i in (0, 1))
        self.add_remark(case.name, label, f'p50 {p50[1]} ms ({p50[0]} to {p50[2]}), p99 {p99[1]} ms ({p99[0]} to {p99[2]});'
                        f' goal: {case.goal}')
        self.keep(case.name, label, measured)

    def add_remark(self, name, label, text):
        self.lines.append([name, label, text])
        self.remarks.append((name, label, text))

    def keep(self, name, label, measured):
        with open(RESULTS / 'slices.tsv', 'a') as file:
            for number, values in enumerate(measured, 1):
                print(name, label, number, *(f'{value:.3f}' for value in values), sep='\t', file=file)

    # ---- writing -----------------------------------------------------------------

    def write(self):
        text = self.table()
        (RESULTS / 'table.txt').write_text(text)
        (RESULTS / 'table.md').write_text(self.markdown())
        if shutil.which('gnuplot') and self.bars:
            self.plot()
        else:
            text += '\nWITHOUT the plot: there is no gnuplot, or nothing to compare.\n'
        print(text, end='')

    def table(self):
        lines = [HEADING] + self.lines
        widths = [max(len(line[i]) for line in lines if len(line) == len(HEADING)) for i in range(len(HEADING))]
        text = [self.about]
        for i, line in enumerate(lines):
            if i > 0 and line[0] != lines[i - 1][0]:
                text.append('')
            left = [cell.ljust(width) for cell, width in zip(line[:2], widths)]
            right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:])]
            text.append('  '.join(left + right).rstrip())
        return '\n'.join(text) + '\n'

    def markdown(self):
        """For README.md: ratios and costs, a line a case, and below them what is neither."""
        others = [store for store in NAMES if store != 'limit']
        tables = []
        if self.summaries:
            tables.append(markdown_table(['case', 'base, per second', *(NAMES[store] for store in others), 'goal'],
                                         [summary.line_of_rates(others) for summary in self.summaries]))
            tables.append('CPU of the server for a transaction (for an event, of projections, rebuilds and the outbox), and WAL for an event:')
            tables.append(markdown_table(['case', *NAMES.values()], [summary.line_of_costs(NAMES) for summary in self.summaries]))
        if self.remarks:
            tables.append(markdown_table(['case', 'store', ''], [[f'`{name}`', name_of(label), remark] for name, label, remark in self.remarks]))
        return '\n\n'.join([*tables, self.about]) + '\n'

    def plot(self):
        """A group of bars for each case that has ratios, a colour for each store, whiskers for the quartiles."""
        cases = list(dict.fromkeys(case for case, _, _ in self.bars))
        labels = list(dict.fromkeys(label for _, label, _ in self.bars))
        found = {(case, label): ratios for case, label, ratios in self.bars}
        blocks = []
        for label in labels:
            rows = [f'{found[case, label][1]:.3f} {found[case, label][0]:.3f} {found[case, label][2]:.3f} "{case}"'
                    if (case, label) in found else f'NaN NaN NaN "{case}"' for case in cases]
            blocks.append('\n'.join(rows))
        (RESULTS / 'plot.dat').write_text('\n\n\n'.join(blocks) + '\n')
        titles = ' '.join(f'"{name_of(label)}"' for label in labels)
        colours = ' '.join(COLOURS.get(label, '#cccccc') for label in labels)
        command(['gnuplot', '-e', f"titles = '{titles}'; colours = '{colours}'", HERE / 'plot.gp'], cwd=RESULTS)


class Cells:
    """Of a line in a table, by store, several in one where a store has variants."""

    def __init__(self):
        self.texts = {}

    def add(self, label, text):
        store, _, variant = label.partition(', ')
        self.texts.setdefault(store, []).append(f'{variant} {text}'.lstrip())

    def of(self, *stores):
        return '; '.join(text for store in stores for text in self.texts.get(store, []))


class Summary:
    """A case in the README's tables."""

    def __init__(self, case):
        self.case = case
        self.rates = Cells()
        self.costs = Cells()

    def line_of_rates(self, stores):
        goal = self.case.goal or (f'+{self.case.goal_us} us' if self.case.goal_us else '')
        return [f'`{self.case.name}`', self.rates.of('base', 'limit'), *(self.rates.of(store) for store in stores), goal]

    def line_of_costs(self, stores):
        return [f'`{self.case.name}`', *(self.costs.of(store) for store in stores)]


def markdown_table(heading, lines):
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in [heading, ['---'] * len(heading), *lines])


def goal_of(case, label, ratio, cpu_ratio, more_cpu):
    if case.goal_cpu:
        return f'CPU {case.goal_cpu} {"met" if cpu_ratio <= float(case.goal_cpu) else "NOT MET"}'
    if label != 'cqrs':
        return ''
    if case.goal_us:
        return f'+{case.goal_us} us {"met" if more_cpu <= float(case.goal_us) else "NOT MET"}'
    return f'{case.goal} {"met" if ratio >= float(case.goal) else "NOT MET"}' if case.goal else ''


def name_of(label):
    store, comma, variant = label.partition(',')
    return NAMES.get(store, store) + comma + variant


def quartiles(values):
    if len(values) < 2:
        return values * 3
    return statistics.quantiles(values, n=4, method='inclusive')


def publish():
    """Puts the table and the plot of the last run where README.md shows them."""
    readme = TOP / 'README.md'
    before, begin, rest = readme.read_text().partition('<!-- make bench: begin -->\n')
    _, end, after = rest.partition('<!-- make bench: end -->')
    readme.write_text(f'{before}{begin}\n{PLOT}\n\n{(RESULTS / "table.md").read_text()}\n{end}{after}')
    shutil.copy(RESULTS / 'plot.svg', HERE / 'results.svg')
