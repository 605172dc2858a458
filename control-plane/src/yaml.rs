//! YAML text to a tree of nodes that remember their lines.
//!
//! A file may hold several documents. Scalars keep their text and whether they were quoted, so that the schema decides
//! what they mean (`version: "1.10"` is a string, `version: 1.10` is a number) and not a guess made here. Anchors,
//! aliases and merge keys are resolved. Nothing in a file can make this module panic or use unbounded memory: depth,
//! nodes and the growth by aliases are limited. JSON is read as the YAML it is.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

/// Deepest nesting that is read; the deepest object users write has about twenty levels.
const MAX_DEPTH: usize = 64;
/// Most nodes that aliases and merge keys may add to one file.
const MAX_ALIASED_NODES: usize = 100_000;

/// A value and the line on which it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// First line of the value, counted from 1.
    pub(crate) line: u32,
    /// The value.
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A scalar. A plain (unquoted) one may mean a number, a boolean or null.
    Scalar {
        /// Its text, escapes resolved.
        text: Box<str>,
        /// Whether it was written without quotes.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the file; keys are unique.
    Map(Vec<Entry>),
}

/// One key of a mapping and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: Box<str>,
    /// The line of the key.
    pub(crate) line: u32,
    /// The value.
    pub(crate) node: Node,
}

/// Why a file is not YAML we can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(crate) struct SyntaxError {
    /// Where it was noticed, counted from 1.
    pub(crate) line: u32,
    /// What is wrong.
    pub(crate) reason: String,
}

impl SyntaxError {
    fn new(line: u32, reason: impl Into<String>) -> Self {
        Self { line, reason: reason.into() }
    }
}

impl From<ScanError> for SyntaxError {
    fn from(error: ScanError) -> Self {
        Self::new(line_number(error.marker().line()), error.info())
    }
}

impl Node {
    /// Whether the value is YAML's null: empty, `~` or `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(&**text, "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The value below `key`, when this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The entry named `key`, when this is a mapping that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| &*entry.key == key),
            Value::Scalar { .. } | Value::List(_) => None,
        }
    }

    /// Gives a mapping a text below `key` unless it has something there.
    pub(crate) fn add_if_absent(&mut self, key: &str, text: &str) {
        let line = self.line;
        if let Value::Map(entries) = &mut self.value
            && !entries.iter().any(|entry| &*entry.key == key)
        {
            let value = Value::Scalar { text: text.into(), plain: false };
            entries.push(Entry { key: key.into(), line, node: Self { line, value } });
        }
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// How the value is called in messages.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("{text:?}"),
        }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Scalar { .. } => 0,
            Value::List(items) => items.iter().map(Self::size).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.node.size()).sum(),
        }
    }

    fn depth(&self) -> usize {
        1 + match &self.value {
            Value::Scalar { .. } => 0,
            Value::List(items) => items.iter().map(Self::depth).max().unwrap_or(0),
            Value::Map(entries) => entries.iter().map(|entry| entry.node.depth()).max().unwrap_or(0),
        }
    }
}

/// Reads every document of `text`; empty documents are left out.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text.trim_start_matches('\u{feff}')),
        anchors: HashMap::new(),
        aliased: 0,
    };
    let mut documents = Vec::new();
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            event => {
                let node = reader.node(event, span, 0)?;
                if !node.is_null() {
                    documents.push(node);
                }
                reader.anchors.clear();
            }
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), SyntaxError> {
        match self.parser.next_event() {
            Some(event) => Ok(event?),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// Reads the node that starts with `event`; recursion ends at [`MAX_DEPTH`].
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, SyntaxError> {
        let line = line_number(span.start.line());
        if depth > MAX_DEPTH {
            return Err(SyntaxError::new(line, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, _) => (anchor, scalar(text, style)),
            Event::SequenceStart(anchor, _) => (anchor, Value::List(self.list(depth)?)),
            Event::MappingStart(anchor, _) => (anchor, Value::Map(self.map(depth)?)),
            Event::Alias(anchor) => return self.alias(anchor, line, depth),
            other => return Err(SyntaxError::new(line, format!("a value was expected, not {other:?}"))),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut keys: HashSet<Box<str>> = HashSet::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth + 1)?;
            let (line, Value::Scalar { text, plain }) = (key.line, key.value) else {
                return Err(SyntaxError::new(key.line, "a key must be a plain word"));
            };
            if plain && &*text == "<<" {
                merge(node, &mut merged)?;
            } else if !keys.insert(text.clone()) {
                return Err(SyntaxError::new(line, format!("the key {text:?} stands here twice")));
            } else {
                entries.push(Entry { key: text, line, node });
            }
        }
        entries.extend(merged.into_iter().filter(|entry| keys.insert(entry.key.clone())));
        Ok(entries)
    }

    fn alias(&mut self, anchor: usize, line: u32, depth: usize) -> Result<Node, SyntaxError> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(SyntaxError::new(line, "an alias names an anchor that is not complete yet"));
        };
        self.aliased = self.aliased.saturating_add(node.size());
        if self.aliased > MAX_ALIASED_NODES {
            return Err(SyntaxError::new(
                line,
                format!("aliases expand to more than {MAX_ALIASED_NODES} values"),
            ));
        }
        if depth + node.depth() > MAX_DEPTH {
            return Err(SyntaxError::new(line, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Node { line, value: node.value.clone() })
    }
}

/// Takes over the entries of a merged mapping (or a list of them); the first one to name a key wins.
fn merge(node: Node, into: &mut Vec<Entry>) -> Result<(), SyntaxError> {
    match node.value {
        Value::Map(entries) => into.extend(entries),
        Value::List(items) => {
            for item in items {
                merge(item, into)?;
            }
        }
        Value::Scalar { .. } => {
            return Err(SyntaxError::new(node.line, "<< merges a mapping, not a single value"));
        }
    }
    Ok(())
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value {
    Value::Scalar { text: text.into(), plain: style == ScalarStyle::Plain }
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
