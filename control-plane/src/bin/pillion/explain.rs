//! `pillion explain`: the whole story of one request, hop by hop, or why requests have failed lately.
//!
//! What proxies tell is put into words here and nothing is added to it, so a text says as much as the JSON.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt::Write as _, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use pillion_control_plane::{Causes, Explanation, Silence, Told, lifetime};
use pillion_xds::{
    flag::Flag,
    story::{Attempt, Story},
};

use crate::{
    ask::{From, Proof, encoded},
    print,
    table::{Side, table, time},
};

/// What to explain.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The x-request-id of a request, or its trace id
    #[arg(value_name = "REQUEST_ID")]
    request_id: Option<String>,

    /// Without an id: since when
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = lifetime, conflicts_with = "request_id")]
    within: Duration,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    from: From,

    #[command(flatten)]
    proof: Proof,
}

/// Asks, and prints what is told.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = match &args.request_id {
        Some(id) => format!("/explain/{}", encoded(id)),
        None => format!("/explain?within={}s", args.within.as_secs().max(1)),
    };
    let text = args.from.fetch_with(&path, &args.proof)?;
    if args.request_id.is_none() {
        let causes: Causes = serde_json::from_str(&text).context(OTHER_VERSION)?;
        heard(&causes.silence)?;
        return print(if args.json { text } else { lately(&causes) });
    }
    let explanation: Explanation = serde_json::from_str(&text).context(OTHER_VERSION)?;
    heard(&explanation.silence)?;
    if explanation.stories.is_empty() {
        bail!("{}", forgotten(&explanation));
    }
    print(if args.json { text } else { in_words(&explanation) })
}

const OTHER_VERSION: &str = "the control plane's answer is of another version";

/// An error where there was nobody who could have answered.
fn heard(silence: &Silence) -> Result<()> {
    if silence.asked == 0 {
        bail!("no proxy is connected to the control plane, so nobody remembers anything");
    }
    if silence.silent.len() + silence.unattached.len() >= silence.asked {
        bail!("none of {} connected proxies has answered{}", silence.asked, unheard(silence));
    }
    Ok(())
}

/// That nobody remembers a request, and what would be remembered.
fn forgotten(explanation: &Explanation) -> String {
    let Explanation { request_id, silence, .. } = explanation;
    format!(
        "no proxy remembers request {request_id}: remembered are those that a proxy has answered itself, slow ones and a \
         sample of the others, the newest few hundred of each proxy and none from before it was started{}",
        unheard(silence)
    )
}

/// Who was not heard, to be added to something that was said.
fn unheard(silence: &Silence) -> String {
    let mut text = String::new();
    for (names, why) in [(&silence.silent, "not heard in time"), (&silence.unattached, "cannot be asked")] {
        if !names.is_empty() {
            text.push_str(&format!("; {why}: {}", names.join(", ")));
        }
    }
    if silence.left_out > 0 {
        text.push_str(&format!("; {} more were too much to be told", silence.left_out));
    }
    text
}

/// A line about who was not heard, where there is somebody.
fn remark(silence: &Silence) -> String {
    match unheard(silence).strip_prefix("; ") {
        Some(unheard) => format!("\n({unheard})\n"),
        None => String::new(),
    }
}

/// The story of a request.
fn in_words(explanation: &Explanation) -> String {
    let mut text = String::new();
    if let Some(Told { story, .. }) = explanation.stories.first() {
        text.push_str(&format!("request {}", story.request_id));
        if let Some(trace) = &story.trace_id {
            text.push_str(&format!(" of trace {trace}"));
        }
        text.push_str(&format!(", {}\n", story.start));
    }
    for told in &explanation.stories {
        text.push('\n');
        hop(&mut text, told);
    }
    text + &remark(&explanation.silence)
}

