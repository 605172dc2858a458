//! How hosts are named: short names, fully qualified ones, wildcards.
//!
//! Rules resolve a short name in their own namespace, clients in theirs. A name with dots is taken as it is, except
//! that `name.namespace.svc` gets the cluster's domain.

use std::{fmt, sync::Arc};

use pillion_policy::{
    Invalid,
    name::{Hostname, Label},
};

/// The namespaces whose policies are for everybody: Istio's, and Pillion's own.
pub(crate) const ROOT_NAMESPACES: [&str; 2] = ["istio-system", "pillion-system"];

/// Whether policies of the namespace are for everybody.
pub(crate) fn is_root(namespace: &Label) -> bool {
    ROOT_NAMESPACES.contains(&namespace.as_str())
}

/// Knows the cluster's DNS domain.
#[derive(Debug, Clone)]
pub(crate) struct Naming {
    domain: Arc<str>,
}

impl Naming {
    /// Names for a cluster whose services live below `svc.{domain}`.
    pub(crate) fn new(domain: &Hostname) -> Self {
        Self { domain: domain.as_str().into() }
    }

    /// The fully qualified name of a service.
    pub(crate) fn service(&self, namespace: &str, name: &str) -> Result<Hostname, Invalid> {
        Hostname::new(&format!("{name}.{namespace}.svc.{}", self.domain))
    }

    /// The host a name means in `namespace`.
    pub(crate) fn qualify(&self, host: &str, namespace: &str) -> Result<Hostname, Invalid> {
        let host = Hostname::new(host)?;
        let text = host.as_str();
        if text.parse::<std::net::IpAddr>().is_ok() {
            return Ok(host);
        }
        if text.contains(':') {
            return Err(Invalid::new(format!("host {text:?} is not a host: a port does not belong here")));
        }
        if text.split('.').any(str::is_empty) {
            return Err(Invalid::new(format!("host {text:?} is not a host: a part between dots is empty")));
        }
        let labels = text.split('.').count();
        match labels {
            1 => self.service(namespace, text),
            3 if text.ends_with(".svc") => Hostname::new(&format!("{text}.{}", self.domain)),
            _ => Ok(host),
        }
    }

    /// Whether a qualified host is one that only a service of this cluster can have.
    pub(crate) fn is_of_cluster(&self, host: &Hostname) -> bool {
        host.as_str().strip_suffix(&*self.domain).is_some_and(|rest| rest.ends_with(".svc."))
    }

    /// The namespace and name of the service a qualified host names; for `a.b` the service `a` in namespace `b`,
    /// which may not exist.
    pub(crate) fn service_of<'a>(&self, host: &'a str) -> Option<(&'a str, &'a str)> {
        let (name, rest) = host.split_once('.')?;
        let (namespace, suffix) = rest.split_once('.').unwrap_or((rest, ""));
        let ours = suffix.is_empty() || suffix.strip_prefix("svc.") == Some(&*self.domain);
        (ours && !name.is_empty() && !namespace.is_empty()).then_some((namespace, name))
    }
}

/// The hosts a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HostPattern {
    /// One host, qualified.
    Exact(Hostname),
    /// Every host that ends in this text, as `.example.com`; empty for every host.
    Suffix(Arc<str>),
}

impl HostPattern {
    /// Reads a rule's host: a name, `*.suffix` or `*`.
    pub(crate) fn new(host: &str, namespace: &str, naming: &Naming) -> Result<Self, Invalid> {
        match host.strip_prefix('*') {
            None => naming.qualify(host, namespace).map(Self::Exact),
            Some("") => Ok(Self::Suffix("".into())),
            Some(suffix) => match suffix.strip_prefix('.').map(Hostname::new) {
                Some(Ok(rest)) => Ok(Self::Suffix(format!(".{rest}").into())),
                Some(Err(_)) | None => {
                    Err(Invalid::new(format!("{host:?} is not a host: a wildcard is * or *.suffix")))
                }
            },
        }
    }

    /// How closely the pattern describes `host`: longer suffixes more, the name itself most.
    pub(crate) fn closeness(&self, host: &str) -> Option<usize> {
        match self {
            Self::Exact(name) => (name.as_str() == host).then_some(usize::MAX),
            Self::Suffix(suffix) => {
                (host.len() > suffix.len() && host.ends_with(&**suffix)).then_some(suffix.len())
            }
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => write!(f, "{host}"),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// Which namespaces see a rule (`exportTo`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Exported {
    /// All of them.
    #[default]
    Everywhere,
    /// These; none at all when the list is empty.
    To(Vec<Label>),
}

impl Exported {
    /// Reads `exportTo`: `*` for all, `.` for the rule's own namespace, `~` for none, else names.
    pub(crate) fn new(export_to: &[String], namespace: &Label) -> Result<Self, Invalid> {
        if export_to.is_empty() || export_to.iter().any(|entry| entry == "*") {
            return Ok(Self::Everywhere);
        }
        let mut namespaces = Vec::new();
        for (index, entry) in export_to.iter().enumerate() {
            match entry.as_str() {
                "." => namespaces.push(namespace.clone()),
                "~" => {}
                name => namespaces.push(Label::new(name).map_err(|invalid| invalid.at_index(index))?),
            }
        }
        Ok(Self::To(namespaces))
    }

    /// Whether some client may see both rules.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Everywhere, Self::Everywhere) => true,
            (Self::Everywhere, Self::To(some)) | (Self::To(some), Self::Everywhere) => !some.is_empty(),
            (Self::To(some), Self::To(_)) => some.iter().any(|entry| other.reaches(entry.as_str())),
        }
    }

    /// Whether clients in `namespace` see the rule.
    pub(crate) fn reaches(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::To(namespaces) => namespaces.iter().any(|entry| entry.as_str() == namespace),
        }
    }
}

#[cfg(test)]
mod tests;
