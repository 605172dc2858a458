//! From the text of a file to checked objects.
//!
//! Everything that can be said about an object without looking at others is said here: its kind and version, its
//! metadata, unknown fields, values out of range, and what the mesh does not enforce yet. An object with an error is
//! not handed on; its findings are.

mod authentication;
mod authorization;
mod base64;
mod fault;
mod kinds;
mod kubernetes;
mod matches;
mod resilience;
mod retry;
mod telemetry;
mod tls;
mod traffic;
mod values;
mod virtual_service;

use std::sync::Arc;

use pillion_policy::{cluster::Labels, name::Label};

use crate::{
    api::{self, Fields, META_FIELDS, ObjectMeta, read, vocabulary},
    naming::Naming,
    object::{Key, Kind, Object, Origin, Stored},
    problem::{Finding, Problem, Report, unknown},
    yaml::{self, Node, SyntaxError, Value},
};

use self::kinds::Reading;

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// One object of a file, as far as it could be read.
#[derive(Debug)]
pub(crate) struct Document {
    /// What it is called; nothing when not even that could be read.
    pub(crate) key: Option<Key>,
    /// The object, when it has no error.
    pub(crate) object: Option<Arc<Stored>>,
    /// Why there is none, or what is to be said about an object the mesh does not read.
    pub(crate) problems: Vec<Problem>,
    /// Whether the mesh reads objects of this kind, as far as one can tell.
    pub(crate) relevant: bool,
}

/// Reads every object of a file.
pub(crate) fn read_file(file: &str, text: &str, naming: &Naming) -> Result<Vec<Document>, Box<Problem>> {
    let nodes = yaml::parse(text).map_err(|SyntaxError { line, reason }| {
        Box::new(Problem {
            severity: crate::problem::Severity::Error,
            object: String::new(),
            file: file.to_owned(),
            line,
            path: String::new(),
            reason: format!("not valid YAML: {reason}"),
        })
    })?;
    let file: Arc<str> = file.into();
    let mut documents = Vec::with_capacity(nodes.len());
    for node in nodes {
        match items(node) {
            Ok(items) => documents.extend(items.into_iter().map(|item| read_object(&file, item, naming))),
            Err(node) => documents.push(read_object(&file, node, naming)),
        }
    }
    Ok(documents)
}

/// The items of a `List`, which `kubectl get -o yaml` writes, or of a `ServiceList` and the like, which an API answers.
fn items(mut node: Node) -> Result<Vec<Node>, Node> {
    let listed = node.get("kind").and_then(Node::text).and_then(|kind| kind.strip_suffix("List"));
    let is_list = listed.is_some_and(|listed| listed.is_empty() || kinds::is_known(listed));
    if !is_list || !matches!(node.get("items").map(|items| &items.value), Some(Value::List(_))) {
        return Err(node);
    }
    let kind = listed.filter(|listed| !listed.is_empty()).map(str::to_owned);
    let version = node.get("apiVersion").and_then(Node::text).map(str::to_owned);
    let Value::Map(entries) = &mut node.value else { return Err(node) };
    let items = entries.iter_mut().find(|entry| &*entry.key == "items").map(|entry| &mut entry.node.value);
    let mut items = match items {
        Some(Value::List(items)) => std::mem::take(items),
        _ => Vec::new(),
    };
    if let (Some(kind), Some(version)) = (kind, version) {
        // There the items leave out what the list says.
        items.iter_mut().for_each(|item| {
            item.add_if_absent("apiVersion", &version);
            item.add_if_absent("kind", &kind);
        });
    }
    Ok(items)
}

fn read_object(file: &Arc<str>, node: Node, naming: &Naming) -> Document {
    let mut report = Report::default();
    let reading = kinds::identify(&node, &mut report);
    match reading {
        Reading::Mesh(kind) if kind.is_policy() => {
            only("apiVersion kind metadata spec status", &node, &mut report);
            if let Some(meta) = node.get("metadata") {
                report.field("metadata", |report| only(META_FIELDS, meta, report));
            }
        }
        Reading::Mesh(_) | Reading::Workload => vocabulary::check(&node, &mut report),
        Reading::Foreign | Reading::Nothing => {}
    }
    let (key, meta) = match identity(&node, &reading, &mut report) {
        Some((key, meta)) => (Some(key), meta),
        None => (None, ObjectMeta::default()),
    };
    let object = match &reading {
        Reading::Mesh(kind) => {
            // An object whose name cannot be told is judged all the same.
            let key = key.clone().or_else(|| nameless(*kind));
            key.and_then(|key| read_kind(*kind, &node, &meta, &key, naming, &mut report))
        }
        Reading::Workload | Reading::Foreign | Reading::Nothing => None,
    };
    let broken = report.has_errors();
    let name = match &key {
        Some(key) => key.to_string(),
        None => describe(&node),
    };
    let problems = place(report.into_findings(), &name, file, &node);
    let relevant = !matches!(reading, Reading::Foreign | Reading::Workload);
    let (Some(key), Some(object), false) = (key.clone(), object, broken) else {
        return Document { key, object: None, problems, relevant };
    };
    let keeps_lines = key.kind.is_policy();
    let stored = Stored {
        origin: Origin { file: file.clone(), line: node.line, document: keeps_lines.then(|| Arc::new(node)) },
        created: meta.creation_timestamp,
        labels: labels(&meta.labels),
        key: key.clone(),
        object,
        notes: problems,
    };
    Document { key: Some(key), object: Some(Arc::new(stored)), problems: Vec::new(), relevant }
}

