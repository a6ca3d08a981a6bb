//! Progress of long work: a bar on a terminal, a plain line now and then elsewhere. Always on stderr.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::screen::{Screen, stderr_is_terminal};

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Redraws of the bar a second.
const REDRAWS_PER_SECOND: u8 = 8;

/// How far something is.
pub(crate) struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    started: Instant,
    told: Instant,
    total: Option<u64>,
    done: u64,
}

impl Progress {
    /// Progress of `what` (such as "devices imported"), of `total` where that is known.
    pub(crate) fn new(what: &'static str, total: Option<u64>) -> Self {
        let bar = stderr_is_terminal().then(|| {
            let template = match total {
                Some(_) => "{bar:32} {human_pos}/{human_len} {msg} ({per_sec}, {eta} left)",
                None => "{spinner} {human_pos} {msg} ({per_sec})",
            };
            let style = ProgressStyle::with_template(template);
            let bar =
                ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND));
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
        });
        let now = Instant::now();
        Self { what, bar, started: now, told: now, total, done: 0 }
    }

    /// So much is done now.
    pub(crate) fn at(&mut self, done: u64, screen: &mut Screen) {
        self.done = done;
        if let Some(line) = self.note(done) {
            screen.remark(&line);
        }
    }

    /// As [`Progress::at`], for where no screen is at hand: the plain line is returned instead.
    pub(crate) fn note(&mut self, done: u64) -> Option<String> {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return None;
        }
        if self.told.elapsed() < LINE_EVERY {
            return None;
        }
        self.told = Instant::now();
        let of = self.total.map_or_else(String::new, |total| format!(" of {total}"));
        Some(format!("{done}{of} {} ({:.0}/s)", self.what, self.per_second()))
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn per_second(&self) -> f64 {
        rate(self.done, self.seconds())
    }
}

/// A rate as a whole number, for people and JSON.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn whole(rate: f64) -> u64 {
    // A rate is never negative, and `as` saturates.
    rate.round() as u64
}

/// So many a second; 0 where no time has passed.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}
