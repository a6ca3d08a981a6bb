//! Figures of the paged tables and their disk: memory, reads, writes, checkpoints, disk use, reopening.
//!
//! `cargo bench -p berth-store --bench pages -- [ROWS] [CHECKPOINTS]`: rows of 16 + 28 bytes, 3,000,000 and 12
//! unless given. Rates are per second of processor time.

use berth_store::disk::{self, DataDir, OpenOptions};
use berth_store::pages::{HashKey, Pages, Published, TableId, page_hash};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Rows changed by one publish, as a full entry of the log changes them.
const BATCH_ROWS: u64 = 1_000;
/// Threads that look at roots while the writer is measured: a publish pays for each that ever did.
const READERS: usize = 8;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn row_hash(key: &HashKey, _table: TableId, row_key: &[u8]) -> u64 {
    page_hash(key, row_key)
}

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"device-000000000";
    let mut left = number;
    for digit in key.iter_mut().rev().take(9) {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    key
}

/// Numbers that jump about (xorshift), the same in each run.
struct Jumps(u64);

impl Jumps {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn main() -> Result<()> {
    // Cargo itself adds `--bench`.
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let rows = numbers.next().unwrap_or(3_000_000);
    let checkpoints = numbers.next().unwrap_or(12);
    let mut out = std::io::stdout();
    let mut jumps = Jumps(0x9E37_79B9_7F4A_7C15);
    let mut pages = Pages::new(HashKey([7; 16]), row_hash, ());

    let base = resident_bytes()?;
    let mut third = 0;
    for quarter in 0..4 {
        let started = cpu()?;
        for first in (rows * quarter / 4..rows * (quarter + 1) / 4).step_by(BATCH_ROWS as usize) {
            let last = (first + BATCH_ROWS).min(rows * (quarter + 1) / 4);
            put(&mut pages, first..last, 1)?;
        }
        let resident = resident_bytes()?;
        if quarter == 0 {
            third = resident;
        }
        let per_second = per_second(rows / 4, cpu()? - started);
        writeln!(out, "insert quarter {quarter}: {per_second}/s, resident {} MB", resident >> 20)?;
    }
    let root = Arc::clone(pages.root());
    let page_count = root.page_count(TableId::Devices);
    writeln!(
        out,
        "pages: {page_count}, mean {} B; live {:.1} B/row; resident {:.1} B/row, marginal {:.1} B/row",
        root.live_bytes() / u64::from(page_count),
        root.live_bytes() as f64 / rows as f64,
        resident_bytes()?.saturating_sub(base) as f64 / rows as f64,
        resident_bytes()?.saturating_sub(third) as f64 / (rows - rows / 4) as f64,
    )?;
    drop(root);

    get(&mut out, &pages.published(), rows, &mut jumps)?;
    overwrite(&mut out, "one thread", &mut pages, rows, &mut jumps)?;
    with_readers(&pages.published(), || overwrite(&mut out, "beside readers", &mut pages, rows, &mut jumps))?;
    writeln!(
        out,
        "after overwrites: resident {:.1} B/row",
        (resident_bytes()?.saturating_sub(base)) as f64 / rows as f64
    )?;
    on_disk(&mut out, pages, rows, checkpoints, &mut jumps)
}

fn put(pages: &mut Pages<()>, numbers: impl Iterator<Item = u64>, filling: u8) -> Result<()> {
    let mut working = pages.working();
    for number in numbers {
        let key = key(number);
        let hash = working.hash_of(TableId::Devices, &key);
        working.put(TableId::Devices, hash, &key, &[filling; 28])?;
    }
    working.publish(());
    Ok(())
}

fn get(out: &mut impl Write, published: &Published<()>, rows: u64, jumps: &mut Jumps) -> Result<()> {
    let root = published.root();
    let (started, mut found, gets) = (cpu()?, 0_u64, 3_000_000);
    for _ in 0..gets {
        let key = key(jumps.below(rows));
        found += u64::from(root.get(TableId::Devices, root.hash_of(TableId::Devices, &key), &key).is_some());
    }
    writeln!(out, "get: {}/s, {found} of {gets} found", per_second(gets, cpu()? - started))?;
    Ok(())
}

fn overwrite(
    out: &mut impl Write,
    what: &str,
    pages: &mut Pages<()>,
    rows: u64,
    jumps: &mut Jumps,
) -> Result<()> {
    let (started, batches) = (cpu()?, 1_000);
    for batch in 0..batches {
        put(pages, (0..BATCH_ROWS).map(|_| jumps.below(rows)), batch as u8)?;
    }
    let took = cpu()? - started;
    writeln!(
        out,
        "overwrite {BATCH_ROWS} and publish, {what}: {}/s",
        per_second(batches * BATCH_ROWS, took)
    )?;
    Ok(())
}

/// Runs `work` while other threads have looked at roots, and one still does.
fn with_readers(published: &Published<()>, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let over = AtomicBool::new(false);
    let ready = std::sync::Barrier::new(READERS + 1);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            let (published, over, ready) = (published.clone(), &over, &ready);
            scope.spawn(move || {
                let root = published.root();
                let found = root.get(TableId::Devices, 0, b"").is_some();
                drop(root);
                ready.wait();
                while !over.load(Ordering::Relaxed) && !found {
                    std::thread::park_timeout(Duration::from_millis(10));
                }
            });
        }
        ready.wait();
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}

