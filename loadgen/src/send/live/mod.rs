//! What is seen of a run while it goes on: a line on stderr for each interval, or on a terminal a
//! view of the whole run ([`screen`], drawn by [`view`]).
//!
//! `gather.rs` calls [`Live::row`] for each interval that is complete, on the main thread: the
//! cores of the generator know nothing of it. The screen is drawn on a thread of its own, which is
//! behind by at most [`screen::NEWS_MAX`] intervals; then it is told fewer.

mod screen;
mod view;

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;

use super::exchange::Now;
use super::gather::Row;
use super::measure::Measures;
use super::plan::Plan;
use super::report::{BUSY_MAX, spoken};
use crate::say;
use screen::Screen;
use view::Frame;

/// How it is shown.
#[derive(Debug)]
pub(crate) enum Live {
    /// Not at all.
    Quiet,
    /// A line on stderr.
    Lines,
    /// The whole terminal.
    Screen(Screen),
}

impl Live {
    /// As the plan says, or as stderr is: a terminal that listens to us has the screen.
    pub(crate) fn new(plan: &Plan, stop: &Arc<AtomicBool>) -> Self {
        if plan.options.quiet {
            return Self::Quiet;
        }
        // Who touches the terminal from the background is stopped by the system.
        let ours = || stderr().is_terminal() && tcgetpgrp(stderr()).is_ok_and(|g| g == getpgrp());
        if plan.options.no_tui || !draws(std::env::var("TERM").ok().as_deref()) || !ours() {
            return Self::Lines;
        }
        // A terminal that cannot be set up still shows lines.
        Screen::open(plan, Arc::clone(stop)).map_or(Self::Lines, Self::Screen)
    }

    /// Shows an interval.
    pub(crate) fn row(&self, row: &Row, now: &[Now], total: &Measures) {
        match self {
            Self::Quiet => {}
            Self::Lines => say::error(&line(row)),
            Self::Screen(screen) => screen.row(Frame::new(row, now, total)),
        }
    }

    /// Shows a sentence, unless nothing is to be seen.
    pub(crate) fn note(&self, text: String) {
        match self {
            Self::Quiet => {}
            Self::Lines => say::error(&text),
            Self::Screen(screen) => screen.note(text),
        }
    }
}

/// Whether a terminal of that name can be drawn on.
fn draws(term: Option<&str>) -> bool {
    !matches!(term, None | Some("" | "dumb"))
}

/// An interval in a line.
fn line(row: &Row) -> String {
    let (seconds, rate) = (row.until.as_secs_f64(), row.rate());
    let (busy, errors) = (row.busy, row.errors);
    let latency = match row.intended.or(row.actual) {
        Some(spread) => format!("p50 {}  p99 {}", spoken(spread.p50), spoken(spread.p99)),
        None if row.share > BUSY_MAX => format!("generator {:.0} % busy", row.share * 100.0),
        None => "p50 -  p99 -".to_owned(),
    };
    format!("{seconds:7.1} s  {rate:8.0}/s  {busy} in flight  {errors} errors  {latency}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::send::gather::Spread;

    #[test]
    fn a_terminal_that_cannot_move_its_cursor_has_lines() {
        assert!(draws(Some("xterm")) && draws(Some("linux")));
        assert!(!draws(None) && !draws(Some("")) && !draws(Some("dumb")));
    }

    #[test]
    fn a_line_has_what_happened_in_the_interval() {
        let ms = Duration::from_millis;
        let mut row = Row {
            until: ms(2_000),
            length: ms(500),
            due: 0,
            begun: 0,
            acknowledged: 100,
            errors: 3,
            open: 9,
            busy: 8,
            share: 0.97,
            intended: None,
            actual: Some(Spread { p50: ms(1), p99: ms(20), max: ms(30) }),
        };
        let text = "    2.0 s       200/s  8 in flight  3 errors  p50 1.00 ms  p99 20.0 ms";
        assert_eq!(line(&row), text);
        row.actual = None;
        assert!(line(&row).ends_with("generator 97 % busy"), "{}", line(&row));
        row.share = 0.1;
        assert!(line(&row).ends_with("p50 -  p99 -"));
    }
}
