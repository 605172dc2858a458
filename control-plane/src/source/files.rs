//! The objects a set of files describes, kept through mistakes.
//!
//! A file that is not YAML keeps its last good content in force; an object with an error keeps its last good version;
//! a file with an object that does not even say its name removes nothing, because that object might be any of those
//! that were there. When two files describe the same object, the first by name wins. This module does no I/O: it is
//! given the text of files and says what that changes.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::Entry},
    sync::Arc,
};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::Update;
use crate::{
    intake::{Document, read_file},
    naming::Naming,
    object::{Event, Key, Stored},
    problem::{Problem, Severity},
};

/// The files and what is in force because of them.
#[derive(Debug)]
pub(crate) struct Files {
    naming: Naming,
    files: BTreeMap<Arc<str>, File>,
    in_force: FxHashMap<Key, Arc<Stored>>,
    /// Whether a file is new, different or gone since the last update.
    changed: bool,
}

#[derive(Debug, Default)]
struct File {
    documents: Vec<Document>,
    /// Why the documents are those of an earlier text.
    broken: Option<Problem>,
}

impl Files {
    pub(crate) fn new(naming: Naming) -> Self {
        Self { naming, files: BTreeMap::new(), in_force: FxHashMap::default(), changed: true }
    }

    /// Takes the present content of a file.
    pub(crate) fn put(&mut self, name: &str, content: impl AsRef<[u8]>) {
        let content = content.as_ref();
        let documents = match str::from_utf8(content) {
            Ok(text) => read_file(name, text, &self.naming),
            Err(error) => {
                let before = content.iter().take(error.valid_up_to());
                let line = before.filter(|byte| **byte == b'\n').count() + 1;
                let line = u32::try_from(line).unwrap_or(u32::MAX);
                Err(Box::new(file_problem(name, line, "not valid YAML: not UTF-8 text".to_owned())))
            }
        };
        match documents {
            Ok(documents) => {
                self.files.insert(name.into(), File { documents, broken: None });
                self.changed = true;
            }
            Err(problem) => self.broken(name, *problem),
        }
    }

    /// Notes that a file, or a directory, cannot be read; its content stays in force.
    pub(crate) fn unreadable(&mut self, name: &str, reason: &str) {
        self.broken(name, file_problem(name, 1, format!("cannot be read: {reason}")));
    }

    fn broken(&mut self, name: &str, problem: Problem) {
        let file = self.files.entry(name.into()).or_default();
        self.changed |= file.broken.as_ref() != Some(&problem);
        file.broken = Some(problem);
    }

    /// Forgets a file.
    pub(crate) fn remove(&mut self, name: &str) {
        self.changed |= self.files.remove(name).is_some();
    }

    /// What the files amount to now, compared with the last time this was asked; nothing when no file has changed.
    pub(crate) fn update(&mut self) -> Option<Update> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut problems = Vec::new();
        let mut next = FxHashMap::with_capacity_and_hasher(self.in_force.len(), FxBuildHasher);
        let mut nameless: BTreeSet<Arc<str>> = BTreeSet::new();
        for (name, file) in &self.files {
            problems.extend(file.broken.clone());
            for document in &file.documents {
                problems.extend(document.problems.iter().cloned());
                match &document.key {
                    Some(key) => {
                        let last = self.in_force.get(key).filter(|last| last.origin.file == *name);
                        if let Some(object) = document.object.as_ref().or(last) {
                            problems.extend(claim(&mut next, key, object));
                        }
                    }
                    None if document.relevant => {
                        nameless.insert(name.clone());
                    }
                    None => {}
                }
            }
        }
        for (key, stored) in &self.in_force {
            if nameless.contains(&stored.origin.file) {
                next.entry(key.clone()).or_insert_with(|| stored.clone());
            }
        }
        Some(Update { events: self.replace(next), problems, noticed: None })
    }

    /// The steps to what is in force next: first what goes, then what is new or different, each in the order of keys.
    fn replace(&mut self, next: FxHashMap<Key, Arc<Stored>>) -> Vec<Event> {
        let is_known = |key: &Key, stored: &Arc<Stored>| {
            self.in_force.get(key).is_some_and(|known| Arc::ptr_eq(known, stored))
        };
        let mut gone: Vec<&Key> = self.in_force.keys().filter(|key| !next.contains_key(*key)).collect();
        let mut changed: Vec<&Arc<Stored>> =
            next.iter().filter(|(key, stored)| !is_known(key, stored)).map(|(_, stored)| stored).collect();
        gone.sort_unstable();
        changed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let gone = gone.into_iter().map(|key| Event::Delete(key.clone()));
        let events = gone.chain(changed.into_iter().map(|stored| Event::Apply(stored.clone()))).collect();
        self.in_force = next;
        events
    }
}

fn file_problem(file: &str, line: u32, reason: String) -> Problem {
    Problem {
        severity: Severity::Error,
        object: String::new(),
        file: file.to_owned(),
        line,
        path: String::new(),
        reason,
    }
}

/// Puts an object under its key, unless another has it already.
fn claim(next: &mut FxHashMap<Key, Arc<Stored>>, key: &Key, object: &Arc<Stored>) -> Option<Problem> {
    match next.entry(key.clone()) {
        Entry::Vacant(free) => {
            free.insert(object.clone());
            None
        }
        Entry::Occupied(first) => {
            let origin = &first.get().origin;
            let place = format!("{}:{}", origin.file, origin.line);
            Some(object.problem(
                Severity::Error,
                &Default::default(),
                format!(
                    "not used: {place} describes the same object, and the first by file name and line wins"
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests;
