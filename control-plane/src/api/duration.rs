//! Durations as Kubernetes and Istio write them: `10s`, `1.5h`, `1m30s`, `250ms`.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// Longest duration accepted: ten years. Longer ones are mistakes, and this keeps every sum in range.
const MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A length of time, never negative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiDuration(pub(crate) Duration);

impl<'de> Deserialize<'de> for ApiDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = ApiDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 1.5s")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ApiDuration, E> {
                parse(text).map(ApiDuration).map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<ApiDuration, E> {
                Err(E::custom(format!("{number} has no unit, write for example {number}s")))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<ApiDuration, E> {
                Err(E::custom(format!("{number} has no unit, write for example {number}s")))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// Reads a duration. An error says how to write one.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let malformed = || format!("{text:?} is not a duration, write for example 1.5s, 250ms or 1m30s");
    if text.starts_with('-') {
        return Err(format!("{text:?} is negative"));
    }
    let mut rest = text;
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(malformed());
    }
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.').ok_or_else(malformed)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(malformed()),
        };
        let number: f64 = number.parse().map_err(|_| malformed())?;
        seconds += number * scale;
        rest = tail;
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration <= MAX => Ok(duration),
        Ok(_) | Err(_) => Err(format!("{text:?} is longer than ten years")),
    }
}

#[cfg(test)]
mod tests;