/// Reports every key that is not among the known ones.
fn only(known: &str, node: &Node, report: &mut Report) {
    if let Value::Map(entries) = &node.value {
        for entry in entries.iter().filter(|entry| known.split_whitespace().all(|word| *word != *entry.key)) {
            report.field(&entry.key, |report| {
                report.error(unknown("field", &entry.key, known.split_whitespace()));
            });
        }
    }
}

/// The name of an object whose metadata or kind is not what it should be, for messages.
fn describe(node: &Node) -> String {
    let text = |node: Option<&Node>| node.and_then(Node::text).unwrap_or_default().to_owned();
    let meta = node.get("metadata");
    let namespace = text(meta.and_then(|meta| meta.get("namespace")));
    let name = text(meta.and_then(|meta| meta.get("name")));
    let kind = text(node.get("kind"));
    match (kind.is_empty(), name.is_empty()) {
        (true, true) => String::new(),
        (_, true) => kind,
        _ if namespace.is_empty() => format!("{kind} {DEFAULT_NAMESPACE}/{name}"),
        _ => format!("{kind} {namespace}/{name}"),
    }
}

/// Reads the metadata; the key is nothing when the name cannot be told or the mesh does not read the kind.
fn identity(node: &Node, reading: &Reading, report: &mut Report) -> Option<(Key, ObjectMeta)> {
    let kind = match reading {
        Reading::Mesh(kind) => Some(*kind),
        Reading::Workload => None,
        Reading::Foreign | Reading::Nothing => return None,
    };
    let Some(meta) = node.get("metadata") else {
        report.error("metadata is missing");
        return None;
    };
    report.field("metadata", |report| {
        let meta: ObjectMeta = read(meta, Fields::Some, report)?;
        let name = report.field("name", |report| match meta.name.as_str() {
            "" => {
                report.error("the object has no name");
                None
            }
            name => report.accept(Label::new(name)),
        })?;
        let namespace = meta.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let namespace = report
            .field("namespace", |report| report.accept(Label::new(namespace.unwrap_or(DEFAULT_NAMESPACE))))?;
        Some((Key { kind: kind?, namespace, name }, meta))
    })
}

fn nameless(kind: Kind) -> Option<Key> {
    Some(Key { kind, namespace: Label::new(DEFAULT_NAMESPACE).ok()?, name: Label::new("nameless").ok()? })
}

fn read_kind(
    kind: Kind,
    node: &Node,
    meta: &ObjectMeta,
    key: &Key,
    naming: &Naming,
    report: &mut Report,
) -> Option<Object> {
    match kind {
        Kind::Service => read::<api::Service>(node, Fields::Some, report)
            .and_then(|service| kubernetes::service(service, report))
            .map(Object::Service),
        Kind::EndpointSlice => read(node, Fields::Some, report)
            .and_then(|slice| kubernetes::endpoint_slice(slice, meta, report))
            .map(Object::EndpointSlice),
        Kind::Pod => read(node, Fields::Some, report)
            .and_then(|pod| kubernetes::pod(pod, meta, report))
            .map(Object::Pod),
        Kind::VirtualService => read_spec(node, report)
            .and_then(|spec| report.field("spec", |report| virtual_service::read(&spec, key, naming, report)))
            .map(Object::VirtualService),
        Kind::DestinationRule => read_spec(node, report)
            .and_then(|spec| report.field("spec", |report| traffic::read(&spec, key, naming, report)))
            .map(Box::new)
            .map(Object::DestinationRule),
        Kind::ResiliencePolicy => read_spec(node, report)
            .map(|spec| report.field("spec", |report| resilience::read(&spec, key, report)))
            .map(Box::new)
            .map(Object::ResiliencePolicy),
        Kind::PeerAuthentication => read_spec(node, report)
            .map(|spec| report.field("spec", |report| authentication::peer(&spec, key, report)))
            .map(Object::PeerAuthentication),
        Kind::RequestAuthentication => read_spec(node, report)
            .map(|spec| report.field("spec", |report| authentication::request(&spec, report)))
            .map(Object::RequestAuthentication),
        Kind::AuthorizationPolicy => read_spec(node, report)
            .map(|spec| {
                let is_trial = authorization::is_trial(&spec, meta, report);
                report.field("spec", |report| authorization::read(&spec, key, is_trial, report))
            })
            .map(Box::new)
            .map(Object::AuthorizationPolicy),
        Kind::Telemetry => read_spec(node, report)
            .map(|spec| report.field("spec", |report| telemetry::read(&spec, key, report)))
            .map(Box::new)
            .map(Object::Telemetry),
    }
}

fn read_spec<T: serde::de::DeserializeOwned>(node: &Node, report: &mut Report) -> Option<T> {
    match node.get("spec") {
        Some(spec) => report.field("spec", |report| read(spec, Fields::All, report)),
        None => {
            report.error("spec is missing");
            None
        }
    }
}

fn labels(labels: &std::collections::BTreeMap<String, String>) -> Labels {
    labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

fn place(findings: Vec<Finding>, object: &str, file: &str, document: &Node) -> Vec<Problem> {
    findings
        .into_iter()
        .map(|finding| Problem {
            severity: finding.severity,
            object: object.to_owned(),
            file: file.to_owned(),
            line: finding.path.line_in(document),
            path: finding.path.to_string(),
            reason: finding.reason,
        })
        .collect()
}

#[cfg(test)]
mod tests;
