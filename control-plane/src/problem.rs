//! What is wrong with an object, or worth knowing about it, and exactly where.
//!
//! A [`Report`] follows the reader through one object: it knows the path of the field being read, so that nobody who
//! finds a mistake has to spell out where. A [`Problem`] is a finding with the object, file and line around it: the one
//! form that `pillion validate`, `/status` and the log show.

use std::fmt;

use pillion_policy::Invalid;
use serde::{Deserialize, Serialize};

use crate::yaml::{Node, Value};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object, or the part named, is not used as written.
    Error,
    /// It is used, but probably does not do what its author expects.
    Warning,
    /// Nothing is wrong; something is left to others.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// One step of a path into an object.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Key(Box<str>),
    Index(usize),
}

/// The place of a field, as in `spec.http[0].route[1].weight`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Path(Vec<Segment>);

impl Path {
    /// The line in `document` of the deepest part of the path that exists there.
    pub(crate) fn line_in(&self, document: &Node) -> u32 {
        let mut line = document.line;
        let mut node = document;
        for segment in &self.0 {
            let (at, next) = match (segment, &node.value) {
                (Segment::Key(key), Value::Map(_)) => match node.entry(key) {
                    Some(entry) => (entry.line, &entry.node),
                    None => break,
                },
                (Segment::Index(index), Value::List(items)) => match items.get(*index) {
                    Some(item) => (item.line, item),
                    None => break,
                },
                _ => break,
            };
            line = at;
            node = next;
        }
        line
    }

    /// The path that is written as `text`, as in `spec.hosts[0]`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut path = Self::default();
        path.push_text(text);
        path
    }

    /// Whether the other path is this one or stands below it.
    fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// The path of the field `key` below this one.
    #[must_use]
    pub(crate) fn then(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Segment::Key(key.into()));
        path
    }

    fn push_text(&mut self, text: &str) {
        for part in text.split('.').filter(|part| !part.is_empty()) {
            let mut pieces = part.split('[');
            if let Some(key) = pieces.next().filter(|key| !key.is_empty()) {
                self.0.push(Segment::Key(key.into()));
            }
            for index in pieces.filter_map(|piece| piece.trim_end_matches(']').parse().ok()) {
                self.0.push(Segment::Index(index));
            }
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if position == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// One remark about a field of the object being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) severity: Severity,
    /// Which field.
    pub(crate) path: Path,
    /// What is the matter, and what to do where that is known.
    pub(crate) reason: String,
}

/// Collects the findings of one object while it is read.
#[derive(Debug, Default)]
pub(crate) struct Report {
    path: Path,
    findings: Vec<Finding>,
    /// Values of the wrong type, which are read as if they were not there.
    wrong: Vec<Finding>,
}

impl Report {
    /// Reads something below the field `key`.
    pub(crate) fn field<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.below(Segment::Key(key.into()), read)
    }

    /// Reads the list item at `index`.
    pub(crate) fn item<T>(&mut self, index: usize, read: impl FnOnce(&mut Self) -> T) -> T {
        self.below(Segment::Index(index), read)
    }

    fn below<T>(&mut self, segment: Segment, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.0.push(segment);
        let result = read(self);
        self.path.0.pop();
        result
    }

    /// The path of the present field.
    pub(crate) fn here(&self) -> Path {
        self.path.clone()
    }

    /// Notes that the present field cannot be used.
    pub(crate) fn error(&mut self, reason: impl Into<String>) {
        self.push(Severity::Error, self.path.clone(), reason.into());
    }

    /// Notes that the present field probably does not do what is expected.
    pub(crate) fn warn(&mut self, reason: impl Into<String>) {
        self.push(Severity::Warning, self.path.clone(), reason.into());
    }

    /// Notes something about the present field that is good to know.
    pub(crate) fn info(&mut self, reason: impl Into<String>) {
        self.push(Severity::Info, self.path.clone(), reason.into());
    }

    /// Keeps a value of the policy model, or notes why there is none.
    pub(crate) fn accept<T>(&mut self, result: Result<T, Invalid>) -> Option<T> {
        result
            .map_err(|invalid| {
                let mut path = self.path.clone();
                path.push_text(invalid.at());
                self.push(Severity::Error, path, invalid.reason().to_owned());
            })
            .ok()
    }

    /// Notes that the present field holds a value of the wrong type.
    pub(crate) fn wrong(&mut self, reason: String) {
        self.wrong.push(Finding { severity: Severity::Error, path: self.path.clone(), reason });
    }

    /// How many values of the wrong type were found.
    pub(crate) fn wrong_count(&self) -> usize {
        self.wrong.len()
    }

    /// Whether the value at the field `key` has the wrong type.
    pub(crate) fn is_wrong_field(&mut self, key: &str) -> bool {
        !self.wrong.is_empty() && self.field(key, |report| report.is_wrong())
    }

    /// Whether the list item at `index` has the wrong type.
    pub(crate) fn is_wrong_item(&mut self, index: usize) -> bool {
        !self.wrong.is_empty() && self.item(index, |report| report.is_wrong())
    }

    fn is_wrong(&self) -> bool {
        self.wrong.iter().any(|finding| finding.path == self.path)
    }

    /// How many other findings there are, to go back to by [`Report::rewind`].
    pub(crate) fn mark(&self) -> usize {
        self.findings.len()
    }

    /// Forgets what was found since the mark, except values of the wrong type: it will be found again.
    pub(crate) fn rewind(&mut self, mark: usize) {
        self.findings.truncate(mark);
    }

    /// What is said of a field around a value of the wrong type may be due to the absence of that value alone.
    fn push(&mut self, severity: Severity, path: Path, reason: String) {
        if !self.wrong.iter().any(|finding| path.holds(&finding.path)) {
            self.findings.push(Finding { severity, path, reason });
        }
    }

    /// Whether anything found forbids the use of the object.
    pub(crate) fn has_errors(&self) -> bool {
        !self.wrong.is_empty() || self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// All findings.
    pub(crate) fn into_findings(self) -> Vec<Finding> {
        let mut all = self.wrong;
        all.extend(self.findings);
        all
    }
}

/// A finding with everything needed to go and mend it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// `Kind namespace/name`; empty when it concerns a whole file.
    pub object: String,
    /// The file the object stands in.
    pub file: String,
    /// The line in that file, counted from 1.
    pub line: u32,
    /// The field; empty when it concerns the object as a whole.
    pub path: String,
    /// What is the matter.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: ", self.file, self.line, self.severity)?;
        if !self.object.is_empty() {
            write!(f, "{} ", self.object)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

/// Puts problems in the order in which people go through files.
pub(crate) fn sort(problems: &mut [Problem]) {
    problems.sort_by(|a, b| {
        (&a.file, a.line, &a.path, a.severity, &a.reason)
            .cmp(&(&b.file, b.line, &b.path, b.severity, &b.reason))
    });
}

/// The known word that `word` was probably meant to be.
pub(crate) fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&folded, &candidate.to_lowercase()), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(word.len()) / 3).clamp(1, 3))
        .map(|(_, candidate)| candidate)
}

/// `unknown field "x"`, with what was probably meant.
pub(crate) fn unknown<'a>(what: &str, word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match suggestion(word, known) {
        Some(meant) => format!("unknown {what} {word:?}, did you mean {meant:?}?"),
        None => format!("unknown {what} {word:?}"),
    }
}

#[cfg(test)]
mod tests;
