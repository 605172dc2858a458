//! Regular expressions in policy: linear time (RE2 syntax as the `regex` crate speaks it), compared by their source.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::Invalid;

/// Bound on a compiled expression: large enough for real rules, small enough that a hundred of them do not matter.
const SIZE_LIMIT: usize = 1 << 20;

/// A compiled regular expression.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    source: String,
    whole: Regex,
    part: Regex,
}

impl Pattern {
    /// Compiles `source`.
    pub fn new(source: &str) -> Result<Self, Invalid> {
        let compile = |text: &str| {
            RegexBuilder::new(text).size_limit(SIZE_LIMIT).build().map_err(|error| {
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or("does not compile").trim_start_matches("error: ");
                Invalid::new(format!("{source:?} is not a regular expression (RE2 syntax): {reason}"))
            })
        };
        let part = compile(source)?;
        Ok(Self { source: source.to_owned(), whole: compile(&format!("^(?:{source})$"))?, part })
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `text` matches, as Istio's StringMatch asks.
    pub fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }

    /// Replaces every match inside `text`; `substitution` refers to groups by `\1` as RE2 does.
    pub fn replace(&self, text: &str, substitution: &Substitution) -> String {
        self.part.replace_all(text, substitution.0.as_str()).into_owned()
    }
}

/// What a match is replaced by: text in which `\0` to `\9` name groups and `\\` is a backslash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Substitution(String, String);

impl Substitution {
    /// Reads an RE2 rewrite string.
    pub fn new(source: &str) -> Result<Self, Invalid> {
        let mut expanded = String::with_capacity(source.len() + 8);
        let mut chars = source.chars();
        while let Some(char) = chars.next() {
            match char {
                '$' => expanded.push_str("$$"),
                '\\' => match chars.next() {
                    Some(digit @ '0'..='9') => {
                        expanded.push_str("${");
                        expanded.push(digit);
                        expanded.push('}');
                    }
                    Some('\\') => expanded.push('\\'),
                    Some(other) => {
                        return Err(Invalid::new(format!(
                            "\\{other} is not a group: write \\0 to \\9 or \\\\"
                        )));
                    }
                    None => return Err(Invalid::new("ends in a lone backslash")),
                },
                other => expanded.push(other),
            }
        }
        Ok(Self(expanded, source.to_owned()))
    }

    /// The substitution as it was written.
    pub fn as_str(&self) -> &str {
        &self.1
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

impl TryFrom<String> for Pattern {
    type Error = Invalid;

    fn try_from(source: String) -> Result<Self, Invalid> {
        Self::new(&source)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.source
    }
}

impl TryFrom<String> for Substitution {
    type Error = Invalid;

    fn try_from(source: String) -> Result<Self, Invalid> {
        Self::new(&source)
    }
}

impl From<Substitution> for String {
    fn from(substitution: Substitution) -> Self {
        substitution.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_is_anchored_and_replacing_is_not() {
        let pattern = Pattern::new("/api/(v[0-9])").unwrap();
        assert!(pattern.matches("/api/v1"));
        assert!(!pattern.matches("/api/v1/users") && !pattern.matches("x/api/v1"));
        let substitution = Substitution::new(r"/\1/$x").unwrap();
        assert_eq!(pattern.replace("/api/v1/users", &substitution), "/v1/$x/users");
    }

    #[test]
    fn alternatives_are_anchored_as_a_whole() {
        assert!(!Pattern::new("a|b").unwrap().matches("ab"));
    }

    #[test]
    fn bad_expressions_are_refused() {
        for bad in ["(", "a)(b", "[z-a]", &"x{1000}".repeat(5000)] {
            assert!(Pattern::new(bad).is_err(), "{bad:.20}");
        }
        for bad in [r"\x", "\\"] {
            assert!(Substitution::new(bad).is_err(), "{bad}");
        }
    }
}