/// What one proxy tells.
fn hop(text: &mut String, Told { told_by, depth, story }: &Told) {
    let margin = "  ".repeat(*depth);
    let way = if story.direction == "inbound" { "in to" } else { "out of" };
    let (method, authority, path) = (&story.method, &story.authority, &story.path);
    text.push_str(&format!("{margin}{way} {told_by}: {method} {authority}{path} {}\n", ending(story)));
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{margin}  {name:<9} {value}");
    };
    for (name, value) in [
        ("client", &story.peer),
        ("caller", &story.source_principal),
        ("rule", &story.route),
        ("cluster", &story.cluster),
        ("callee", &story.destination_principal),
    ] {
        if let Some(value) = value {
            line(name, value);
        }
    }
    if story.policy_revision > 0 {
        line("policy", &format!("revision {}", story.policy_revision));
    }
    for event in &story.events {
        let detail = event.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        line("event", &format!("after {} {}{detail}", time(event.at_ms), event.what));
    }
    for (number, attempt) in story.attempts.iter().enumerate() {
        line(&format!("try {}", number + 1), &tried(attempt));
    }
    if let Some(reason) = &story.not_retried {
        line("no retry", reason);
    }
    if let Some(cause) = &story.cause {
        line("cause", cause);
    }
    if let Some(flag) = known(&story.flag) {
        line(flag.as_str(), flag.meaning());
        line("advice", flag.advice());
    }
}

/// A flag that says something, and that this version knows.
fn known(flag: &str) -> Option<Flag> {
    Flag::from_code(flag).filter(|flag| *flag != Flag::None)
}

/// How a request has ended.
fn ending(story: &Story) -> String {
    let status = if story.status == 0 { "no status".to_owned() } else { story.status.to_string() };
    let grpc = story.grpc_status.map(|status| format!(" grpc-status {status}")).unwrap_or_default();
    format!("-> {status}{grpc}{} in {}", flagged(&story.flag), time(story.duration_ms))
}

fn flagged(flag: &str) -> String {
    if flag.is_empty() || flag == "-" { String::new() } else { format!(" {flag}") }
}

/// How a try has ended, and what became of it.
fn tried(attempt: &Attempt) -> String {
    let mut text = format!("{} after {}", attempt.endpoint, time(attempt.at_ms));
    for (wait, what) in
        [(attempt.queue_ms, "in line"), (attempt.connect_ms, "connecting"), (attempt.tls_ms, "for TLS")]
    {
        if let Some(wait) = wait {
            text.push_str(&format!(", {} {what}", time(wait)));
        }
    }
    let result = match attempt.status {
        0 => "no response".to_owned(),
        status => status.to_string(),
    };
    let grpc = attempt.grpc_status.map(|status| format!(" grpc-status {status}")).unwrap_or_default();
    text.push_str(&format!(" -> {result}{grpc}{} in {}", flagged(&attempt.flag), time(attempt.duration_ms)));
    if let Some(cause) = &attempt.cause {
        text.push_str(&format!(" ({cause})"));
    }
    if !attempt.verdict.is_empty() {
        text.push_str(&format!("; {}", attempt.verdict));
    }
    if let Some(backoff) = attempt.backoff_ms {
        text.push_str(&format!(" after {}", time(backoff)));
    }
    text
}

/// Why requests have failed.
fn lately(causes: &Causes) -> String {
    let seconds = causes.within_seconds;
    let span =
        if seconds.is_multiple_of(60) { format!("{} min", seconds / 60) } else { format!("{seconds} s") };
    if causes.causes.is_empty() {
        return format!(
            "no proxy has answered a request itself in the last {span}\n{}",
            remark(&causes.silence)
        );
    }
    let rows = causes.causes.iter().map(|cause| {
        #[expect(clippy::cast_precision_loss, reason = "a share is rounded to a tenth of a percent")]
        let share = 100.0 * cause.count as f64 / causes.total.max(1) as f64;
        let to = if cause.to.is_empty() { "-" } else { &cause.to };
        [
            cause.flag.clone(),
            cause.count.to_string(),
            format!("{share:.1} %"),
            cause.from.clone(),
            to.to_owned(),
            cause.request_id.clone(),
            cause.cause.clone(),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let headings = [
        ("FLAG", Side::Left),
        ("COUNT", Side::Right),
        ("SHARE", Side::Right),
        ("FROM", Side::Left),
        ("TO", Side::Left),
        ("EXAMPLE", Side::Left),
        ("CAUSE", Side::Left),
    ];
    let mut text = format!("{} requests answered by proxies in the last {span}\n\n", causes.total);
    text.push_str(&table(headings, &rows));
    let flags: BTreeSet<&str> = causes.causes.iter().map(|cause| &*cause.flag).collect();
    for flag in flags.into_iter().filter_map(known) {
        text.push_str(&format!("\n{}: {} {}\n", flag.as_str(), flag.meaning(), flag.advice()));
    }
    text + &remark(&causes.silence)
}
