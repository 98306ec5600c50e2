//! The terminal while a run goes on: taken, drawn on, listened to, and always given back.
//!
//! It is drawn on stderr, so that the figures on stdout can go to a file. `q`, Esc and Ctrl-C end
//! the run as a first signal does; from then on, or when a signal has come, the terminal is as it
//! was before, and a second Ctrl-C ends the process. A panic of any thread gives it back, too.

use std::io::{self, Stderr, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

use super::view::{Frame, View};
use crate::say;
use crate::send::plan::Plan;

/// Intervals and sentences that wait to be drawn.
pub(crate) const NEWS_MAX: usize = 16;
/// How often it looks whether a key was pressed or the run is over.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum News {
    Row(Box<Frame>),
    Note(String),
}

/// A terminal that shows a run. When it is dropped the terminal has been given back.
#[derive(Debug)]
pub(crate) struct Screen {
    news: Option<SyncSender<News>>,
    thread: Option<JoinHandle<()>>,
}

impl Screen {
    /// Takes the terminal; `None` when it cannot be had.
    pub(crate) fn open(plan: &Plan, stop: Arc<AtomicBool>) -> Option<Self> {
        let taken = Taken::new().ok()?;
        let terminal = Terminal::new(CrosstermBackend::new(stderr())).ok()?;
        let view = View::new(&plan.options.target, &plan.amount.to_string());
        let (news, inbox) = sync_channel(NEWS_MAX);
        let thread = Builder::new().name("loadgen-screen".into());
        let main = move || {
            let ended = show(terminal, view, &inbox, &stop);
            drop(taken);
            if let Err(why) = ended {
                say::error(&format!("terminal: {why}"));
            } else if stop.load(Ordering::Relaxed) {
                say::error("ending: what is under way has a few seconds");
            }
        };
        let thread = thread.spawn(main).ok()?;
        Some(Self { news: Some(news), thread: Some(thread) })
    }

    fn tell(&self, news: News) {
        // A screen that is slow, or was left, is told nothing.
        let _ = self.news.as_ref().map(|inbox| inbox.try_send(news));
    }

    pub(crate) fn row(&self, frame: Frame) {
        self.tell(News::Row(Box::new(frame)));
    }

    pub(crate) fn note(&self, text: String) {
        self.tell(News::Note(text));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(self.news.take());
        // The hook has told of a panic.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The terminal, as long as it is ours.
struct Taken;

impl Taken {
    fn new() -> io::Result<Self> {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back();
            hook(info);
        }));
        enable_raw_mode()?;
        let taken = Self;
        execute!(stderr(), EnterAlternateScreen)?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// Does no harm a second time, and a terminal that is gone needs nothing.
fn give_back() {
    let _ = disable_raw_mode();
    let _ = execute!(stderr(), LeaveAlternateScreen, Show);
}

/// Whether this ends the run.
fn ends(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, .. }) = event else { return false };
    match code {
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        KeyCode::Char('q') | KeyCode::Esc => true,
        _ => false,
    }
}

/// Draws until the run is over or somebody ends it.
fn show(
    mut terminal: Terminal<CrosstermBackend<Stderr>>,
    mut view: View,
    inbox: &Receiver<News>,
    stop: &AtomicBool,
) -> io::Result<()> {
    // Nothing is drawn twice: that would cost a share of a processor that is measured.
    let mut changed = true;
    loop {
        loop {
            match inbox.try_recv() {
                Ok(News::Row(frame)) => view.row(*frame),
                Ok(News::Note(text)) => view.note(text),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
            changed = true;
        }
        if std::mem::take(&mut changed) {
            terminal.draw(|frame| view.draw(frame))?;
        }
        if event::poll(LOOK)? {
            let event = event::read()?;
            changed = matches!(event, Event::Resize(..));
            if ends(&event) {
                stop.store(true, Ordering::Relaxed);
            }
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_end_a_run() {
        let key = |code, modifiers| ends(&Event::Key(KeyEvent::new(code, modifiers)));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE));
        assert!(key(KeyCode::Esc, KeyModifiers::NONE));
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE));
        assert!(!key(KeyCode::Char('x'), KeyModifiers::NONE));
        assert!(!ends(&Event::Resize(80, 24)));
    }
}
