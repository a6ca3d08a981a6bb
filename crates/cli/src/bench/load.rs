//! Rounds of load: so many calls in flight, each caller's next call begins when its last one ended.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::raw;
use super::work::{Hand, Work};
use crate::failure::{EXIT_UNAVAILABLE, Failure};

/// Longest latency that is told apart: a minute, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;
/// Significant digits of latencies.
const DIGITS: u8 = 3;
/// Of so many answers each caller reads one and checks it.
const CHECK_EVERY: u64 = 64;
/// Wait after a failed call, so that a cluster that refuses is not hammered.
const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// Where load goes.
pub(super) struct Target {
    lanes: Vec<Channel>,
    in_flight: usize,
    pub(super) work: Work,
    /// An empty histogram, of which every caller takes a copy.
    no_latencies: Histogram<u64>,
}

/// What a round saw.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) calls: u64,
    pub(super) seconds: f64,
    pub(super) latencies_us: Histogram<u64>,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

/// What one call looks like on the wire.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) request_bytes: usize,
    pub(super) response: Bytes,
}

impl Target {
    /// So many calls in flight on each of these connections.
    pub(super) fn new(lanes: Vec<Channel>, in_flight: usize, work: Work) -> Result<Self, Failure> {
        let no_latencies = Histogram::new_with_max(LATENCY_US_MAX, DIGITS);
        let no_latencies =
            no_latencies.map_err(|e| Failure::refused(format!("cannot measure latencies: {e}")))?;
        Ok(Self { lanes, in_flight, work, no_latencies })
    }

    /// Makes one call and checks its answer.
    pub(super) async fn sample(&self) -> Result<Sample, Failure> {
        let message = self.work.next(&mut Hand::new());
        let lane = self.lanes.first().ok_or_else(|| Failure::usage("no connection is asked for"))?;
        let answer = raw::call(lane, &self.work.path, message.clone()).await.map_err(|status| Failure {
            code: EXIT_UNAVAILABLE,
            message: format!("the first call failed: {}", status.message()),
        })?;
        match self.work.check(&answer) {
            Some(problem) => Err(Failure::refused(problem)),
            None => Ok(Sample { request_bytes: message.len(), response: answer }),
        }
    }

    /// Keeps the load up for so long.
    pub(super) async fn round(&self, length: Duration) -> Round {
        let begin = Instant::now();
        let end = begin + length;
        let mut callers = JoinSet::new();
        for lane in &self.lanes {
            for _ in 0..self.in_flight {
                let round = Round::new(self.no_latencies.clone());
                callers.spawn(caller(lane.clone(), self.work.clone(), end, round));
            }
        }
        let mut round = Round::new(self.no_latencies.clone());
        while let Some(part) = callers.join_next().await {
            match part {
                Ok(part) => round.add(&part),
                Err(error) => round.fail(error.to_string()),
            }
        }
        round.seconds = begin.elapsed().as_secs_f64();
        round
    }
}

async fn caller(lane: Channel, work: Work, end: Instant, mut round: Round) -> Round {
    let mut hand = Hand::new();
    let mut began = Instant::now();
    while began < end {
        let answer = raw::call(&lane, &work.path, work.next(&mut hand)).await;
        let ended = Instant::now();
        match answer {
            Ok(answer) => {
                round.calls += 1;
                let us = u64::try_from((ended - began).as_micros()).unwrap_or(LATENCY_US_MAX);
                round.latencies_us.saturating_record(us);
                if round.calls % CHECK_EVERY == 1
                    && let Some(problem) = work.check(&answer)
                {
                    round.fail(problem);
                }
            }
            Err(status) => {
                round.fail(format!("{:?}: {}", status.code(), status.message()));
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
        began = ended;
    }
    round
}

impl Round {
    fn new(latencies_us: Histogram<u64>) -> Self {
        Self { calls: 0, seconds: 0.0, latencies_us, errors: 0, first_error: None }
    }

    fn add(&mut self, part: &Self) {
        self.calls += part.calls;
        self.errors += part.errors;
        if self.first_error.is_none() {
            self.first_error.clone_from(&part.first_error);
        }
        // Both have the same bounds.
        let _ = self.latencies_us.add(&part.latencies_us);
    }

    fn fail(&mut self, problem: String) {
        self.errors += 1;
        self.first_error.get_or_insert(problem);
    }
}
