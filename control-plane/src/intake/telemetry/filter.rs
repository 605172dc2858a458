//! Reads the filter of an access log: the part of CEL that a proxy can decide without an interpreter.
//!
//! ```text
//! any    := all { "||" all }            all := not { "&&" not }
//! not    := "!" not | "(" any ")" | test
//! test   := "has" "(" name ")" | name "." method "(" text ")" | name [ comparison value ]
//! ```
//!
//! What is beyond that is refused with its position and what is understood there. A request without a response has the
//! code 0. Depth is bounded, so that what is read here can travel.

use std::time::Duration;

use pillion_policy::{
    Invalid,
    telemetry::{Comparison, LogFilter},
};

use crate::api::duration;

/// Longest expression in bytes.
const MAX_LENGTH: usize = 4096;
/// How deep parentheses and negations may go.
const MAX_DEPTH: usize = 16;

/// What can be asked about.
const NAMES: [(&str, Subject); 9] = [
    ("response.code", Subject::Status),
    ("response.grpc_status", Subject::GrpcStatus),
    ("response.duration", Subject::Duration),
    ("request.duration", Subject::Duration),
    ("response.flags", Subject::Flags),
    ("request.method", Subject::Text(LogFilter::Method, None, None)),
    ("request.host", Subject::Text(LogFilter::HostIs, None, None)),
    (
        "request.url_path",
        Subject::Text(LogFilter::PathIs, Some(LogFilter::PathStartsWith), Some(LogFilter::PathContains)),
    ),
    ("connection.mtls", Subject::Secured),
];

/// How a text is made a filter.
type OfText = fn(String) -> LogFilter;

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
enum Subject {
    Status,
    GrpcStatus,
    Duration,
    Flags,
    Secured,
    /// How it is compared: as a whole, by its beginning, by what is in it.
    Text(OfText, Option<OfText>, Option<OfText>),
}

