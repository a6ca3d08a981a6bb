//! Lookups under load, each answer held against what may be true at that moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use berth_client::{Client, v1};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::export_file;
use super::story::{DEVICE_PREFIX, HUB_A, HUB_C};
use crate::failure::Failure;

/// Devices of one batch lookup.
const BATCH_DEVICES: u64 = 256;
/// Wrong answers that are told in full.
const WRONG_TOLD_MAX: usize = 5;

/// What is true of the fleet: who is where, and since when.
#[derive(Debug)]
pub(super) struct Truth {
    /// Devices, numbered from 0.
    pub(super) devices: u64,
    /// The first so many move from hub A to hub C in one revision.
    pub(super) movers: u64,
    /// True once the move was asked for.
    pub(super) move_begun: AtomicBool,
    /// Revision of the move, once it was acknowledged; 0 before.
    pub(super) moved_at: AtomicU64,
}

impl Truth {
    /// The hub that a device is on when nothing is on its way.
    pub(super) fn hub_of(&self, no: u64) -> &'static str {
        if no < self.movers && self.moved_at.load(Ordering::SeqCst) > 0 { HUB_C } else { HUB_A }
    }
}

/// What the checkers saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) lookups: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) batch_rows: AtomicU64,
    pub(super) failed_calls: AtomicU64,
    pub(super) before: AtomicU64,
    pub(super) after: AtomicU64,
    wrong: Mutex<(u64, Vec<String>)>,
    micros: Mutex<Vec<u32>>,
}

impl Seen {
    fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock();
        wrong.0 += 1;
        if wrong.1.len() < WRONG_TOLD_MAX {
            wrong.1.push(what);
        }
    }

    /// Ends the story where an answer was wrong.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let wrong = self.wrong.lock();
        match wrong.0 {
            0 => Ok(()),
            count => Err(Failure::refused(format!("{count} wrong answers, such as: {}", wrong.1.join("; ")))),
        }
    }

    /// The median and the 99th percentile of single lookups, in microseconds.
    pub(super) fn percentiles(&self) -> (u32, u32) {
        let mut micros = self.micros.lock();
        micros.sort_unstable();
        let at = |share: usize| micros.get(micros.len() * share / 100).copied().unwrap_or(0);
        (at(50), at(99))
    }
}

/// Checkers that run until they are stopped.
pub(super) struct Checkers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    pub(super) seen: Arc<Seen>,
    began: Instant,
}

impl Checkers {
    /// Starts checkers against each endpoint: `lanes` tasks each, every other one with batches.
    pub(super) fn start(endpoints: &[String], truth: &Arc<Truth>, lanes: usize) -> Result<Self, Failure> {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let mut tasks = JoinSet::new();
        for (node, endpoint) in endpoints.iter().enumerate() {
            let client = Client::connect(&[endpoint], berth_client::Options::default())?;
            for lane in 0..lanes {
                let checker = Checker {
                    client: client.clone(),
                    truth: Arc::clone(truth),
                    seen: Arc::clone(&seen),
                    stop: Arc::clone(&stop),
                    // A full period of the fleet by steps that share no factor with it.
                    next: (node * lanes + lane) as u64 * 7_919,
                };
                if lane % 4 == 3 {
                    tasks.spawn(checker.check_batches());
                } else {
                    tasks.spawn(checker.check_singles());
                }
            }
        }
        Ok(Self { stop, tasks, seen, began: Instant::now() })
    }

    /// Stops the checkers; gives what they saw and for how long they looked.
    pub(super) async fn stop(mut self) -> (Arc<Seen>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let took = self.began.elapsed();
        while self.tasks.join_next().await.is_some() {}
        (self.seen, took)
    }
}

struct Checker {
    client: Client,
    truth: Arc<Truth>,
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    next: u64,
}

impl Checker {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The next device to ask for: every other one from among the movers.
    fn pick(&mut self) -> u64 {
        self.next = self.next.wrapping_add(7_919);
        if self.next % 2 == 0 { self.next % self.truth.movers.max(1) } else { self.next % self.truth.devices }
    }

