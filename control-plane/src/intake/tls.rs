//! How connections to a host are secured: `trafficPolicy.tls` of a DestinationRule.
//!
//! Files that it names are those of the proxies; whether they are there is not known here. A field that the mode does
//! not have is a mistake where leaving it out would leave less than was asked for, else it is remarked upon.

use pillion_policy::{
    cluster::{CertificateFiles, ClusterTls, Origination},
    identity::Identity,
    name::Hostname,
};

use crate::{
    api::{ClientTls, TlsMode},
    problem::Report,
};

/// Reads how connections are secured; absent is left to the next wider policy.
pub(super) fn read(given: Option<&ClientTls>, report: &mut Report) -> Option<ClusterTls> {
    let given = given?;
    report.field("tls", |report| match given.mode {
        None => {
            report.field("mode", |report| report.warn("it is DISABLE, plain text, unless it is given"));
            disable(given, report);
            Some(ClusterTls::Disable)
        }
        Some(TlsMode::Disable) => {
            disable(given, report);
            Some(ClusterTls::Disable)
        }
        Some(TlsMode::IstioMutual) => {
            refuse_certificates("ISTIO_MUTUAL has those of the mesh", given, report);
            if skips(given) {
                let reason = "not possible with ISTIO_MUTUAL: identities are verified";
                report.field("insecureSkipVerify", |report| report.error(reason));
            }
            if text(&given.sni).is_some() {
                report.field("sni", |report| report.warn("has no effect with ISTIO_MUTUAL"));
            }
            identities(given, report).map(ClusterTls::Mutual)
        }
        Some(mode @ (TlsMode::Simple | TlsMode::Mutual)) => {
            originate(given, mode, report).map(Box::new).map(ClusterTls::Originate)
        }
    })
}

fn text(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|value| !value.is_empty())
}

fn skips(given: &ClientTls) -> bool {
    given.insecure_skip_verify == Some(true)
}

fn disable(given: &ClientTls, report: &mut Report) {
    refuse_certificates("DISABLE has none", given, report);
    for (field, given) in [
        ("sni", text(&given.sni).is_some()),
        ("subjectAltNames", !given.subject_alt_names.is_empty()),
        ("insecureSkipVerify", skips(given)),
    ] {
        if given {
            report.field(field, |report| report.warn("has no effect with DISABLE"));
        }
    }
}

fn refuse_certificates(reason: &str, given: &ClientTls, report: &mut Report) {
    for (field, value) in [
        ("clientCertificate", &given.client_certificate),
        ("privateKey", &given.private_key),
        ("caCertificates", &given.ca_certificates),
    ] {
        if text(value).is_some() {
            report.field(field, |report| report.error(format!("no certificate can be given: {reason}")));
        }
    }
}

/// The identities of the mesh that endpoints may prove.
fn identities(given: &ClientTls, report: &mut Report) -> Option<Vec<Identity>> {
    report.field("subjectAltNames", |report| {
        let names = given.subject_alt_names.iter().enumerate();
        names.map(|(index, name)| report.item(index, |report| report.accept(name.parse()))).collect()
    })
}

/// TLS as any other client speaks it.
fn originate(given: &ClientTls, mode: TlsMode, report: &mut Report) -> Option<Origination> {
    let client_certificate = match (text(&given.client_certificate), text(&given.private_key)) {
        (Some(chain), Some(key)) if mode == TlsMode::Mutual => {
            Some(CertificateFiles { chain: chain.to_owned(), key: key.to_owned() })
        }
        _ if mode == TlsMode::Mutual => {
            report.error("MUTUAL needs clientCertificate and privateKey");
            None
        }
        (None, None) => None,
        (chain, _) => {
            let field = if chain.is_some() { "clientCertificate" } else { "privateKey" };
            report.field(field, |report| report.error("SIMPLE shows no certificate: that is MUTUAL"));
            None
        }
    };
    let names = &given.subject_alt_names;
    report.field("subjectAltNames", |report| {
        for (index, _) in names.iter().enumerate().filter(|(_, name)| name.is_empty()) {
            report.item(index, |report| report.error("is empty"));
        }
    });
    if skips(given) && (text(&given.ca_certificates).is_some() || !names.is_empty()) {
        report.field("insecureSkipVerify", |report| {
            report.error("cannot stand beside caCertificates or subjectAltNames, which it would not look at");
        });
    }
    let sni = match text(&given.sni) {
        Some(sni) => Some(report.field("sni", |report| report.accept(Hostname::new(sni)))?),
        None => None,
    };
    Some(Origination {
        client_certificate,
        roots: text(&given.ca_certificates).map(str::to_owned),
        sni,
        subject_alt_names: names.clone(),
        insecure_skip_verify: skips(given),
    })
}

#[cfg(test)]
mod tests;
