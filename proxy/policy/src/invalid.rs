//! What is said when a value is refused: where, and why.
//!
//! Constructors return one [`Invalid`]; whoever builds a whole object collects them in [`Problems`] so that a user
//! sees every mistake at once instead of one per attempt.

use std::fmt;

/// One refused value: the field it stands in and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}{reason}", At(.at))]
pub struct Invalid {
    at: String,
    reason: String,
}

struct At<'a>(&'a str);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

impl Invalid {
    /// Refuses a value whose place is not known here; the caller adds it with [`Invalid::within`].
    pub fn new(reason: impl Into<String>) -> Self {
        Self { at: String::new(), reason: reason.into() }
    }

    /// Puts `field` in front of the path: `new("…").within("b").within("a")` stands at `a.b`.
    #[must_use]
    pub fn within(mut self, field: &str) -> Self {
        if self.at.is_empty() {
            field.clone_into(&mut self.at);
        } else if self.at.starts_with('[') {
            self.at.insert_str(0, field);
        } else {
            self.at.insert(0, '.');
            self.at.insert_str(0, field);
        }
        self
    }

    /// Puts an index in front of the path, as in `[3].weight`.
    #[must_use]
    pub fn at_index(self, index: usize) -> Self {
        self.within(&format!("[{index}]"))
    }

    /// The path of the refused field; empty when the value is refused as a whole.
    pub fn at(&self) -> &str {
        &self.at
    }

    /// Why the value is refused.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Everything that is wrong with an object, in the order it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<Invalid>);

impl Problems {
    /// Notes one more problem.
    pub fn push(&mut self, invalid: Invalid) {
        self.0.push(invalid);
    }

    /// Keeps the value of a result, or notes its problem below `field`.
    pub fn collect<T>(&mut self, field: &str, result: Result<T, Invalid>) -> Option<T> {
        result.map_err(|invalid| self.push(invalid.within(field))).ok()
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problems found so far.
    pub fn iter(&self) -> std::slice::Iter<'_, Invalid> {
        self.0.iter()
    }
}

impl IntoIterator for Problems {
    type Item = Invalid;
    type IntoIter = std::vec::IntoIter<Invalid>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, invalid) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{invalid}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_grow_outward() {
        let invalid = Invalid::new("too small").within("weight").at_index(2).within("route").within("spec");
        assert_eq!(invalid.to_string(), "spec.route[2].weight: too small");
        assert_eq!(Invalid::new("empty").to_string(), "empty");
    }
}