    async fn check_singles(mut self) {
        while !self.stopped() {
            let no = self.pick();
            // Noted before the call: what was acknowledged by then must be seen.
            let moved_at = self.truth.moved_at.load(Ordering::SeqCst);
            let device = export_file::device_id(no, DEVICE_PREFIX);
            let asked = Instant::now();
            let answer = self.client.lookup(&device, None).await;
            let micros = u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX);
            match answer {
                Ok(v1::LookupResponse { header: Some(header), result: Some(result) }) => {
                    self.seen.lookups.fetch_add(1, Ordering::Relaxed);
                    self.seen.micros.lock().push(micros);
                    let seen = match &result {
                        v1::lookup_response::Result::Found(found) => {
                            Some((found.hub.as_str(), found.epoch, found.revision))
                        }
                        v1::lookup_response::Result::Negative(_) => None,
                    };
                    self.judge(no, seen, header.revision, moved_at);
                }
                // A disabled device has no hub to call, and a call may fail while a leader is replaced.
                Err(error) if export_file::is_disabled(no) && error.api_error().is_some() => {
                    self.seen.lookups.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) | Ok(_) => {
                    self.seen.failed_calls.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    async fn check_batches(mut self) {
        while !self.stopped() {
            let first = self.pick();
            let moved_at = self.truth.moved_at.load(Ordering::SeqCst);
            let numbers: Vec<u64> = (0..BATCH_DEVICES).map(|n| (first + n) % self.truth.devices).collect();
            let device_ids = numbers.iter().map(|no| export_file::device_id(*no, DEVICE_PREFIX)).collect();
            let request = v1::BatchLookupRequest { device_ids, ..Default::default() };
            match self.client.batch_lookup(request).await {
                Ok(answer) => self.judge_batch(&numbers, &answer, moved_at),
                Err(_) => {
                    self.seen.failed_calls.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn judge_batch(&self, numbers: &[u64], answer: &v1::BatchLookupResponse, moved_at: u64) {
        self.seen.batches.fetch_add(1, Ordering::Relaxed);
        self.seen.batch_rows.fetch_add(numbers.len() as u64, Ordering::Relaxed);
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        let (mut before, mut after) = (0, 0);
        for ((no, hub), (epoch, at)) in
            numbers.iter().zip(&answer.hub_numbers).zip(answer.epochs.iter().zip(&answer.revisions))
        {
            // Hubs are numbered from 1; 0 is a negative.
            let hub =
                hub.checked_sub(1).and_then(|hub| answer.hubs.get(hub as usize)).map(|hub| hub.hub.as_str());
            self.judge(*no, hub.map(|hub| (hub, *epoch, *at)), revision, moved_at);
            if *no < self.truth.movers {
                match hub {
                    Some(hub) if hub == HUB_C => after += 1,
                    Some(_) => before += 1,
                    None => {}
                }
            }
        }
        if before > 0 && after > 0 {
            self.seen.wrong(format!(
                "a batch at revision {revision} saw {before} devices before the move and {after} after it"
            ));
        }
    }

    /// Holds one answer against the truth. `moved_at` is the revision of the move if it was acknowledged before the
    /// lookup began, else 0.
    fn judge(&self, no: u64, seen: Option<(&str, u64, u64)>, revision: u64, moved_at: u64) {
        let device = export_file::device_id(no, DEVICE_PREFIX);
        let Some((hub, epoch, changed)) = seen else {
            if !export_file::is_disabled(no) {
                self.seen.wrong(format!("{device} has no hub at revision {revision}"));
            }
            return;
        };
        if changed > revision {
            self.seen
                .wrong(format!("{device} was changed at revision {changed}, after its answer's {revision}"));
        }
        let moves = no < self.truth.movers;
        if moves && hub == HUB_C {
            self.seen.after.fetch_add(1, Ordering::Relaxed);
            if !self.truth.move_begun.load(Ordering::SeqCst) {
                self.seen.wrong(format!("{device} is on {HUB_C} before anybody moved it"));
            }
            // Created at one revision, moved at a later one: its epoch is one above the revision that created it.
            if changed < epoch {
                self.seen.wrong(format!("{device} moved at revision {changed}, but its epoch is {epoch}"));
            }
        } else if hub == HUB_A {
            if moves {
                self.seen.before.fetch_add(1, Ordering::Relaxed);
            }
            if moves && moved_at > 0 {
                self.seen.wrong(format!(
                    "{device} is still on {hub}, after its move at revision {moved_at} was acknowledged"
                ));
            }
            if epoch != changed {
                self.seen.wrong(format!(
                    "{device} was never moved, but its epoch is {epoch} and its revision {changed}"
                ));
            }
        } else {
            self.seen.wrong(format!("{device} is on {hub}, where it never was"));
        }
    }
}
