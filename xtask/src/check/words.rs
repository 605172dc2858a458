//! Words that have no place in the repository: paths of one machine, notes to self, `allow`.
//!
//! The list is spelt in halves, so that this file passes its own check.

use super::Problems;
use crate::workspace::Source;

/// The word, the ending of the files it is looked for in, and the reason.
const WORDS: &[(&str, &str, &str)] = &[
    (concat!("/ro", "ot/"), "", "a path of one machine"),
    (concat!("/wo", "rk/"), "", "a path of one machine"),
    (concat!("/tmp/", "target"), "", "a path of one machine"),
    (concat!("TO", "DO"), ".rs", "a note to self: finish it, or describe what is missing in the docs"),
    (concat!("FIX", "ME"), ".rs", "a note to self: finish it, or describe what is missing in the docs"),
    (concat!("unimpl", "emented!("), ".rs", "a stub"),
    (concat!("#[al", "low("), ".rs", "exceptions are `#[expect(lint, reason = ..)]`"),
    (concat!("#![al", "low("), ".rs", "exceptions are `#[expect(lint, reason = ..)]`"),
];

/// Looks for each word in each file that people write.
pub(super) fn check(sources: &[Source]) -> Problems {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| !source.is_generated()) {
        for (number, line) in source.text.lines().enumerate() {
            for (word, ending, reason) in WORDS {
                if source.path.ends_with(ending) && line.contains(word) {
                    problems.push(format!("{}:{}: `{word}`: {reason}", source.path, number + 1));
                }
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests;
