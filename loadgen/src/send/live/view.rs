//! What the screen shows of a run, as a value: drawn into any frame, so a test can look at it.
//!
//! `screen.rs` tells it of intervals and draws it. It remembers the rates of [`RATES_MAX`]
//! intervals and [`NOTES_MAX`] sentences. A terminal too small for all of it shows less.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row as Cells, Sparkline, Table};

use crate::send::exchange::Now;
use crate::send::gather::Row;
use crate::send::measure::Measures;
use crate::send::report::{BUSY_MAX, spoken};
use crate::send::search::LatencyAt;

/// As many as a wide terminal has columns.
const RATES_MAX: usize = 512;
const COUNTS: [(&str, u16); 3] = [("phase", 7), ("what", 11), ("count", 5)];
/// Sentences at the foot.
const NOTES_MAX: usize = 3;

/// A run at the end of an interval.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    row: Row,
    now: Vec<Now>,
    acknowledged: u64,
    errors_count: u64,
    /// Name, count, p50, p99.
    phases: Vec<(&'static str, u64, Duration, Duration)>,
    errors: Vec<(&'static str, &'static str, u64)>,
    replies: Vec<(&'static str, usize, u64)>,
}

impl Frame {
    pub(crate) fn new(row: &Row, now: &[Now], total: &Measures) -> Self {
        let phases = total.phases().map(|(name, t)| (name, t.count(), t.at(0.5), t.at(0.99)));
        let mut now = now.to_vec();
        now.sort_by_key(|core| (core.host, core.core));
        Self {
            row: row.clone(),
            now,
            acknowledged: total.acknowledged,
            errors_count: total.errors_count(),
            phases: phases.collect(),
            errors: total.errors().collect(),
            replies: total.replies().collect(),
        }
    }
}

/// What is shown.
#[derive(Debug)]
pub(crate) struct View {
    target: String,
    load: String,
    rates: VecDeque<u64>,
    notes: VecDeque<String>,
    last: Option<Frame>,
}

impl View {
    pub(crate) fn new(target: &str, load: &str) -> Self {
        Self {
            target: target.into(),
            load: load.into(),
            rates: VecDeque::new(),
            notes: VecDeque::new(),
            last: None,
        }
    }

    /// An interval is over.
    pub(crate) fn row(&mut self, frame: Frame) {
        if self.rates.len() == RATES_MAX {
            self.rates.pop_front();
        }
        self.rates.push_back(frame.row.rate().round() as u64);
        self.last = Some(frame);
    }

    /// Something was said.
    pub(crate) fn note(&mut self, text: String) {
        if self.notes.len() == NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back(text);
    }

    pub(crate) fn draw(&self, frame: &mut ratatui::Frame<'_>) {
        let foot = u16::try_from(self.notes.len()).unwrap_or(0) + 1;
        let [head, rates, tables, notes] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Fill(2),
            Constraint::Fill(3),
            Constraint::Length(foot),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.head()), head);
        self.draw_rates(frame, rates);
        let [phases, counts, cores] =
            Layout::horizontal([Constraint::Fill(4), Constraint::Fill(3), Constraint::Fill(3)])
                .areas(tables);
        if let Some(last) = &self.last {
            frame.render_widget(last.phases(), phases);
            frame.render_widget(last.counts(), counts);
            frame.render_widget(last.cores(), cores);
        }
        let mut lines: Vec<_> = self.notes.iter().map(|note| Line::from(note.as_str())).collect();
        lines.push("q ends the run and prints its figures".dim().into());
        frame.render_widget(Paragraph::new(lines), notes);
    }

    fn head(&self) -> Vec<Line<'_>> {
        let mut lines = vec![Line::from(format!("loadgen send to {}: {}", self.target, self.load))];
        let Some(last) = &self.last else {
            lines.push("no interval is over yet".into());
            return lines;
        };
        let row = &last.row;
        let (seconds, rate) = (row.until.as_secs_f64(), row.rate());
        lines.push(Line::from(format!(
            "{seconds:.0} s   {rate:.0}/s   {} acknowledged   {} in flight   {} connections",
            last.acknowledged, row.busy, row.open
        )));
        let errors = format!("{} errors", last.errors_count);
        let errors = if last.errors_count > 0 { errors.red() } else { errors.green() };
        let latency = match row.intended.or(row.actual) {
            Some(s) => {
                format!("   p50 {}   p99 {}   max {}", spoken(s.p50), spoken(s.p99), spoken(s.max))
            }
            None if row.share > BUSY_MAX => "   latencies refused: a core is too busy".to_owned(),
            None => "   no latencies".to_owned(),
        };
        lines.push(Line::from(vec![errors, latency.into()]));
        lines
    }

    fn draw_rates(&self, frame: &mut ratatui::Frame<'_>, area: Rect) {
        let most = self.rates.iter().max().copied().unwrap_or(0);
        let width = usize::from(area.width.saturating_sub(2));
        let shown = self.rates.iter().skip(self.rates.len().saturating_sub(width));
        let title = format!("messages per second, at most {most}");
        let line = Sparkline::default()
            .block(Block::bordered().title(title))
            .style(Style::new().fg(Color::Cyan))
            .data(shown.copied());
        frame.render_widget(line, area);
    }
}

