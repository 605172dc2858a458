//! Attributes of OTLP, and the longest value one may have: what peers send must not fill a collector.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};

/// Longest text of an attribute in bytes; the rest is cut off.
pub const LONGEST: usize = 1024;

/// A text.
pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(cut(value).to_owned()))
}

/// A whole number.
pub fn number(key: &str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

/// A number that may be beyond what the format can carry, where it ends.
pub fn size(key: &str, value: u64) -> KeyValue {
    number(key, i64::try_from(value).unwrap_or(i64::MAX))
}

/// A fraction.
pub fn fraction(key: &str, value: f64) -> KeyValue {
    attribute(key, Value::DoubleValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// The longest beginning of `text` that is allowed and ends with a whole character.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_end_with_a_whole_character() {
        let long = "é".repeat(LONGEST);
        let Some(Value::StringValue(kept)) = text("k", &format!("x{long}")).value.unwrap().value else {
            panic!("no text");
        };
        assert_eq!(kept, format!("x{}", "é".repeat((LONGEST - 1) / 2)));
        assert_eq!(cut("short"), "short");
        assert_eq!(size("k", u64::MAX), number("k", i64::MAX));
    }
}
