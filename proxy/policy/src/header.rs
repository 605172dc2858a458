//! Header fields in policy, and the edits a route makes to them.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::Invalid;

/// A field to write: name and value, both valid on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "(String, String)", into = "(String, String)")]
pub struct Field {
    /// Name of the field, in lower case.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
}

impl Field {
    /// Checks both parts against the grammar of RFC 9110 §5.
    pub fn new(name: &str, value: &str) -> Result<Self, Invalid> {
        let name = self::name(name)?;
        let value = HeaderValue::from_str(value).map_err(|_| {
            Invalid::new(format!("{value:?} is not a header value: it holds a control character"))
        })?;
        Ok(Self { name, value })
    }
}

/// Parses a field name.
pub fn name(name: &str) -> Result<HeaderName, Invalid> {
    HeaderName::try_from(name).map_err(|_| Invalid::new(format!("{name:?} is not a header name")))
}

/// Changes to a set of header fields, made in the order remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edits {
    /// Fields to drop.
    #[serde(with = "names_text")]
    pub remove: Vec<HeaderName>,
    /// Fields to write in place of what is there.
    pub set: Vec<Field>,
    /// Fields to append to what is there.
    pub add: Vec<Field>,
}

impl Edits {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for field in &self.set {
            headers.insert(field.name.clone(), field.value.clone());
        }
        for field in &self.add {
            headers.append(field.name.clone(), field.value.clone());
        }
    }
}

impl TryFrom<(String, String)> for Field {
    type Error = Invalid;

    fn try_from((name, value): (String, String)) -> Result<Self, Invalid> {
        Self::new(&name, &value)
    }
}

impl From<Field> for (String, String) {
    fn from(field: Field) -> Self {
        (field.name.as_str().to_owned(), String::from_utf8_lossy(field.value.as_bytes()).into_owned())
    }
}

/// Serde of one header name as text.
pub(crate) mod name_text {
    use http::HeaderName;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(name: &HeaderName, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(name.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<HeaderName, D::Error> {
        super::name(&String::deserialize(input)?).map_err(D::Error::custom)
    }
}

/// Serde of a header name that may be absent.
pub(crate) mod optional_name_text {
    use http::HeaderName;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(name: &Option<HeaderName>, out: S) -> Result<S::Ok, S::Error> {
        name.as_ref().map(HeaderName::as_str).serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<HeaderName>, D::Error> {
        let name = Option::<String>::deserialize(input)?;
        name.map(|name| super::name(&name)).transpose().map_err(D::Error::custom)
    }
}

/// Serde of a list of header names as text.
pub(crate) mod names_text {
    use http::HeaderName;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(names: &[HeaderName], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(names.iter().map(HeaderName::as_str))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<HeaderName>, D::Error> {
        let names = Vec::<String>::deserialize(input)?;
        names.iter().map(|name| super::name(name).map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_remove_then_set_then_add() {
        let mut headers = HeaderMap::new();
        headers.append("a", HeaderValue::from_static("1"));
        headers.append("a", HeaderValue::from_static("2"));
        headers.append("gone", HeaderValue::from_static("x"));
        let edits = Edits {
            remove: vec![HeaderName::from_static("gone")],
            set: vec![Field::new("A", "3").unwrap()],
            add: vec![Field::new("a", "4").unwrap()],
        };
        edits.apply(&mut headers);
        let values: Vec<_> = headers.get_all("a").iter().collect();
        assert_eq!(values, ["3", "4"]);
        assert!(!headers.contains_key("gone"));
    }

    #[test]
    fn bad_fields_are_refused() {
        assert!(Field::new("a b", "x").is_err());
        assert!(Field::new("a", "x\r\ny: z").is_err());
    }
}