fn table<'a>(
    title: &'a str,
    columns: &[(&'static str, u16)],
    rows: impl Iterator<Item = Vec<String>>,
) -> Table<'a> {
    let widths = columns.iter().map(|(_, width)| Constraint::Min(*width));
    let rows = rows.map(|cells| Cells::new(cells.into_iter().map(Cell::from)));
    Table::new(rows, widths)
        .header(Cells::new(columns.iter().map(|(name, _)| Cell::from(*name))).dim())
        .block(Block::bordered().title(title))
}

impl Frame {
    fn phases(&self) -> Table<'_> {
        let rows = self.phases.iter().map(|(name, count, p50, p99)| {
            vec![(*name).to_owned(), count.to_string(), spoken(*p50), spoken(*p99)]
        });
        table("phases", &[("phase", 7), ("count", 5), ("p50", 7), ("p99", 7)], rows)
    }

    /// Errors first: few of them say more than many replies.
    fn counts(&self) -> Table<'_> {
        let errors = self
            .errors
            .iter()
            .map(|(phase, kind, n)| vec![(*phase).to_owned(), (*kind).to_owned(), n.to_string()]);
        let replies = self
            .replies
            .iter()
            .map(|(phase, code, n)| vec![(*phase).to_owned(), code.to_string(), n.to_string()]);
        table("errors and replies", &COUNTS, errors.chain(replies))
    }

    fn cores(&self) -> Table<'_> {
        let rows = self.now.iter().map(|core| {
            let name = match core.host {
                0 => core.core.to_string(),
                host => format!("{host}/{}", core.core),
            };
            vec![name, format!("{:.0} %", core.share * 100.0), core.open.to_string()]
        });
        table("cores of the generator", &[("core", 4), ("busy", 5), ("connections", 11)], rows)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::send::gather::Spread;
    use crate::send::measure::{Kind, Phase};

    fn frame(rate: u64) -> Frame {
        let ms = Duration::from_millis;
        let row = Row {
            until: ms(7_000),
            length: ms(1_000),
            due: rate,
            begun: rate,
            acknowledged: rate,
            errors: 1,
            open: 32,
            busy: 5,
            share: 0.42,
            intended: Some(Spread { p50: ms(3), p99: ms(40), max: ms(500) }),
            actual: None,
        };
        let mut total = Measures::new();
        total.acknowledged = 9_876;
        total.time(Phase::Mail, ms(2));
        total.code(Phase::Rcpt, 451);
        total.error(Phase::Rcpt, Kind::Transient);
        let now = |core| Now { host: 0, core, share: 0.42, open: 16, busy: 2 };
        Frame::new(&row, &[now(1), now(0)], &total)
    }

    fn shown(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        buffer.content().chunks(usize::from(width)).fold(String::new(), |mut text, cells| {
            cells.iter().for_each(|cell| text.push_str(cell.symbol()));
            writeln!(text).unwrap();
            text
        })
    }

    #[test]
    fn the_view_has_the_rate_the_phases_the_errors_and_the_cores() {
        let mut view = View::new("127.0.0.1:2025", "closed loop, 5 messages");
        let empty = shown(&view, 100, 30);
        assert!(empty.contains("no interval is over yet"), "{empty}");
        (1..=20).for_each(|n| view.row(frame(n * 100)));
        view.note("500/s: passed".into());
        let text = shown(&view, 100, 30);
        for part in [
            "loadgen send to 127.0.0.1:2025: closed loop, 5 messages",
            "7 s   2000/s   9876 acknowledged   5 in flight   32 connections",
            "1 errors   p50 3.00 ms   p99 40.0 ms   max 500 ms",
            "messages per second, at most 2000",
            "4xx",
            "451",
            "42 %",
            "500/s: passed",
            "q ends the run",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(text.lines().any(|line| line.contains("mail") && line.contains("2.00 ms")));
        assert!(text.contains('█'), "{text}");
    }

    #[test]
    fn what_it_remembers_is_bounded_and_no_terminal_is_too_small() {
        let mut view = View::new("x", "y");
        for n in 0..2 * RATES_MAX {
            view.row(frame(n as u64));
            view.note(n.to_string());
        }
        assert_eq!((view.rates.len(), view.notes.len()), (RATES_MAX, NOTES_MAX));
        for size in [(1, 1), (5, 3), (20, 5), (300, 100)] {
            assert!(!shown(&view, size.0, size.1).is_empty());
        }
    }
}