fn on_disk(
    out: &mut impl Write,
    pages: Pages<()>,
    rows: u64,
    checkpoints: u64,
    jumps: &mut Jumps,
) -> Result<()> {
    let at = std::env::current_dir()?.join(format!("bench-pages-{}", std::process::id()));
    let done = checkpoint_and_reopen(out, &at, pages, rows, checkpoints, jumps);
    std::fs::remove_dir_all(&at)?;
    done
}

fn checkpoint_and_reopen(
    out: &mut impl Write,
    at: &std::path::Path,
    mut pages: Pages<()>,
    rows: u64,
    checkpoints: u64,
    jumps: &mut Jumps,
) -> Result<()> {
    let dir = Arc::new(DataDir::lock(at)?);
    let opened = disk::open(&dir, &OpenOptions::new(row_hash))?;
    let mut checkpointer = opened.checkpointer;
    let disk = checkpointer.disk();
    let mut worst = 0;
    for number in 0..checkpoints {
        let (started, started_cpu) = (Instant::now(), cpu()?);
        let root = Arc::clone(pages.root());
        let completed = checkpointer.checkpoint(&root, b"")?;
        drop(root);
        let (took, took_cpu, stats) = (started.elapsed(), cpu()? - started_cpu, disk.stats());
        worst = worst.max(stats.amplification_percent());
        writeln!(
            out,
            "checkpoint {number}: {} pages, {} MB in {} ms ({} of the processor); disk {} MB = {:.2} x live{}",
            completed.pages_written,
            completed.bytes_written >> 20,
            took.as_millis(),
            took_cpu.as_millis(),
            stats.disk_bytes >> 20,
            stats.amplification_percent() as f64 / 100.0,
            if completed.rewritten { ", rewritten" } else { "" },
        )?;
        // Every page or every tenth changes before the next, in turn.
        let changed = if number % 3 == 2 { rows / 400 } else { rows / 10 };
        for _ in 0..changed.div_ceil(BATCH_ROWS) {
            put(&mut pages, (0..BATCH_ROWS).map(|_| jumps.below(rows)), number as u8)?;
        }
    }
    let digest = checkpointer.checkpoint(pages.root(), b"").map(|_| pages.root().digest())?;
    writeln!(out, "disk after {checkpoints} checkpoints: worst {:.2} x live", worst as f64 / 100.0)?;
    drop((checkpointer, disk, pages));
    let started = Instant::now();
    let opened = disk::open(&dir, &OpenOptions::new(row_hash))?;
    let took = started.elapsed();
    writeln!(
        out,
        "reopen and verify: {} ms, same digest: {}",
        took.as_millis(),
        opened.contents.digest() == digest
    )?;
    Ok(())
}

/// Processor time of this process so far: what figures rest on when the machine is shared.
fn cpu() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let mut ticks = 0;
    for field in after_name.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<u64>()?;
    }
    Ok(Duration::from_millis(ticks * 10))
}

fn per_second(count: u64, took: Duration) -> u64 {
    (count as f64 / took.as_secs_f64()) as u64
}

fn resident_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS in /proc/self/status")?;
    Ok(line.split_whitespace().nth(1).ok_or("no figure in VmRSS")?.parse::<u64>()? << 10)
}
