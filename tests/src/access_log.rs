//! The access log of a sidecar, read as it is written.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use crate::wait::eventually;

/// An access log in JSON, removed when dropped.
#[derive(Debug)]
pub struct AccessLog {
    path: PathBuf,
    _dir: TempDir,
}

/// What tests look at in a line.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// From the head of the request to the end of the response, in milliseconds.
    pub duration_ms: f64,
    /// The status answered.
    pub status: u16,
    /// The response flag, `-` for none.
    pub flags: String,
    /// What the proxy says it did, or did not do.
    pub cause: Option<String>,
    /// The AUDIT policies that match it.
    pub audit: Option<String>,
    /// The request's id.
    pub request_id: Option<String>,
    /// The cluster it was sent to.
    pub cluster: Option<String>,
}

impl AccessLog {
    /// A log that nobody writes yet.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pillion-log-").tempdir();
        let dir = dir.context("cannot make a directory for the log")?;
        Ok(Self { path: dir.path().join("access.log"), _dir: dir })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lines written so far.
    pub fn lines(&self) -> Result<Vec<Line>> {
        let text = std::fs::read_to_string(&self.path)?;
        // The last line may be only half written yet.
        let whole = text.rfind('\n').and_then(|end| text.get(..end)).unwrap_or("");
        whole
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not a log line: {line}")))
            .collect()
    }

    /// The line of the request with this `x-request-id`, once it is written.
    pub async fn line_of(&self, id: &str) -> Result<Line> {
        eventually(&format!("a log line of {id}"), || async {
            let found = self.lines()?.into_iter().find(|line| line.request_id.as_deref() == Some(id));
            found.with_context(|| format!("no line of {id}"))
        })
        .await
    }

    /// All lines, once there are as many as wanted.
    pub async fn at_least(&self, count: usize) -> Result<Vec<Line>> {
        eventually("access log lines", || async {
            let lines = self.lines()?;
            ensure!(lines.len() >= count, "{} of {count} lines", lines.len());
            Ok(lines)
        })
        .await
    }
}
