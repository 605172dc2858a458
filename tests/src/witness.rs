//! Who tells how a request ended: client, access log, metrics, `/explain` and spans. All must name the same flag.
//!
//! What a client must have seen is taken from the texts of the flags themselves, so that they cannot promise what does
//! not happen. A further witness is one more line of [`WITNESSES`].

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use pillion_xds::flag::{Answer, Flag};
use serde_json::Value;

use crate::{AccessLog, Collector, Reply, Sidecar, eventually};

/// A request that has ended.
#[derive(Debug)]
pub struct Case<'a> {
    /// How it must have ended.
    pub flag: Flag,
    /// Its `x-request-id`; absent where none of it could be read.
    pub id: Option<&'a str>,
    /// What its client saw.
    pub seen: Seen,
    /// The sidecar it ended at.
    pub sidecar: &'a Sidecar,
    /// The log of that.
    pub log: &'a AccessLog,
    /// Where it sends its spans.
    pub collector: &'a Collector,
}

/// What a client saw.
#[derive(Debug)]
pub enum Seen {
    /// A whole response: its status, and `x-pillion-error`, empty if absent.
    Response(u16, String),
    /// No response, or a part of one.
    CutOff,
}

type Testimony = for<'a> fn(&'a Case<'a>) -> BoxFuture<'a, Result<()>>;

/// All who are asked, about every case.
pub const WITNESSES: &[(&str, Testimony)] = &[
    ("the client", |case| async move { client(case) }.boxed()),
    ("the access log", |case| access_log(case).boxed()),
    ("the metrics", |case| metrics(case).boxed()),
    ("/explain", |case| explain(case).boxed()),
    ("the span", |case| span(case).boxed()),
];

impl Case<'_> {
    /// Asks all witnesses.
    pub async fn prove(&self) -> Result<()> {
        for (name, testimony) in WITNESSES {
            let said = testimony(self).await;
            said.with_context(|| format!("{} of {:?}: {name}", self.flag.as_str(), self.id))?;
        }
        Ok(())
    }
}

impl Seen {
    /// What a client at the level of bytes saw.
    pub fn bytes(text: &str) -> Self {
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let error = text.lines().find_map(|line| line.strip_prefix("x-pillion-error: "));
        status.map_or(Self::CutOff, |status| Self::Response(status, error.unwrap_or_default().to_owned()))
    }
}

impl From<&Reply> for Seen {
    fn from(reply: &Reply) -> Self {
        Self::Response(reply.status.as_u16(), reply.header("x-pillion-error").to_owned())
    }
}

fn client(case: &Case<'_>) -> Result<()> {
    let code = case.flag.as_str();
    match (case.flag.explanation().answer, &case.seen) {
        (Answer::CutOff, Seen::CutOff) => Ok(()),
        (Answer::Passed, Seen::Response(_, error)) => {
            ensure!(error.is_empty(), "the response of the app is marked: {error}");
            Ok(())
        }
        (answer @ (Answer::Own(..) | Answer::Worded), Seen::Response(status, error)) => {
            let (flag, cause) = error.split_once("; ").unwrap_or_default();
            ensure!(flag == code && !cause.is_empty(), "x-pillion-error is {error:?}");
            if let Answer::Own(statuses, _) = answer {
                ensure!(statuses.contains(status), "the status is {status}, not one of {statuses:?}");
            }
            Ok(())
        }
        (answer, seen) => Err(anyhow::anyhow!("{answer:?} promised, {seen:?} seen")),
    }
}

async fn access_log(case: &Case<'_>) -> Result<()> {
    let code = case.flag.as_str();
    let line = match case.id {
        Some(id) => case.log.line_of(id).await?,
        None => {
            eventually("a line with the flag", || async {
                let found = case.log.lines()?.into_iter().find(|line| line.flags == code);
                found.context("none yet")
            })
            .await?
        }
    };
    ensure!(line.flags == code, "the line is {line:?}");
    if let (Answer::Own(..) | Answer::Worded, None) = (case.flag.explanation().answer, &line.cause) {
        return Err(anyhow::anyhow!("no cause in {line:?}"));
    }
    Ok(())
}

async fn metrics(case: &Case<'_>) -> Result<()> {
    eventually("a count of the flag", || async {
        let metrics = case.sidecar.metrics().await?;
        let count = metrics.sum("istio_requests_total", &[("response_flags", case.flag.as_str())]);
        ensure!(count >= 1.0, "{count} counted");
        Ok(())
    })
    .await
}

/// Of what never became a request there is no story. Of what went well there is one now and then.
async fn explain(case: &Case<'_>) -> Result<()> {
    let Some(id) = case.id.filter(|_| case.flag != Flag::None) else { return Ok(()) };
    eventually("a story", || async {
        let told: Value = serde_json::from_str(&case.sidecar.page(&format!("/explain/{id}")).await?)?;
        let flag = told.pointer("/0/flag").and_then(Value::as_str);
        ensure!(flag == Some(case.flag.as_str()), "the story is {told}");
        Ok(())
    })
    .await
}

/// What never became a request belongs to no trace.
async fn span(case: &Case<'_>) -> Result<()> {
    let Some(id) = case.id else { return Ok(()) };
    let code = Some(case.flag).filter(|flag| *flag != Flag::None).map_or("", Flag::as_str);
    eventually("a span", || async {
        let spans = case.collector.spans();
        let found = spans.iter().find(|span| span.attribute("pillion.request_id") == id);
        let flag = found.context("none yet")?.attribute("pillion.flag");
        ensure!(flag == code, "its flag is {flag:?}");
        Ok(())
    })
    .await
}
