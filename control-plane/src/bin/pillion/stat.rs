//! `pillion stat`: how much is going on between whom, and how well, as a live table.
//!
//! Proxies tell what they have counted since they were started; two of these make the figures of the time between.

mod figures;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use pillion_control_plane::{Counts, lifetime};
use rustix::termios::tcgetwinsize;
use tokio::time::Instant;

use self::figures::{Line, between};
use crate::{
    ask::From,
    table::{Side, table, time},
};

/// Clears the screen and goes to its beginning.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Lines of a terminal that does not say how many it has.
const LINES: usize = 24;

/// What to count.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What each line stands for: pairs of caller and destination where nothing is said
    #[arg(long, value_name = "WHAT")]
    by: Option<By>,

    /// The time that figures are for, and between two of them
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = lifetime)]
    interval: Duration,

    /// Print the figures of one interval and end
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    from: From,
}

/// What a line stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// A calling workload.
    Source,
    /// A service that is called.
    Destination,
    /// A rule of a service.
    Route,
}

/// Shows figures until nobody reads, or once.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.interval < Duration::from_millis(100) {
        bail!("--interval: give at least 100ms");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut before = counts(&args.from)?;
    loop {
        runtime.block_on(async { tokio::time::sleep(args.interval).await });
        let now = counts(&args.from)?;
        let text = render(args.by, &before.0, &now.0, now.1.duration_since(before.1));
        before = now;
        if !show(&text, args.once)? || args.once {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// What is counted now, and when that was.
fn counts(from: &From) -> Result<(Counts, Instant)> {
    let text = from.fetch("/stat")?;
    let counts: Counts =
        serde_json::from_str(&text).context("the control plane's answer is of another version")?;
    if counts.silence.asked == 0 {
        bail!("no proxy is connected to the control plane, so nobody counts anything");
    }
    Ok((counts, Instant::now()))
}

/// Prints the table: over the last one on a terminal, below it elsewhere. Whether somebody reads it.
fn show(text: &str, once: bool) -> Result<bool> {
    let mut out = io::stdout().lock();
    let written = if out.is_terminal() && !once {
        let lines = tcgetwinsize(&out).map_or(LINES, |size| usize::from(size.ws_row).max(2));
        // The line below the last one must not push the first one out.
        let shown: Vec<&str> = text.lines().take(lines - 1).collect();
        write!(out, "{CLEAR}{}", shown.join("\n"))
    } else {
        write!(out, "{text}{}", if once { "" } else { "\n" })
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => Ok(written.map(|()| true)?),
    }
}

/// The table of the time between two counts.
fn render(by: Option<By>, before: &Counts, now: &Counts, elapsed: Duration) -> String {
    let silence = &now.silence;
    let heard = now.proxies.len();
    let mut text =
        format!("requests of {:.1} s, as {heard} of {} proxies tell\n", elapsed.as_secs_f64(), silence.asked);
    if !silence.silent.is_empty() {
        text.push_str(&format!("not heard in time: {}\n", silence.silent.join(", ")));
    }
    text.push('\n');
    let mut lines = between(by, before, now);
    if lines.is_empty() {
        return text + "no requests yet\n";
    }
    // What there is most of comes first; what is as much stays in the order of names.
    lines.sort_by_key(|line| Reverse(line.counted.requests));
    let rows: Vec<_> = lines.iter().map(|line| row(line, elapsed)).collect();
    let (first, second) = match by {
        None => ("FROM", "TO"),
        Some(By::Source) => ("FROM", ""),
        Some(By::Destination) => ("TO", ""),
        Some(By::Route) => ("TO", "RULE"),
    };
    let headings = [
        (first, Side::Left),
        (second, Side::Left),
        ("SUCCESS", Side::Right),
        ("RPS", Side::Right),
        ("P50", Side::Right),
        ("P95", Side::Right),
        ("P99", Side::Right),
        ("RETRIES/S", Side::Right),
        ("OPEN BREAKERS", Side::Right),
    ];
    text + &table(headings, &rows)
}

fn row(line: &Line, elapsed: Duration) -> [String; 9] {
    let quantile = |share| line.quantile(share).map_or_else(|| "-".to_owned(), time);
    let rate = |count: u64| {
        #[expect(clippy::cast_precision_loss, reason = "a rate is rounded to a tenth")]
        let rate = count as f64 / elapsed.as_secs_f64().max(1e-3);
        format!("{rate:.1}")
    };
    let success = line.success().map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", 100.0 * share));
    [
        line.key.0.clone(),
        line.key.1.clone(),
        success,
        rate(line.counted.requests),
        quantile(0.5),
        quantile(0.95),
        quantile(0.99),
        rate(line.retries),
        line.open_breakers.to_string(),
    ]
}