/// Reads an expression. The reason of an error names the character, counted from 1, and what could stand there.
pub(super) fn parse(text: &str) -> Result<LogFilter, Invalid> {
    if text.len() > MAX_LENGTH {
        return Err(Invalid::new(format!("it is longer than {MAX_LENGTH} bytes")));
    }
    let mut parser = Parser { text, at: 0, depth: 0 };
    let filter = parser.any()?;
    match parser.rest() {
        "" => Ok(filter),
        _ => Err(parser.expected("&&, || or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    /// How many bytes have been read.
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// What has not been read, without the blanks before it.
    fn rest(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed
    }

    fn expected(&mut self, what: &str) -> Invalid {
        let found: String = self.rest().chars().take(16).collect();
        let found = if found.is_empty() { "the end".to_owned() } else { format!("{found:?}") };
        let read = self.text.get(..self.at).unwrap_or_default();
        Invalid::new(format!("character {}: expected {what}, found {found}", read.chars().count() + 1))
    }

    /// Reads a sign, if it comes next.
    fn take(&mut self, sign: &str) -> bool {
        let comes = self.rest().starts_with(sign);
        if comes {
            self.at += sign.len();
        }
        comes
    }

    fn need(&mut self, sign: &str) -> Result<(), Invalid> {
        if self.take(sign) { Ok(()) } else { Err(self.expected(sign)) }
    }

    /// What a name or a number is made of, with the dots in it.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let is_part = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.');
        let word = rest.split(|char| !is_part(char)).next().unwrap_or_default();
        self.at += word.len();
        word
    }

    fn any(&mut self) -> Result<LogFilter, Invalid> {
        let mut parts = vec![self.all()?];
        while self.take("||") {
            parts.push(self.all()?);
        }
        Ok(single(parts, LogFilter::Any))
    }

    fn all(&mut self) -> Result<LogFilter, Invalid> {
        let mut parts = vec![self.not()?];
        while self.take("&&") {
            parts.push(self.not()?);
        }
        Ok(single(parts, LogFilter::All))
    }

    fn not(&mut self) -> Result<LogFilter, Invalid> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.expected(&format!("no more than {MAX_DEPTH} levels")));
        }
        let filter = if self.take("!") {
            LogFilter::Not(Box::new(self.not()?))
        } else if self.take("(") {
            let inner = self.any()?;
            self.need(")")?;
            inner
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn test(&mut self) -> Result<LogFilter, Invalid> {
        self.rest();
        let start = self.at;
        let word = self.word();
        if word == "has" {
            self.need("(")?;
            if !self.take("response.code") {
                return Err(self.expected("response.code"));
            }
            self.need(")")?;
            return Ok(LogFilter::Status(Comparison::NotEqual, 0));
        }
        self.at = start;
        let (name, subject) = self.name()?;
        if let Subject::Text(whole, beginning, part) = subject {
            return self.text_test(name, whole, beginning, part);
        }
        let Some(comparison) = self.comparison() else {
            return match subject {
                Subject::Secured => Ok(LogFilter::Secured),
                _ => Err(self.expected("one of ==, !=, <, <=, > and >=")),
            };
        };
        match subject {
            Subject::Status => Ok(LogFilter::Status(comparison, self.number()?)),
            Subject::GrpcStatus => Ok(LogFilter::GrpcStatus(comparison, self.number()?)),
            Subject::Duration => Ok(LogFilter::DurationMillis(comparison, self.millis()?)),
            Subject::Flags => self.flags(comparison),
            Subject::Secured | Subject::Text(..) => self.secured(comparison),
        }
    }

    /// A name that can be asked about; a method behind it is left.
    fn name(&mut self) -> Result<(&'static str, Subject), Invalid> {
        self.rest();
        let start = self.at;
        let word = self.word();
        for (name, subject) in NAMES {
            let method = word.strip_prefix(name);
            if method.is_some_and(|method| method.is_empty() || method.starts_with('.')) {
                self.at = start + name.len();
                return Ok((name, subject));
            }
        }
        self.at = start;
        let names = NAMES.map(|(name, _)| name).join(", ");
        Err(self.expected(&format!("one of {names}")))
    }

    fn comparison(&mut self) -> Option<Comparison> {
        // The longer signs first: they begin with the shorter ones.
        let signs = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        signs.into_iter().find(|(sign, _)| self.take(sign)).map(|(_, comparison)| comparison)
    }

    fn text_test(
        &mut self,
        name: &str,
        whole: OfText,
        beginning: Option<OfText>,
        part: Option<OfText>,
    ) -> Result<LogFilter, Invalid> {
        for (method, of_text) in [(".startsWith", beginning), (".contains", part)] {
            let Some(of_text) = of_text else { continue };
            if self.take(method) {
                self.need("(")?;
                let filter = of_text(self.literal()?);
                self.need(")")?;
                return Ok(filter);
            }
        }
        let start = self.at;
        match self.comparison() {
            Some(Comparison::Equal) => Ok(whole(self.literal()?)),
            Some(Comparison::NotEqual) => Ok(LogFilter::Not(Box::new(whole(self.literal()?)))),
            _ => {
                self.at = start;
                let methods = if beginning.is_some() { ", .startsWith(..) and .contains(..)" } else { "" };
                Err(self.expected(&format!("behind {name} one of == and !={methods}")))
            }
        }
    }

    fn flags(&mut self, comparison: Comparison) -> Result<LogFilter, Invalid> {
        let start = self.at;
        let flagged = match comparison {
            Comparison::NotEqual | Comparison::Greater => true,
            Comparison::Equal => false,
            Comparison::Less | Comparison::AtMost | Comparison::AtLeast => {
                return Err(self.expected("response.flags != 0 or response.flags == 0"));
            }
        };
        if self.number::<u64>()? != 0 {
            self.at = start;
            return Err(self.expected("0: single flags cannot be asked for"));
        }
        Ok(if flagged { LogFilter::Flagged } else { LogFilter::Not(Box::new(LogFilter::Flagged)) })
    }

    fn secured(&mut self, comparison: Comparison) -> Result<LogFilter, Invalid> {
        let start = self.at;
        let wanted = match (comparison, self.word()) {
            (Comparison::Equal, "true") | (Comparison::NotEqual, "false") => true,
            (Comparison::Equal, "false") | (Comparison::NotEqual, "true") => false,
            _ => {
                self.at = start;
                return Err(self.expected("== or != with true or false"));
            }
        };
        Ok(if wanted { LogFilter::Secured } else { LogFilter::Not(Box::new(LogFilter::Secured)) })
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, Invalid> {
        self.rest();
        let start = self.at;
        let word = self.word();
        word.parse().map_err(|_| {
            self.at = start;
            self.expected("a whole number in range")
        })
    }

    /// A time, or a number of milliseconds.
    fn millis(&mut self) -> Result<u64, Invalid> {
        self.rest();
        let start = self.at;
        if self.word() != "duration" {
            self.at = start;
            let number = self.number();
            return number.map_err(|_| {
                self.at = start;
                self.expected("duration('500ms') or a number of milliseconds")
            });
        }
        self.need("(")?;
        let start = self.at;
        let time: Duration = duration::parse(&self.literal()?).map_err(|reason| {
            self.at = start;
            self.expected(&format!("a time ({reason})"))
        })?;
        self.need(")")?;
        Ok(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    /// A text in quotes of either kind; a backslash makes the next character stand for itself.
    fn literal(&mut self) -> Result<String, Invalid> {
        let quote = ['\'', '"'].into_iter().find(|quote| self.rest().starts_with(*quote));
        let Some(quote) = quote else { return Err(self.expected("a text in quotes")) };
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((offset, char)) = chars.next() {
            match char {
                '\\' => match chars.next() {
                    Some((_, char @ ('\\' | '\'' | '"'))) => text.push(char),
                    _ => {
                        self.at += offset;
                        return Err(self.expected("behind a backslash only a quote or a backslash"));
                    }
                },
                _ if char == quote => {
                    self.at += offset + quote.len_utf8();
                    return Ok(text);
                }
                _ => text.push(char),
            }
        }
        Err(self.expected("the other quote"))
    }
}

/// One part stands for itself.
fn single(mut parts: Vec<LogFilter>, several: fn(Vec<LogFilter>) -> LogFilter) -> LogFilter {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            several(parts)
        }
        None => several(parts),
    }
}

#[cfg(test)]
mod tests;
