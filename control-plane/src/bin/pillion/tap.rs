//! `pillion tap`: requests as they end, one line for each.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use pillion_control_plane::{Line, Told, lifetime};

use crate::{
    ask::{From, Proof, encoded},
    table::time,
};

/// Which requests to show.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Requests to this service
    #[arg(long, value_name = "SERVICE")]
    to: Option<String>,

    /// Requests of this workload
    #[arg(long = "from", value_name = "WORKLOAD")]
    from_workload: Option<String>,

    /// Requests that end with this status: 404, or 5xx for all of its class
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,

    /// Requests that end with this response flag: UF, BRK and so on
    #[arg(long, value_name = "FLAG")]
    flag: Option<String>,

    /// Requests whose path begins like this
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,

    /// Requests with this method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,

    /// Stop after so many requests
    #[arg(long, value_name = "N")]
    limit: Option<u32>,

    /// Stop after this time, ten minutes at most
    #[arg(long = "for", value_name = "TIME", value_parser = lifetime)]
    time: Option<Duration>,

    /// Print JSON, one text on each line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    from: From,

    #[command(flatten)]
    proof: Proof,
}

/// Shows requests until there are no more to be shown, or nobody reads.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    let shown = args.from.follow(&path(args), &args.proof, |text| {
        let line = if args.json { text.to_owned() } else { render(text)? };
        let written = writeln!(out, "{line}").and_then(|()| out.flush());
        match written {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            written => Ok(written.map(|()| true)?),
        }
    });
    shown.map(|()| ExitCode::SUCCESS)
}

/// The page that tells of what is asked for.
fn path(args: &Args) -> String {
    let given = [
        ("to", args.to.clone()),
        ("from", args.from_workload.clone()),
        ("status", args.status.clone()),
        ("flag", args.flag.clone()),
        ("path", args.path.clone()),
        ("method", args.method.clone()),
        ("limit", args.limit.map(|limit| limit.to_string())),
        ("for", args.time.map(|time| format!("{}s", time.as_secs().max(1)))),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(&value?))));
    format!("/tap?{}", given.collect::<Vec<_>>().join("&"))
}

fn render(text: &str) -> Result<String> {
    let line = serde_json::from_str(text).context("the control plane's answer is of another version")?;
    Ok(match line {
        Line::Note { note } => format!("({note})"),
        Line::Told(told) => one_line(&told),
    })
}

/// A request on one line.
fn one_line(told: &Told) -> String {
    let story = &told.story;
    // The day is today.
    let clock = story.start.get(11..23).unwrap_or(&story.start);
    let way = if story.direction == "inbound" { "<-" } else { "->" };
    let mut line = format!(
        "{clock} {} {way} {} {}{} {}",
        told.told_by, story.method, story.authority, story.path, story.status
    );
    if let Some(status) = story.grpc_status {
        line.push_str(&format!(" grpc {status}"));
    }
    if !story.flag.is_empty() && story.flag != "-" {
        line.push_str(&format!(" {}", story.flag));
    }
    line.push_str(&format!(" {}", time(story.duration_ms)));
    if story.attempts.len() > 1 {
        line.push_str(&format!(" {} tries", story.attempts.len()));
    }
    line.push_str(&format!(" {}", story.request_id));
    if let Some(cause) = &story.cause {
        line.push_str(&format!(" ({cause})"));
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn what_is_asked_for_stands_in_the_address() {
        let asked = |args: &[&str]| path(&Cli::parse_from([&["tap"], args].concat()).args);
        assert_eq!(asked(&[]), "/tap?");
        assert_eq!(
            asked(&[
                "--to", "order", "--from", "shop/web", "--status", "5xx", "--path", "/a b", "--for", "1m"
            ]),
            "/tap?to=order&from=shop%2Fweb&status=5xx&path=%2Fa%20b&for=60s"
        );
        assert_eq!(
            asked(&["--flag", "UF", "--method", "GET", "--limit", "3"]),
            "/tap?flag=UF&method=GET&limit=3"
        );
    }

    #[test]
    fn a_request_is_one_line() {
        let text = r#"{"told_by":"default/web@127.0.1.1","depth":0,"request_id":"8a2c","proxy":"default/web",
            "start":"2026-11-21T12:00:01.123Z","direction":"outbound","method":"GET","authority":"order",
            "path":"/orders/7","status":503,"flag":"URX","cause":"refused","duration_ms":31.2,
            "attempts":[{},{}]}"#;
        assert_eq!(
            render(text).unwrap(),
            "12:00:01.123 default/web@127.0.1.1 -> GET order/orders/7 503 URX 31 ms 2 tries 8a2c (refused)"
        );
        let text = r#"{"told_by":"a/b","request_id":"x","start":"?","direction":"inbound","method":"POST",
            "authority":"s","path":"/p.S/M","status":200,"grpc_status":5,"flag":"-","duration_ms":0.25}"#;
        assert_eq!(render(text).unwrap(), "? a/b <- POST s/p.S/M 200 grpc 5 0.2 ms x");
        assert_eq!(render(r#"{"note":"3 more left out"}"#).unwrap(), "(3 more left out)");
        assert!(render("{").is_err());
    }
}
